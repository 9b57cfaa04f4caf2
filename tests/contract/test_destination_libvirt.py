"""What only libvirt has: kills between two calls, leftovers, the closed segment, the lab's source VM."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import libvirt
import pytest

from refloat.console import read_lines
from refloat.console_png import read_png
from refloat.console_states import recognise
from refloat.destinations.libvirt import LibvirtDestination, usable_domain_type
from refloat.destinations.libvirt_domains import Domains
from refloat.destinations.libvirt_layers import Layers, layer_path
from refloat.destinations.libvirt_live import is_closed, parse_disks, parse_nics
from refloat.destinations.libvirt_volumes import VolumePool
from refloat.destinations.libvirt_xml import DiskSpec, DomainType
from refloat.errors import Refused, Unreachable
from refloat.guest.linux.cpu import level_of, missing
from refloat.lab.source_domain import render_source
from refloat.libvirt_connection import Connection
from refloat.model import AttachedNic, Firmware, PowerState, ProbeKind
from refloat.policy import Probe
from refloat.probes import ask_once
from tests.contract.destination_rigs import URI, LibvirtRig, libvirt_missing, libvirt_pool, qemu_img

REPLICAS = ("r0", "r1")


class HubKilledError(Exception):
    """The hub dies here."""


@pytest.fixture(scope="module")
def storage() -> Iterator[tuple[Path, str]]:
    reason = libvirt_missing()
    if reason:
        pytest.skip(reason)
    with libvirt_pool() as pool:
        yield pool


@pytest.fixture
def rig(storage: tuple[Path, str]) -> Iterator[LibvirtRig]:
    made = LibvirtRig(*storage)
    try:
        yield made
    finally:
        made.close()


def die_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, after: bool = False) -> None:
    """The first call of this method kills the hub, before or after it has acted; later ones work."""
    original = getattr(owner, name)

    def once(*args: object, **kwargs: object) -> object:
        monkeypatch.setattr(owner, name, original)
        if after:
            original(*args, **kwargs)
        raise HubKilledError

    monkeypatch.setattr(owner, name, once)


def volumes_of(rig: LibvirtRig) -> list[str]:
    return [disk.volume for disk in rig.destination.hardware(rig.vm).disks]


def test_leftover_layers_of_a_killed_run_are_made_anew(rig: LibvirtRig) -> None:
    leftover = layer_path(rig.disks[1].volume, "job1")
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", rig.disks[1].volume, leftover)
    Path(leftover).write_bytes(Path(leftover).read_bytes() + b"old" * 100_000)
    rig.destination.start(rig.vm)
    assert [point.written for point in rig.destination.snapshot(rig.vm, REPLICAS, "job1")] == [0, 0]


@pytest.mark.parametrize(("owner", "name", "after"), [
    (VolumePool, "create_layer", True), (Domains, "define", False), (Domains, "define", True),
])  # fmt: skip
def test_snapshot_killed(
    rig: LibvirtRig, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, after: bool
) -> None:
    die_at(monkeypatch, owner, name, after)
    with pytest.raises(HubKilledError):
        rig.destination.snapshot(rig.vm, REPLICAS, "job1")
    points = rig.destination.snapshot(rig.vm, REPLICAS, "job1")
    assert [point.serial for point in points] == list(REPLICAS)


@pytest.mark.parametrize(("owner", "name", "after"), [
    (Domains, "define", False), (Domains, "define", True), (VolumePool, "delete", False),
])  # fmt: skip
def test_revert_killed(
    rig: LibvirtRig, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, after: bool
) -> None:
    before = [rig.content(disk.volume) for disk in rig.disks]
    rig.destination.snapshot(rig.vm, REPLICAS, "job1")
    rig.guest_writes("r0", 7)
    die_at(monkeypatch, owner, name, after)
    with pytest.raises(HubKilledError):
        rig.destination.revert(rig.vm, "job1")
    rig.destination.revert(rig.vm, "job1")
    assert [rig.content(disk.volume) for disk in rig.disks] == before
    assert rig.volumes() == {disk.volume for disk in rig.disks}


@pytest.mark.parametrize(("owner", "name", "after"), [
    (Domains, "start_paused", False),  # only the label is written
    (Domains, "start_paused", True),
    (Layers, "_commit", True),  # one of two disks has pivoted
    (Domains, "stop", False),  # all have pivoted, QEMU still runs
    (VolumePool, "delete", False),
])  # fmt: skip
def test_merge_of_a_vm_that_is_off_killed(
    rig: LibvirtRig, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, after: bool
) -> None:
    rig.destination.snapshot(rig.vm, REPLICAS, "job1")
    rig.guest_writes("r0", 7)
    die_at(monkeypatch, owner, name, after)
    with pytest.raises(HubKilledError):
        rig.destination.merge(rig.vm, "job1")
    assert rig.destination.power_state(rig.vm) is not PowerState.RUNNING
    rig.destination.merge(rig.vm, "job1")
    assert rig.destination.power_state(rig.vm) is PowerState.OFF
    assert volumes_of(rig) == [disk.volume for disk in rig.disks]
    assert rig.volumes() == {disk.volume for disk in rig.disks}
    assert Path(rig.disks[1].volume).read_bytes()[1 << 20 :][: 64 << 10] == b"\7" * (64 << 10)
    assert rig.domains.spec(rig.domains.lookup(rig.vm)).labels == ()


def test_a_merge_joins_the_job_of_a_killed_one(rig: LibvirtRig) -> None:
    rig.destination.start(rig.vm)
    rig.destination.snapshot(rig.vm, REPLICAS, "job1")
    domain = rig.domains.lookup(rig.vm)
    disk = parse_disks(rig.domains.xml(domain))[1]
    domain.blockCommit(disk.target, disk.chain[0], None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
    rig.destination.merge(rig.vm, "job1")
    assert volumes_of(rig) == [disk.volume for disk in rig.disks]
    assert rig.destination.power_state(rig.vm) is PowerState.RUNNING


@pytest.mark.parametrize(
    ("model", "level", "lacks"),
    [
        ("qemu64", 1, ("popcnt", "sse4_2", "ssse3")),
        ("Nehalem", 2, ("abm", "avx")),
        # libvirt's own Haswell has neither abm nor f16c: only QEMU knows that its own has.
        ("Haswell", 3, ("avx512f",)),
    ],
)
def test_the_level_of_a_processor_is_that_of_qemu(
    rig: LibvirtRig, model: str, level: int, lacks: tuple[str, ...]
) -> None:
    rig.domains.define(replace(rig.spec, cpu_model=model))
    assert rig.destination.cpu_flags(rig.vm) is None, "off: nobody has asked QEMU"
    rig.destination.start(rig.vm)
    flags = rig.destination.cpu_flags(rig.vm)
    assert flags is not None and level_of(flags) == level
    assert set(lacks) <= set(missing(4, flags))


def test_a_processor_like_the_hosts_is_known(rig: LibvirtRig) -> None:
    rig.domains.define(replace(rig.spec, cpu_model="host-model"))
    rig.destination.start(rig.vm)
    flags = rig.destination.cpu_flags(rig.vm)
    assert flags is not None and level_of(flags) >= 1


def test_a_domain_of_others_is_never_redefined(rig: LibvirtRig) -> None:
    domain = rig.domains.lookup(rig.vm)
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).replace("https://refloat.org/xmlns/1", "urn:other")
    Connection(URI).get().defineXML(xml)
    for verb in (
        lambda: rig.destination.set_compute(rig.vm, 2, 64 << 20),
        lambda: rig.destination.snapshot(rig.vm, REPLICAS, "job1"),
        lambda: rig.destination.destroy(rig.vm),
    ):
        with pytest.raises(Refused) as caught:
            verb()
        assert caught.value.code == "not_ours"
    rig.domains.define(rig.spec)


def test_a_raw_volume_stays_raw_whatever_the_guest_writes_into_it(rig: LibvirtRig) -> None:
    """libvirt's pool guesses formats from content: a guest could name any file of the host as backing."""
    replica = rig.disks[1]
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/hostname", replica.volume, "4M")
    rig.destination.set_disks(rig.vm, rig.disks[:1])
    rig.destination.set_disks(rig.vm, rig.disks)
    point = rig.destination.snapshot(rig.vm, ("r0",), "job1")[0]
    assert point.base == replica.volume
    rig.destination.start(rig.vm)
    disk = parse_disks(rig.domains.xml(rig.domains.lookup(rig.vm)))[1]
    assert disk.chain == (replica.volume,)


