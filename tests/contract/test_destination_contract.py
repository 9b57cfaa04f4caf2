"""The destination contract: what every driver must hold, on a small VM without an operating system."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refloat.errors import Failed, NotFound, Refused
from refloat.guest.linux.cpu import level_of
from refloat.model import AttachedDisk, AttachedNic, DiskBus, Firmware, NicModel, PowerState
from tests.contract.cloudstack_rig import CloudStackRig
from tests.contract.destination_rigs import LibvirtRig, Rig, SimulatedRig, libvirt_missing, libvirt_pool
from tests.contract.libvirt_ssh import libvirt_over_ssh, ssh_missing


def serials(rig: Rig) -> tuple[str, str, str]:
    """Of the controller's own disk and of the two replicas."""
    own, first, second = (disk.serial for disk in rig.disks)
    return own, first, second


def replicas(rig: Rig) -> tuple[str, str]:
    return serials(rig)[1:]


@pytest.fixture(scope="module")
def pool() -> Iterator[tuple[Path, str]]:
    reason = libvirt_missing()
    if reason:
        pytest.skip(reason)
    with libvirt_pool() as made:
        yield made


@pytest.fixture(scope="module")
def remote() -> Iterator[str]:
    """A libvirt through ssh: what a driver does by a local path would fail on another host."""
    reason = ssh_missing()
    if reason:
        pytest.skip(reason)
    with libvirt_over_ssh() as uri:
        yield uri


