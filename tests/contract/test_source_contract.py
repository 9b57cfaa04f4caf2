"""The source contract: what every driver must hold, on a VM without an operating system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.errors import NotFound, Unreachable
from refloat.model import DiskBus, NicModel, PowerState
from tests.contract.destination_rigs import libvirt_missing
from tests.contract.source_rigs import (
    MAC,
    MIB,
    LibvirtSourceRig,
    SimulatedSourceRig,
    SourceRig,
    VsphereSourceRig,
    changed,
    read,
)
from tests.vcsim.build import missing as vcsim_missing
from tests.vcsim.rig import VcSim

BLOCK = 65536


@pytest.fixture(scope="module")
def vcsim() -> Iterator[VcSim]:
    reason = vcsim_missing()
    if reason:
        pytest.skip(reason)
    made = VcSim()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["libvirt", "simulated", "vsphere"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SourceRig]:
    made: SourceRig
    if request.param == "vsphere":
        made = VsphereSourceRig(request.getfixturevalue("vcsim"))
    elif request.param == "simulated":
        made = SimulatedSourceRig(tmp_path)
    else:
        reason = libvirt_missing()
        if reason:
            pytest.skip(reason)
        made = LibvirtSourceRig()
    try:
        yield made
    finally:
        made.close()


def synced(rig: SourceRig, since: str | None, name: str) -> str:
    """One sync; its checkpoint."""
    with rig.source().read_changes(rig.vm, since, name) as changes:
        assert changes.checkpoint
    return changes.checkpoint


def test_inventory_in_the_order_of_the_kernel(rig: SourceRig) -> None:
    vm = rig.source().inventory(rig.vm)
    assert vm.name == rig.vm and vm.uuid
    assert [(disk.key, disk.capacity, disk.bus) for disk in vm.disks] == [
        (key, size, DiskBus.PVSCSI) for key, size in rig.sizes.items()
    ]
    assert [(nic.mac, nic.model) for nic in vm.nics] == [(MAC, NicModel.VMXNET3)]
    assert vm.problems == ()


def test_power_and_autostart_are_idempotent(rig: SourceRig) -> None:
    source, vm = rig.source(), rig.vm
    assert source.power_state(vm) is PowerState.OFF
    for _ in range(2):
        source.power_on(vm)
        assert source.power_state(vm) is PowerState.RUNNING
    assert source.shut_down(vm, deadline=0.5) is False  # nobody in there obeys
    for _ in range(2):
        source.power_off(vm)
        assert source.power_state(vm) is PowerState.OFF
    assert source.shut_down(vm, deadline=0) is True
    for wanted in (True, True, False, False):
        source.set_autostart(vm, wanted)
        assert source.autostart(vm) is wanted


def test_unknown_vm_and_silent_platform(rig: SourceRig) -> None:
    with pytest.raises(NotFound):
        rig.source().power_state("refloat-no-such-vm")
    silent = rig.silent()
    for ask in (silent.power_state, silent.inventory, silent.autostart):
        with pytest.raises(Unreachable):
            ask(rig.vm)


def test_changed_blocks_of_a_running_vm(rig: SourceRig) -> None:
    source = rig.source()
    source.power_on(rig.vm)
    rig.writes(MIB, 1)
    with source.read_changes(rig.vm, None, "refloat-1") as first:
        assert [reader.key for reader in first.disks] == list(rig.sizes)
        assert all(reader.bitmap is None and reader.areas is None and reader.reason for reader in first.disks)
        assert read(first.disks[0], MIB, 1) == b"\1"
    rig.writes(2 * MIB, 2)
    with source.read_changes(rig.vm, first.checkpoint, "refloat-2") as second:
        assert changed(second.disks[0]) == [(2 * MIB, 2 * MIB + BLOCK)]
        assert changed(second.disks[1]) == []
        assert read(second.disks[0], 2 * MIB, 1) == b"\2"
    rig.writes(3 * MIB, 3)
    # The sync after `second` was never merged: what changed since `first` is still known.
    with source.read_changes(rig.vm, second.checkpoint, "refloat-3") as third:
        assert changed(third.disks[0]) == [(3 * MIB, 3 * MIB + BLOCK)]
    assert rig.processes() == ""


def test_what_is_written_meanwhile_comes_with_the_next(rig: SourceRig) -> None:
    if isinstance(rig, SimulatedSourceRig):
        pytest.skip("a simulated VM does not write while it is read")
    source = rig.source()
    source.power_on(rig.vm)
    with source.read_changes(rig.vm, None, "refloat-1") as first:
        rig.writes(MIB, 1)
        assert read(first.disks[0], MIB, 1) == b"\0"
    with source.read_changes(rig.vm, first.checkpoint, "refloat-2") as second:
        assert changed(second.disks[0]) == [(MIB, MIB + BLOCK)]


def test_an_attempt_that_died_loses_nothing(rig: SourceRig) -> None:
    source = rig.source()
    source.power_on(rig.vm)
    first = synced(rig, None, "refloat-1")
    rig.writes(MIB, 1)
    abandoned = source.read_changes(rig.vm, first, "refloat-dead")
    abandoned.__enter__()
    if not isinstance(rig, SimulatedSourceRig):
        rig.writes(2 * MIB, 1)
    with rig.source().read_changes(rig.vm, first, "refloat-2") as changes:
        expected = [(MIB, MIB + BLOCK), (2 * MIB, 2 * MIB + BLOCK)]
        if isinstance(rig, SimulatedSourceRig):
            expected.pop()
        assert changed(changes.disks[0]) == expected


def test_a_checkpoint_that_the_platform_does_not_know(rig: SourceRig) -> None:
    rig.source().power_on(rig.vm)
    with rig.source().read_changes(rig.vm, "refloat-9", "refloat-10") as changes:
        assert all(one.bitmap is None and one.areas is None and one.reason for one in changes.disks)
        assert changes.checkpoint


def test_a_vm_that_is_off_is_read_with_what_changed_before(rig: SourceRig) -> None:
    """The final sync of a planned failover."""
    source = rig.source()
    source.power_on(rig.vm)
    first = synced(rig, None, "refloat-1")
    rig.writes(MIB, 1)
    source.power_off(rig.vm)
    with source.read_changes(rig.vm, first, "refloat-2") as changes:
        assert changed(changes.disks[0]) == [(MIB, MIB + BLOCK)]
        assert read(changes.disks[0], MIB, 1) == b"\1"
    source.forget(rig.vm, keep=changes.checkpoint)
    source.power_on(rig.vm)
    rig.writes(2 * MIB, 1)
    with source.read_changes(rig.vm, changes.checkpoint, "refloat-3") as later:
        assert (2 * MIB, 2 * MIB + BLOCK) in changed(later.disks[0])
    assert rig.processes() == ""
