"""The domain record and its XML are inverse of each other, and the XML is the one that was reviewed."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.destinations.libvirt_xml import (
    DISK_TARGETS,
    DiskSpec,
    DomainSpec,
    DomainType,
    NetworkAttach,
    NicSpec,
    device_letters,
    parse_domain,
    render_domain,
)
from refloat.errors import Refused
from refloat.lab.source_domain import render_source
from refloat.model import DiskBus, Firmware, NicModel

GOLDEN = Path(__file__).parent / "golden"

CONTROLLER = DomainSpec(
    name="rf-web",
    uuid="11111111-2222-4333-8444-555555555555",
    type=DomainType.QEMU,
    cpus=2,
    memory=1 << 30,
    role="controller",
    disks=(
        DiskSpec("rf-controller", "/pool/web.raw", "raw"),
        DiskSpec("rf-r0", "/pool/web-0.raw.j1.qcow2", "qcow2"),
        DiskSpec("rf-r1", "/pool/web-1.raw", "raw", DiskBus.VIRTIO_SCSI),
    ),
    nics=(
        NicSpec("52:54:00:00:00:01", "management", NetworkAttach.user("10.20.30.0/24")),
        NicSpec("52:54:00:00:00:02", "production", NetworkAttach.bridge("br0")),
    ),
)
CLOSED = replace(
    CONTROLLER,
    firmware=Firmware.UEFI,
    nics=(NicSpec("52:54:00:00:00:02", "test", NetworkAttach.user("10.20.40.0/24", restrict=True)),),
    labels=(("merging", "j1"),),
)

words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=12)
macs = st.binary(min_size=5, max_size=5).map(lambda tail: "52:" + ":".join(f"{byte:02x}" for byte in tail))
subnets = st.integers(0, 255).map(lambda third: f"10.20.{third}.0/24")
attachments = st.one_of(
    st.builds(lambda subnet, closed: NetworkAttach.user(subnet, restrict=closed), subnets, st.booleans()),
    words.map(NetworkAttach.network),
    words.map(NetworkAttach.bridge),
)
nics = st.lists(
    st.builds(NicSpec, macs, words, attachments, st.sampled_from(NicModel)),
    max_size=4,
    unique_by=lambda nic: nic.mac,
)
disks = st.lists(
    st.builds(
        DiskSpec, words, words, st.sampled_from(("raw", "qcow2")), st.sampled_from(sorted(DISK_TARGETS))
    ),
    max_size=30,
)
specs = st.builds(
    DomainSpec,
    name=words,
    uuid=st.uuids().map(str),
    type=st.sampled_from(DomainType),
    cpus=st.integers(1, 64),
    memory=st.integers(1, 1 << 20).map(lambda mib: mib << 20),
    role=words,
    firmware=st.sampled_from(Firmware),
    machine=st.sampled_from(("q35", "pc-q35-7.2")),
    cpu_model=st.sampled_from(("qemu64", "host-model", "host-passthrough")),
    disks=disks.map(tuple),
    nics=nics.map(tuple),
    labels=st.lists(st.tuples(words, words), max_size=3).map(tuple),
    clock_utc=st.booleans(),
)


@given(specs)
def test_parse_is_the_inverse_of_render(spec: DomainSpec) -> None:
    assert parse_domain(render_domain(spec)) == spec


@pytest.mark.parametrize(("name", "spec"), [("controller", CONTROLLER), ("closed", CLOSED)])
def test_golden(name: str, spec: DomainSpec) -> None:
    assert render_domain(spec) == (GOLDEN / f"{name}.xml").read_text()


def test_golden_source() -> None:
    xml = render_source(
        "lab-source", CONTROLLER.uuid, 768 << 20, 2, "/pool/sda.qcow2", "/pool/sdb.qcow2",
        "10.20.30.0/24", "00:50:56:aa:bb:cc", DomainType.QEMU,
    )  # fmt: skip
    assert xml == (GOLDEN / "source.xml").read_text()
    spec = parse_domain(xml)
    assert (spec.role, [disk.bus for disk in spec.disks]) == ("source", [DiskBus.PVSCSI] * 2)
    assert [nic.model for nic in spec.nics] == [NicModel.VMXNET3]
    assert "virtio" not in xml


def test_only_the_first_disk_boots() -> None:
    root = ET.fromstring(render_domain(CONTROLLER))
    booting = [disk.findtext("serial") for disk in root.iter("disk") if disk.find("boot") is not None]
    assert booting == ["rf-controller"]
    assert root.find("os/boot") is None


def test_no_disk_format_is_left_to_a_guess() -> None:
    root = ET.fromstring(render_domain(CONTROLLER))
    assert {driver.get("type") for driver in root.findall("devices/disk/driver")} == {"raw", "qcow2"}


def test_only_a_guest_that_asks_for_it_gets_local_time() -> None:
    clocks = [replace(CONTROLLER, clock_utc=utc) for utc in (True, False)]
    offsets = [ET.fromstring(render_domain(spec)).find("clock") for spec in clocks]
    assert [clock.get("offset") for clock in offsets if clock is not None] == ["utc", "localtime"]


def test_device_letters() -> None:
    assert [device_letters(number) for number in (0, 25, 26, 701, 702)] == ["a", "z", "aa", "zz", "aaa"]


def test_a_domain_of_others_has_no_role() -> None:
    xml = render_domain(CONTROLLER).replace("https://refloat.org/xmlns/1", "https://example.org/")
    assert parse_domain(xml).role == ""


@pytest.mark.parametrize(
    ("old", "new"), [('bus="virtio"', 'bus="ide"'), ('model type="virtio"', 'model type="rtl8139"'),
                     ('type="bridge"', 'type="direct"')]
)  # fmt: skip
def test_hardware_that_a_record_cannot_say_is_refused(old: str, new: str) -> None:
    xml = render_domain(CONTROLLER)
    assert old in xml
    with pytest.raises(Refused) as caught:
        parse_domain(xml.replace(old, new))
    assert caught.value.code == "unknown_hardware"


@pytest.mark.parametrize(
    "make",
    [
        lambda: NetworkAttach.user("not-a-subnet"),
        lambda: NetworkAttach.bridge(""),
        lambda: replace(NetworkAttach.bridge("br0"), restrict=True),
        lambda: replace(CONTROLLER, memory=1000),
        lambda: replace(CONTROLLER, cpus=0, uuid=str(uuid.uuid4())),
    ],
)
def test_records_that_make_no_sense(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError):
        make()