@pytest.fixture(params=["libvirt", "libvirt-ssh", "simulated", "cloudstack"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made: Rig
    if request.param == "libvirt-ssh":
        directory, pool = request.getfixturevalue("pool")
        made = LibvirtRig(directory, pool, request.getfixturevalue("remote"))
    elif request.param == "libvirt":
        made = LibvirtRig(*request.getfixturevalue("pool"))
    elif request.param == "cloudstack":
        made = CloudStackRig(tmp_path)
    else:
        made = SimulatedRig(tmp_path)
    try:
        yield made
    finally:
        made.close()


def attached(rig: Rig) -> dict[str, str]:
    return {disk.serial: disk.volume for disk in rig.destination.hardware(rig.vm).disks}


def bases(rig: Rig) -> dict[str, str]:
    return {disk.serial: disk.volume for disk in rig.disks}


# ---------------------------------------------------------------- definition


def test_what_is_set_is_what_is_defined(rig: Rig) -> None:
    vm, there = rig.vm, rig.destination
    ctl, r0, r1 = rig.disks
    own_bus = DiskBus.VIRTIO_BLK if rig.lacks.bus_per_disk is None else DiskBus.VIRTIO_SCSI
    disks = (
        r0,
        AttachedDisk(r1.serial, r1.volume, DiskBus.VIRTIO_SCSI),
        AttachedDisk(ctl.serial, ctl.volume, own_bus),
    )
    other = NicModel.E1000E if rig.lacks.e1000e is None else NicModel.VIRTIO
    nics = (
        AttachedNic("52:54:00:00:00:02", "test", other),
        AttachedNic("52:54:00:00:00:01", "management"),
    )
    for _ in range(2):
        there.set_compute(vm, 2, 96 << 20)
        there.set_disks(vm, disks)
        there.set_nics(vm, nics)
        there.set_firmware(vm, Firmware.UEFI)
        hardware = there.hardware(vm)
        assert (hardware.cpus, hardware.memory, hardware.firmware) == (2, 96 << 20, Firmware.UEFI)
        assert hardware.disks == disks
        assert hardware.nics == nics
    there.start(vm)
    observed = there.observe(vm)
    assert observed.nics_linked == tuple(nic.mac for nic in nics)
    assert set(observed.disk_bytes_read) == (set() if rig.lacks.disk_counters else set(serials(rig)))


@pytest.mark.parametrize("bus", [DiskBus.VIRTIO_SCSI, DiskBus.SATA])
@pytest.mark.parametrize("nic", [NicModel.VIRTIO, NicModel.E1000E])
def test_other_hardware_runs_and_goes_back(rig: Rig, bus: DiskBus, nic: NicModel) -> None:
    """A promotion to hardware by policy, its rollback points under it, and the way back."""
    vm, there = rig.vm, rig.destination
    if nic is NicModel.E1000E and rig.lacks.e1000e:
        pytest.skip(rig.lacks.e1000e)
    there.require_devices(bus, nic)
    there.snapshot(vm, replicas(rig), "job1")
    before = there.hardware(vm)
    promoted = tuple(AttachedDisk(disk.serial, disk.volume, bus) for disk in before.disks[1:])
    nics = (AttachedNic("52:54:00:00:00:02", "test", nic),)
    there.set_disks(vm, promoted)
    there.set_nics(vm, nics)
    assert (there.hardware(vm).disks, there.hardware(vm).nics) == (promoted, nics)
    there.start(vm)
    observed = there.observe(vm)
    assert set(observed.disk_bytes_read) == (set() if rig.lacks.disk_counters else set(replicas(rig)))
    assert observed.nics_linked == (nics[0].mac,)
    assert {point.serial for point in there.rollback_points(vm, "job1")} == set(replicas(rig))
    there.stop(vm, 0)
    there.set_disks(vm, before.disks)
    there.set_nics(vm, before.nics)
    assert there.hardware(vm) == before
    there.revert(vm, "job1")
    assert attached(rig) == bases(rig)


def test_hardware_that_the_platform_lacks_is_refused_beforehand(rig: Rig) -> None:
    with pytest.raises(Refused) as caught:
        rig.destination.require_devices(DiskBus.NVME, NicModel.VIRTIO)
    assert caught.value.hint


def test_the_guests_processor_is_known_while_it_runs(rig: Rig) -> None:
    rig.destination.start(rig.vm)
    flags = rig.destination.cpu_flags(rig.vm)
    if rig.lacks.processor:
        assert flags is None, rig.lacks.processor
        return
    # Any x86-64 processor has these; how they are spelled is Linux's business.
    assert flags is not None and level_of(flags) >= 1 and {"lm", "sse2", "pni"} <= flags


def test_a_parked_disk_is_kept_and_comes_back(rig: Rig) -> None:
    ctl, *others = rig.disks
    before = rig.content(ctl.volume)
    rig.destination.set_disks(rig.vm, others)
    assert rig.destination.hardware(rig.vm).disks == tuple(others)
    rig.destination.set_disks(rig.vm, rig.disks)
    assert rig.destination.hardware(rig.vm).disks == rig.disks
    assert rig.content(ctl.volume) == before


def test_a_running_vm_is_not_redefined(rig: Rig) -> None:
    rig.destination.start(rig.vm)
    before = rig.destination.hardware(rig.vm)
    changes: list[Callable[[], None]] = [
        lambda: rig.destination.set_compute(rig.vm, 4, 128 << 20),
        lambda: rig.destination.set_disks(rig.vm, rig.disks[:1]),
        lambda: rig.destination.set_nics(rig.vm, ()),
        lambda: rig.destination.set_firmware(rig.vm, Firmware.UEFI),
    ]
    for change in changes:
        with pytest.raises(Failed) as caught:
            change()
        assert caught.value.code == "vm_not_off"
    assert rig.destination.hardware(rig.vm) == before


def test_wrong_hardware_is_refused(rig: Rig) -> None:
    ctl = rig.disks[0]
    before = rig.destination.hardware(rig.vm)
    for disks in (
        [AttachedDisk("x" * 21, ctl.volume)],
        [AttachedDisk("a", f"{ctl.volume}.missing")],
        [ctl, ctl],
    ):
        with pytest.raises(Refused):
            rig.destination.set_disks(rig.vm, disks)
    with pytest.raises(Refused):
        rig.destination.set_nics(rig.vm, [AttachedNic("52:54:00:00:00:01", "nowhere")])
    assert rig.destination.hardware(rig.vm) == before


def test_an_unknown_vm_is_not_found(rig: Rig) -> None:
    there, no = rig.destination, f"{rig.vm}-none"
    for verb in (
        lambda: there.hardware(no),
        lambda: there.power_state(no),
        lambda: there.start(no),
        lambda: there.stop(no, 0),
        lambda: there.set_compute(no, 1, 64 << 20),
        lambda: there.set_disks(no, ()),
        lambda: there.snapshot(no, (), "t"),
        lambda: there.rollback_points(no, "t"),
        lambda: there.stamps(no),
        lambda: there.revert(no, "t"),
        lambda: there.merge(no, "t"),
        lambda: there.delete_volume(no, rig.disks[0].volume),
        lambda: there.reach(no, "10.20.30.40", 22),
        lambda: there.observe(no),
        lambda: there.screenshot(no),
    ):
        with pytest.raises(NotFound):
            verb()


# ---------------------------------------------------------------- power


def test_power(rig: Rig) -> None:
    there, vm = rig.destination, rig.vm
    assert there.power_state(vm) is PowerState.OFF
    assert there.observe(vm).power is PowerState.OFF
    assert there.screenshot(vm) == b""
    there.stop(vm, 0)
    there.start(vm)
    there.start(vm)
    assert there.power_state(vm) is PowerState.RUNNING
    picture = there.screenshot(vm)
    assert picture == b"" if rig.lacks.console else picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert bool(there.console(vm)) is bool(rig.lacks.console), "without a picture a person looks"
    if not rig.lacks.pause:
        rig.pause()
        assert there.power_state(vm) is PowerState.PAUSED
    there.start(vm)
    assert there.power_state(vm) is PowerState.RUNNING
    there.stop(vm, 0.5)  # nobody listens to the power button
    assert there.power_state(vm) is PowerState.OFF
    assert there.observe(vm).reason


# ---------------------------------------------------------------- rollback points


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_revert_restores_every_byte(rig: Rig, running: bool) -> None:
    there, vm = rig.destination, rig.vm
    if running:
        there.start(vm)
    points = there.snapshot(vm, replicas(rig), "job1")
    assert {point.serial: point.base for point in points} == {s: bases(rig)[s] for s in replicas(rig)}
    assert [point.written for point in points] == [0, 0]
    assert attached(rig) == bases(rig) or not rig.lacks.layers
    own, first, second = serials(rig)
    assert attached(rig)[own] == bases(rig)[own]
    before = {serial: rig.content(bases(rig)[serial]) for serial in replicas(rig)}
    stamps = there.stamps(vm)

    rig.guest_writes(first, 7)
    after = {point.serial: point for point in there.rollback_points(vm, "job1")}
    assert rig.lacks.layers or (after[first].written > 0 and after[second].written == 0)
    assert [after[point.serial].base_stamp for point in points] == [point.base_stamp for point in points]
    assert {**stamps, own: ""} == {**there.stamps(vm), own: ""}
    if running:
        with pytest.raises(Failed) as caught:
            there.revert(vm, "job1")
        assert caught.value.code == "vm_not_off"
        there.stop(vm, 0)
    for _ in range(2):
        there.revert(vm, "job1")
        assert attached(rig) == bases(rig)
        assert there.rollback_points(vm, "job1") == ()
        assert {**stamps, own: ""} == {**there.stamps(vm), own: ""}, "the base is the one of the snapshot"
    assert {serial: rig.content(bases(rig)[serial]) for serial in replicas(rig)} == before
    assert rig.volumes() == set(bases(rig).values())


def test_a_write_to_a_replica_changes_its_stamp(rig: Rig) -> None:
    if rig.lacks.layers:
        pytest.skip(rig.lacks.layers)
    before, first = rig.destination.stamps(rig.vm), replicas(rig)[0]
    assert set(before) == set(serials(rig))
    rig.guest_writes(first, 7)
    after = rig.destination.stamps(rig.vm)
    assert {serial for serial in before if before[serial] != after[serial]} == {first}
    points = rig.destination.snapshot(rig.vm, replicas(rig), "job1")
    assert rig.destination.stamps(rig.vm) == after
    assert [point.base_stamp for point in points] == [after[serial] for serial in replicas(rig)]


def test_snapshot_twice_is_one_snapshot(rig: Rig) -> None:
    there = rig.destination
    first = there.snapshot(rig.vm, replicas(rig), "job1")
    rig.guest_writes(replicas(rig)[0], 9)
    second = there.snapshot(rig.vm, replicas(rig), "job1")
    assert [point.overlay for point in first] == [point.overlay for point in second]
    assert rig.lacks.layers or second[0].written > 0
    there.start(rig.vm)
    assert there.snapshot(rig.vm, replicas(rig), "job1") == second
    assert there.rollback_points(rig.vm, "job1") == second


def test_snapshot_refuses_what_it_cannot_keep(rig: Rig) -> None:
    there = rig.destination
    with pytest.raises(Refused):
        there.snapshot(rig.vm, (replicas(rig)[0], "none"), "job1")
    with pytest.raises(Refused):
        there.snapshot(rig.vm, replicas(rig), "../job")
    assert attached(rig) == bases(rig)
    there.snapshot(rig.vm, replicas(rig), "job1")
    with pytest.raises(Refused) as caught:
        there.snapshot(rig.vm, replicas(rig), "job2")
    assert caught.value.code == "rollback_point_exists"
    assert there.rollback_points(rig.vm, "job2") == ()


@pytest.mark.parametrize("state", [PowerState.RUNNING, PowerState.PAUSED, PowerState.OFF])
def test_merge_keeps_the_writes_and_the_power_state(rig: Rig, state: PowerState) -> None:
    there, vm = rig.destination, rig.vm
    if state is PowerState.PAUSED and rig.lacks.pause:
        pytest.skip(rig.lacks.pause)
    first, second = (bases(rig)[serial] for serial in replicas(rig))
    original, untouched = rig.content(first), rig.content(second)
    if state is not PowerState.OFF:
        there.start(vm)
    there.snapshot(vm, replicas(rig), "job1")
    rig.guest_writes(replicas(rig)[0], 7)
    if state is PowerState.PAUSED:
        rig.pause()
    for _ in range(2):
        there.merge(vm, "job1")
        assert there.power_state(vm) is state
        assert attached(rig) == bases(rig)
        assert there.rollback_points(vm, "job1") == ()
    there.stop(vm, 0)
    assert attached(rig) == bases(rig)
    assert rig.content(first) != original
    assert rig.content(second) == untouched
    assert rig.volumes() == set(bases(rig).values())
    assert len(there.snapshot(vm, replicas(rig), "job2")) == 2


def test_promoted_disks_revert_and_merge_too(rig: Rig) -> None:
    """The order has changed and the controller's disk is parked: only the volumes are swapped."""
    there, vm = rig.destination, rig.vm
    there.snapshot(vm, replicas(rig), "job1")
    now = {disk.serial: disk for disk in there.hardware(vm).disks}
    first, second = replicas(rig)
    there.set_disks(vm, [now[second], now[first]])
    there.start(vm)
    assert [point.serial for point in there.rollback_points(vm, "job1")] == [second, first]
    there.stop(vm, 0)
    there.revert(vm, "job1")
    assert [disk.volume for disk in there.hardware(vm).disks] == [bases(rig)[second], bases(rig)[first]]


# ---------------------------------------------------------------- volumes


def test_delete_volume(rig: Rig) -> None:
    there, vm = rig.destination, rig.vm
    ctl, *others = rig.disks
    with pytest.raises(Refused) as caught:
        there.delete_volume(vm, ctl.volume)
    assert caught.value.code == "volume_in_use"
    there.set_disks(vm, others)
    rig.other_user_of(ctl.volume)
    with pytest.raises(Refused):
        there.delete_volume(vm, ctl.volume)
    with pytest.raises(Refused):
        there.delete_volume(vm, "/etc/hostname")
    assert ctl.volume in rig.volumes()


def test_a_base_below_a_rollback_point_is_in_use(rig: Rig) -> None:
    rig.destination.snapshot(rig.vm, replicas(rig), "job1")
    with pytest.raises(Refused) as caught:
        rig.destination.delete_volume(rig.vm, bases(rig)[replicas(rig)[0]])
    assert caught.value.code == "volume_in_use"


def test_a_parked_volume_is_deleted_once(rig: Rig) -> None:
    ctl, *others = rig.disks
    rig.destination.set_disks(rig.vm, others)
    for _ in range(2):
        rig.destination.delete_volume(rig.vm, ctl.volume)
        assert ctl.volume not in rig.volumes()
    with pytest.raises(Refused):
        rig.destination.set_disks(rig.vm, rig.disks)
    assert rig.destination.free_bytes(rig.vm) > 0


# ---------------------------------------------------------------- reaching the guest


def test_reach_and_channel(rig: Rig) -> None:
    there, vm = rig.destination, rig.vm
    there.start(vm)
    reached = there.reach(vm, "10.20.30.40", 22)
    assert reached == there.reach(vm, "10.20.30.40", 22)
    assert reached != there.reach(vm, "10.20.30.40", 23)
    with pytest.raises(Refused):
        there.reach(vm, "192.0.2.1", 22)
    with pytest.raises(Refused):
        there.reach(vm, "10.20.30.40 quit", 22)
    assert there.has_channel is not bool(rig.lacks.channel)
    if rig.lacks.channel:
        with pytest.raises(Refused) as caught:
            there.channel(vm, "org.refloat.report")
        assert caught.value.code == "no_channel"
        with pytest.raises(Refused) as caught:
            there.serial(vm)
        assert caught.value.code == "no_channel"
        return
    with there.channel(vm, "org.refloat.report") as dead_hubs:
        assert dead_hubs.read(0.2) == b""
        with there.channel(vm, "org.refloat.report") as channel:
            assert channel.read(0.2) == b""
            there.stop(vm, 0)
            with pytest.raises(Failed):
                channel.read(5)
