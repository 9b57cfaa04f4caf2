"""Readers of live XML, monitor output, volume XML and pictures, on what libvirt 9.0 and QEMU 7.2 gave."""

from __future__ import annotations

import struct
import zlib

import libvirt
import pytest

from refloat.destinations.libvirt_console import png_from_ppm
from refloat.destinations.libvirt_live import (
    BlockJob,
    Forward,
    attached_paths,
    is_closed,
    parse_disks,
    parse_forwards,
    parse_nics,
)
from refloat.destinations.libvirt_volumes import parse_volume
from refloat.errors import Failed, NotFound, Unreachable
from refloat.libvirt_connection import translate

LIVE = """
<domain type='qemu' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <os><nvram>/nvram/vm_VARS.fd</nvram></os>
  <devices>
    <disk type='file' device='cdrom'><source file='/iso/tools.iso'/><target dev='sda' bus='sata'/></disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/pool/r0.raw.j1.qcow2' index='4'/>
      <backingStore type='file' index='2'>
        <format type='raw'/><source file='/pool/r0.raw'/><backingStore/>
      </backingStore>
      <mirror type='file' job='active-commit' ready='yes'><source file='/pool/r0.raw'/></mirror>
      <target dev='vda' bus='virtio'/><serial>rf-r0</serial>
    </disk>
    <interface type='user'>
      <mac address='52:54:00:00:00:0A'/><ip address='10.20.40.0' family='ipv4' prefix='24'/>
      <link state='down'/><alias name='ua-nic0'/>
    </interface>
    <interface type='bridge'><mac address='52:54:00:00:00:02'/><alias name='ua-nic1'/></interface>
  </devices>
  <qemu:override><qemu:device alias='ua-nic0'><qemu:frontend>
    <qemu:property name='netdev' type='string' value='closed-ua-nic0'/>
  </qemu:frontend></qemu:device></qemu:override>
</domain>
"""
USERNET = """Hub -1 (hostua-nic0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   20      10.20.40.5 40000     93.184.1.1    443     0     0
Hub -1 (closed-ua-nic0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  16       127.0.0.1 34568     10.20.40.40    22     0     0
"""
NETWORK = r"""hostua-nic0: index=0,type=user,net=10.20.40.0,restrict=off
ua-nic0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:0a
 \ closed-ua-nic0: index=0,type=user,net=10.20.40.0,restrict=on
"""


def test_disks() -> None:
    (disk,) = parse_disks(LIVE)
    assert (disk.target, disk.serial, disk.volume) == ("vda", "rf-r0", "/pool/r0.raw.j1.qcow2")
    assert disk.chain == ("/pool/r0.raw",)
    assert disk.job == BlockJob("active-commit", ready=True)


def test_everything_that_a_domain_holds_open_counts_as_attached() -> None:
    paths = {"/iso/tools.iso", "/pool/r0.raw.j1.qcow2", "/pool/r0.raw", "/nvram/vm_VARS.fd"}
    assert attached_paths(LIVE) == paths


def test_nics() -> None:
    closed, bridged = parse_nics(LIVE)
    assert (closed.mac, closed.netdev, closed.linked) == ("52:54:00:00:00:0a", "closed-ua-nic0", False)
    assert str(closed.subnet) == "10.20.40.0/24"
    assert (bridged.netdev, bridged.linked, bridged.subnet) == ("hostua-nic1", True, None)


def test_forwards() -> None:
    assert parse_forwards(USERNET) == (Forward("closed-ua-nic0", 34568, "10.20.40.40", 22),)


def test_a_closed_segment_must_be_seen_to_be_believed() -> None:
    nic = parse_nics(LIVE)[0]
    assert is_closed(NETWORK, nic)
    assert not is_closed(NETWORK.replace("restrict=on", "restrict=off"), nic)
    assert not is_closed(NETWORK.replace(r"\ closed-", r"\ host"), nic)
    assert not is_closed("", nic)


@pytest.mark.parametrize(
    ("capacity", "physical", "written"),
    [
        (8 << 20, 196624, 0),  # as libvirt creates it
        (8 << 20, 393216, 131072),  # one L2 table and one cluster
        (1 << 40, 262144, 0),
        (8 << 40, 3 * 65536 + 131072, 0),  # the L1 table of 8 TiB takes two clusters
    ],
)
def test_what_a_layer_holds(capacity: int, physical: int, written: int) -> None:
    volume = parse_volume(
        f"<volume><capacity unit='bytes'>{capacity}</capacity><physical unit='bytes'>{physical}</physical>"
        "<target><path>/pool/a.qcow2</path><format type='qcow2'/><timestamps><mtime>17.5</mtime></timestamps>"
        "</target><backingStore><path>/pool/a</path><format type='raw'/></backingStore></volume>"
    )
    assert volume.written == written
    assert (volume.backing, volume.backing_format, volume.stamp) == ("/pool/a", "raw", "17.5")


def test_ppm_becomes_png() -> None:
    pixels = bytes(range(18))
    png = png_from_ppm(b"P6\n3 2\n255\n" + pixels)
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND" + struct.pack(">I", 0xAE426082))
    start = png.index(b"IDAT") + 4
    length = struct.unpack(">I", png[start - 8 : start - 4])[0]
    rows = zlib.decompress(png[start : start + length])
    assert rows == b"\0" + pixels[:9] + b"\0" + pixels[9:]


def test_what_is_no_picture_is_an_error() -> None:
    with pytest.raises(Failed):
        png_from_ppm(b"GIF89a")


@pytest.mark.parametrize(
    ("code", "domain", "kind"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, 10, NotFound),
        (libvirt.VIR_ERR_RPC, 10, Unreachable),
        (38, libvirt.VIR_FROM_RPC, Unreachable),  # "Failed to connect socket": a system error of the client
        (libvirt.VIR_ERR_OPERATION_INVALID, 10, Failed),
    ],
)
def test_errors(code: int, domain: int, kind: type[Exception]) -> None:
    error = libvirt.libvirtError("said")
    error.err = (code, domain, "said by libvirt", 2, None, None, None, -1, -1)  # type: ignore[attr-defined]
    translated = translate(error, "start vm1")
    assert type(translated) is kind
    assert "start vm1: said by libvirt" in translated.message
    assert translated.hint