def test_the_closed_network_is_closed_before_the_guest_runs(rig: LibvirtRig) -> None:
    rig.destination.set_nics(rig.vm, [AttachedNic("52:54:00:00:00:02", "test")])
    rig.destination.start(rig.vm)
    domain = rig.domains.lookup(rig.vm)
    (nic,) = parse_nics(rig.domains.xml(domain))
    assert nic.closed and is_closed(rig.domains.hmp(domain, "info network"), nic)
    host, port = rig.destination.reach(rig.vm, "10.20.40.40", 22)
    assert host == "127.0.0.1" and port


def test_the_definition_survives_libvirt(rig: LibvirtRig) -> None:
    spec = rig.domains.spec(rig.domains.lookup(rig.vm))
    assert spec.machine.startswith("pc-q35")  # libvirt pins the machine's version
    assert spec.uuid == rig.spec.uuid
    rig.domains.define(spec)
    assert rig.domains.spec(rig.domains.lookup(rig.vm)) == spec


def test_without_a_pool_name_the_volumes_tell(rig: LibvirtRig) -> None:
    there = LibvirtDestination(URI, rig.networks)
    there.snapshot(rig.vm, REPLICAS, "job1")
    there.revert(rig.vm, "job1")
    there.set_disks(rig.vm, rig.disks[1:])
    there.delete_volume(rig.vm, rig.disks[0].volume)
    with pytest.raises(Refused):
        there.delete_volume(rig.vm, "/etc/hostname")
    assert there.free_bytes(rig.vm) > 0
    assert rig.volumes() == {disk.volume for disk in rig.disks[1:]}


