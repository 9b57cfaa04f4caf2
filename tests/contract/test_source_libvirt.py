"""LibvirtSource on this machine's libvirt and QEMU: what the contract of all sources does not ask."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from refloat.errors import Failed
from refloat.model import DiskBus, Firmware, NicModel, PowerState
from refloat.sources.libvirt import LibvirtSource
from tests.contract.source_rig import MIB, SIZES, Rig, changed, read

BLOCK = 64 * 1024


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        made.close()


def sync_once(rig: Rig, since: str | None, checkpoint: str) -> None:
    with rig.source.read_changes(rig.name, since, checkpoint) as changes:
        assert changes.checkpoint == checkpoint


def test_inventory_in_the_order_of_the_kernel(rig: Rig) -> None:
    vm = rig.source.inventory(rig.name)
    assert [(disk.key, disk.capacity, disk.bus) for disk in vm.disks] == [
        ("sda", SIZES["sda"], DiskBus.PVSCSI),
        ("sdb", SIZES["sdb"], DiskBus.PVSCSI),
    ]
    assert (vm.cpus, vm.memory, vm.firmware) == (1, 64 * MIB, Firmware.BIOS)
    assert [(nic.mac, nic.model, nic.network) for nic in vm.nics] == [
        ("00:50:56:aa:bb:cc", NicModel.VMXNET3, "user")
    ]


def test_changed_blocks_of_a_running_vm(rig: Rig) -> None:
    rig.start()
    rig.write(MIB, BLOCK, 1)
    with rig.source.read_changes(rig.name, None, "refloat-1") as first:
        assert {reader.key for reader in first.disks} == set(SIZES)
        assert all(reader.bitmap is None and reader.reason for reader in first.disks)
        assert read(first.disks[0], MIB, 1) == b"\1"
    rig.write(2 * MIB, 100, 2)
    with rig.source.read_changes(rig.name, "refloat-1", "refloat-2") as second:
        # Written after the instant: neither seen nor lost.
        rig.write(8 * MIB, 100, 3)
        assert changed(second.disks[0]) == [(2 * MIB, 2 * MIB + BLOCK)]
        assert changed(second.disks[1]) == []
        assert read(second.disks[0], 8 * MIB, 1) == b"\0"
    with rig.source.read_changes(rig.name, "refloat-2", "refloat-3") as third:
        assert changed(third.disks[0]) == [(8 * MIB, 8 * MIB + BLOCK)]
    assert list(rig.sockets.iterdir()) == []


def test_an_attempt_that_died_loses_nothing(rig: Rig) -> None:
    """The hub is killed with the backup open: its job, and its checkpoint, are cleaned up by the next."""
    rig.start()
    sync_once(rig, None, "refloat-1")
    rig.write(2 * MIB, 100, 2)
    abandoned = rig.source.read_changes(rig.name, "refloat-1", "refloat-dead")
    abandoned.__enter__()
    rig.write(4 * MIB, 100, 2)
    with LibvirtSource("qemu:///system", rig.sockets).read_changes(
        rig.name, "refloat-1", "refloat-2"
    ) as changes:
        assert changed(changes.disks[0]) == [(2 * MIB, 2 * MIB + BLOCK), (4 * MIB, 4 * MIB + BLOCK)]
    assert rig.checkpoints() == {"refloat-1", "refloat-2"}


def test_forget_keeps_one(rig: Rig) -> None:
    rig.start()
    sync_once(rig, None, "refloat-1")
    sync_once(rig, "refloat-1", "refloat-2")
    rig.source.forget(rig.name, keep="refloat-2")
    assert rig.checkpoints() == {"refloat-2"}
    assert "refloat-1" not in rig.bitmaps()
    rig.source.forget(rig.name, keep=None)
    assert rig.checkpoints() == set()


def test_changed_blocks_of_a_vm_that_was_shut_off(rig: Rig) -> None:
    rig.start()
    sync_once(rig, None, "refloat-1")
    rig.write(2 * MIB, 100, 2)
    rig.source.power_off(rig.name)
    for _ in range(2):
        with rig.source.read_changes(rig.name, "refloat-1", "refloat-2") as changes:
            assert changes.checkpoint == "refloat-1"
            assert changed(changes.disks[0]) == [(2 * MIB, 2 * MIB + BLOCK)]
            assert read(changes.disks[0], 2 * MIB, 1) == b"\2"
    # Back on: the old checkpoint still counts, with what came later added.
    rig.start()
    rig.write(5 * MIB, 100, 2)
    with rig.source.read_changes(rig.name, "refloat-1", "refloat-3") as changes:
        assert changed(changes.disks[0]) == [(2 * MIB, 2 * MIB + BLOCK), (5 * MIB, 5 * MIB + BLOCK)]


def test_a_vm_cannot_start_under_its_reader_until_power_on_ends_it(rig: Rig) -> None:
    abandoned = rig.source.read_changes(rig.name, None, "refloat-1")
    abandoned.__enter__()
    LibvirtSource("qemu:///system", rig.sockets).power_on(rig.name)
    assert rig.source.power_state(rig.name) is PowerState.RUNNING


def test_forget_while_off_removes_the_bitmaps_too(rig: Rig) -> None:
    rig.start()
    sync_once(rig, None, "refloat-1")
    sync_once(rig, "refloat-1", "refloat-2")
    rig.source.power_off(rig.name)
    rig.source.forget(rig.name, keep="refloat-2")
    assert rig.checkpoints() == {"refloat-2"}
    assert "refloat-1" not in rig.bitmaps() and "refloat-2" in rig.bitmaps()
    rig.start()
    with rig.source.read_changes(rig.name, "refloat-2", "refloat-3") as changes:
        assert changed(changes.disks[0]) == []


@pytest.mark.parametrize("restarted", [True, False], ids=["running again", "still off"])
def test_after_a_kill_of_qemu_the_bitmap_is_doubted(rig: Rig, restarted: bool) -> None:
    """And the next sync works, and the one after it is incremental again."""
    rig.start()
    sync_once(rig, None, "refloat-1")
    rig.source.power_off(rig.name)
    rig.start()
    rig.write(2 * MIB, 100, 2)
    rig.kill()
    if restarted:
        rig.start()
    with rig.source.read_changes(rig.name, "refloat-1", "refloat-2") as changes:
        assert all(reader.bitmap is None and reader.reason for reader in changes.disks)
        kept = changes.checkpoint
    assert kept == ("refloat-2" if restarted else "refloat-1")
    rig.source.forget(rig.name, keep=kept)
    rig.start()
    with rig.source.read_changes(rig.name, kept, "refloat-3") as changes:
        assert (changes.disks[0].bitmap is not None) is restarted
    rig.source.forget(rig.name, keep="refloat-3")
    rig.write(3 * MIB, 100, 2)
    with rig.source.read_changes(rig.name, "refloat-3", "refloat-4") as changes:
        assert changed(changes.disks[0]) == [(3 * MIB, 3 * MIB + BLOCK)]
    rig.source.forget(rig.name, keep="refloat-4")
    assert rig.checkpoints() == {"refloat-4"}
    assert "refloat-1" not in rig.bitmaps()


def test_qemu_killed_while_it_is_read(rig: Rig) -> None:
    rig.start()
    sync_once(rig, None, "refloat-1")
    with rig.source.read_changes(rig.name, "refloat-1", "refloat-2") as changes:
        rig.kill()
        with pytest.raises(Failed):
            read(changes.disks[0], 0, 1)
    rig.start()
    sync_once(rig, "refloat-1", "refloat-3")
    rig.source.forget(rig.name, keep="refloat-3")
    assert rig.checkpoints() == {"refloat-3"}


def test_a_checkpoint_that_libvirt_does_not_know(rig: Rig) -> None:
    rig.start()
    with rig.source.read_changes(rig.name, "refloat-9", "refloat-10") as changes:
        assert all("refloat-9" in reader.reason for reader in changes.disks)
    rig.source.power_off(rig.name)
    with rig.source.read_changes(rig.name, "refloat-9", "refloat-11") as changes:
        assert all(reader.bitmap is None and "refloat-9" in reader.reason for reader in changes.disks)


@pytest.mark.parametrize("running", [True, False])
def test_raw_disks_are_compared_and_others_are_not(running: bool) -> None:
    rig = Rig({"sdb": "raw"})
    try:
        rig.start()
        sync_once(rig, None, "refloat-1")
        rig.write(2 * MIB, 100, 2)
        rig.write(2 * MIB, 100, 2, "sdb")
        if not running:
            rig.source.power_off(rig.name)
        with rig.source.read_changes(rig.name, "refloat-1", "refloat-2") as changes:
            qcow2, raw = changes.disks
            assert changed(qcow2) == [(2 * MIB, 2 * MIB + BLOCK)]
            assert raw.bitmap is None and "raw" in raw.reason
            assert read(raw, 2 * MIB, 1) == b"\2"
    finally:
        rig.close()


def test_no_process_is_left(rig: Rig) -> None:
    with rig.source.read_changes(rig.name, None, "refloat-1"):
        pass
    listing = subprocess.run(["ps", "axo", "args"], check=True, capture_output=True, text=True).stdout
    assert str(rig.sockets) not in listing