@pytest.mark.parametrize("name", ["none", "wrong.img"])
def test_a_controller_disk_that_could_not_come_back_is_refused_before_it_is_parked(
    rig: LibvirtRig, name: str
) -> None:
    """A name that states no format, or another one: attached again as raw, a qcow2 disk would not boot."""
    ctl, *replicas = rig.disks
    named = rig.directory / f"{rig.vm}-{name}"
    qemu_img("convert", "-q", "-O", "qcow2", ctl.volume, str(named))
    disks = (DiskSpec("ctl", str(named), "qcow2"), *rig.spec.disks[1:])
    rig.destination.create(replace(rig.spec, disks=disks))
    before = rig.destination.hardware(rig.vm)
    for refused in (
        lambda: rig.destination.free_bytes(rig.vm),  # what preflight asks
        lambda: rig.destination.set_disks(rig.vm, replicas),
    ):
        with pytest.raises(Refused, match=f"ctl of VM {rig.vm} is qcow2") as caught:
            refused()
        assert caught.value.code == "unknown_format" and str(named) in caught.value.message
        assert caught.value.hint
    assert rig.destination.hardware(rig.vm) == before
    rig.destination.set_compute(rig.vm, 2, 96 << 20)  # it stays a VM like any other


def test_the_variables_of_an_earlier_uefi_go_with_the_vm(rig: LibvirtRig) -> None:
    rig.destination.set_firmware(rig.vm, Firmware.UEFI)
    rig.destination.start(rig.vm)
    variables = Path(f"/var/lib/libvirt/qemu/nvram/{rig.vm}_VARS.fd")
    assert variables.exists()
    rig.destination.stop(rig.vm, 0)
    rig.destination.set_firmware(rig.vm, Firmware.BIOS)
    rig.destination.destroy(rig.vm)
    assert not variables.exists()


def test_destroy_twice(rig: LibvirtRig) -> None:
    rig.destination.destroy(rig.vm)
    rig.destination.destroy(rig.vm)


def test_no_libvirt_is_unreachable() -> None:
    there = LibvirtDestination("qemu+unix:///system?socket=/nonexistent", {}, "none")
    with pytest.raises(Unreachable) as caught:
        there.power_state("vm")
    assert caught.value.hint


def test_a_dead_connection_is_opened_again(rig: LibvirtRig) -> None:
    """What a restart of libvirtd looks like from here: its end of the socket is closed."""
    rig.domains.lookup(rig.vm)
    assert cut_libvirt_sockets()
    assert rig.domains.power(rig.domains.lookup(rig.vm))[0] is PowerState.OFF


def cut_libvirt_sockets() -> int:
    cut = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            end = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue
        with end:
            if end.family == socket.AF_UNIX and "libvirt" in str(end.getpeername()):
                end.shutdown(socket.SHUT_RDWR)
                cut += 1
    return cut


def test_kvm_only_with_the_cpu_flag(storage: tuple[Path, str]) -> None:
    flags = Path("/proc/cpuinfo").read_text()
    if "vmx" not in flags and "svm" not in flags:
        assert usable_domain_type(Connection(URI).get()) is DomainType.QEMU


def test_the_labs_source_vm_has_vmware_hardware(rig: LibvirtRig) -> None:
    """pvscsi, vmxnet3 in slot 192, nothing virtio; checkpoints and pull backups work on it."""
    name = f"{rig.vm}-source"
    system, data = (str(rig.directory / f"{name}-{letter}.qcow2") for letter in "ab")
    for disk in (system, data):
        qemu_img("create", "-q", "-f", "qcow2", disk, "16M")
    xml = render_source(
        name=name,
        uuid=str(uuid.uuid4()),
        memory=64 << 20,
        cpus=1,
        system_disk=system,
        data_disk=data,
        subnet="10.20.30.0/24",
        mac="00:50:56:aa:bb:cc",
        domain_type=DomainType.QEMU,
    )
    Connection(URI).get().defineXML(xml)
    try:
        rig.destination.start(name)
        domain = rig.domains.lookup(name)
        tree = rig.domains.hmp(domain, "info qtree")
        assert "dev: pvscsi" in tree and "dev: vmxnet3" in tree and "virtio" not in tree
        assert "slot = 192" in tree
        check = "".join(f"<disk name='{dev}' checkpoint='bitmap'/>" for dev in ("sda", "sdb"))
        domain.checkpointCreateXML(
            f"<domaincheckpoint><name>c1</name><disks>{check}</disks></domaincheckpoint>"
        )
        domain.backupBegin(
            "<domainbackup mode='pull'><incremental>c1</incremental>"
            f"<server transport='unix' socket='/var/lib/libvirt/qemu/{name}.sock'/></domainbackup>",
            None,
        )
        domain.abortJob()
        rig.destination.stop(name, 0)
    finally:
        rig.destination.destroy(name)


def test_what_firmware_says_is_read_from_its_screen(rig: LibvirtRig) -> None:
    """The rig's disks are empty: SeaBIOS finds nothing to boot, and the picture says so."""
    rig.destination.start(rig.vm)
    deadline = time.monotonic() + 60
    while True:
        lines = read_lines(read_png(rig.destination.screenshot(rig.vm)))
        found = recognise(lines)
        if found is not None and found.state.name == "no-boot-device":
            assert "No bootable device." in found.words
            return
        assert time.monotonic() < deadline, lines
        time.sleep(0.5)


@pytest.mark.parametrize("address", ["10.20.30.40", "fd00::40"])
def test_an_echo_cannot_be_asked_in_a_user_mode_segment(rig: LibvirtRig, address: str) -> None:
    rig.destination.start(rig.vm)
    answer = ask_once(Probe(kind=ProbeKind.ICMP, timeout=1), address, partial(rig.destination.reach, rig.vm))
    assert not answer.asked and not answer.holds, answer.text


def test_a_forward_to_nobody_is_no_answer(rig: LibvirtRig) -> None:
    rig.destination.start(rig.vm)
    reach = partial(rig.destination.reach, rig.vm)
    for probe in (Probe(22, timeout=1), Probe(22, "SSH-2.0-", timeout=1)):
        assert not ask_once(probe, "10.20.30.40", reach).holds
