"""Whole syncs, with real images, bitmaps and exports."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.command import run
from refloat.controller.records import SyncStatus
from refloat.errors import Aborted, Failed, Refused
from refloat.sync.hashes import ChunkHashes
from refloat.sync.verify import differing_disks
from tests.unit.sync.rig import MIB, Rig

BLOCK = 64 * 1024


def test_first_sync_is_direct_and_sends_only_data(rig: Rig) -> None:
    rig.source.write("sda", MIB, 3 * BLOCK, 1)
    point = rig.sync()
    assert (point.how, point.transferred) == ("full", 3 * BLOCK)
    assert rig.is_identical()  # although the volumes were full of other bytes
    assert rig.controller.health().merged_point == point.id
    assert rig.exports() == []


def test_next_sync_sends_only_changed_blocks(rig: Rig) -> None:
    rig.source.write("sda", 0, 2 * MIB, 1)
    first = rig.sync()
    rig.source.write("sda", MIB + 10, 100, 2)
    rig.source.write("sdb", 0, BLOCK, 3)
    second = rig.sync()
    assert (second.how, second.transferred) == ("changed", 2 * BLOCK)
    assert rig.is_identical()
    assert rig.source.bitmaps("sda") == {second.checkpoint}
    assert first.checkpoint != second.checkpoint


def test_zeroes_and_the_odd_end_of_a_disk(rig: Rig) -> None:
    size = rig.SIZES["sda"]
    rig.source.write("sda", 0, size, 7)
    rig.sync()
    assert rig.is_identical()
    rig.source.write("sda", MIB, MIB, 0)
    rig.source.write("sda", size - 512, 512, 9)
    point = rig.sync()
    assert point.transferred == size % BLOCK or point.transferred < 2 * BLOCK
    assert rig.is_identical()


def test_nothing_changed(rig: Rig) -> None:
    rig.sync()
    point = rig.sync()
    assert (point.how, point.transferred) == ("changed", 0)
    assert rig.is_identical()


def test_lost_bitmap_leads_to_a_compare_that_sends_the_difference(rig: Rig) -> None:
    rig.source.write("sda", 0, 4 * MIB, 1)
    rig.sync()
    rig.source.lose_bitmaps("sda")
    rig.source.write("sda", 2 * MIB, BLOCK, 2)
    point = rig.sync()
    assert point.how == "compared"
    assert "bitmap" in point.reason
    assert point.transferred == 4 * BLOCK  # one chunk
    assert rig.is_identical()
    assert rig.sync().how == "changed"


def test_hashes_describe_the_replica(rig: Rig) -> None:
    rig.source.write("sda", 0, 3 * MIB, 1)
    rig.sync()
    rig.source.write("sda", MIB, 5, 2)
    point = rig.sync()
    kept = ChunkHashes.load(rig.state / "points" / point.id / "sda.hashes")
    rig.source.lose_bitmaps("sda")
    for _ in range(2):  # compared, then nothing changed
        point = rig.sync()
        assert point.transferred == 0
        assert kept == ChunkHashes.load(rig.state / "points" / point.id / "sda.hashes")


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_without_hashes_everything_is_sent_into_a_delta(rig: Rig, damage: str) -> None:
    rig.source.write("sda", 0, MIB, 1)
    first = rig.sync()
    file = rig.state / "points" / first.id / "sda.hashes"
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[40] ^= 1
        file.write_bytes(content)
    rig.source.write("sda", 2 * MIB, 5, 2)
    point = rig.sync()
    assert (point.how, point.transferred) == ("full", MIB + BLOCK)
    assert rig.is_identical()
    assert rig.sync().how == "changed"


def test_a_hub_that_forgot_everything_catches_up(rig: Rig) -> None:
    rig.source.write("sda", 0, MIB, 1)
    rig.sync()
    rig.last, rig.state = None, rig.directory / "other-hub"
    assert rig.sync().how == "full"
    assert rig.is_identical()


def test_a_hub_whose_database_is_one_point_behind(rig: Rig) -> None:
    """It was killed after the merge and before it stored the point: the ledger knows."""
    before = rig.sync()
    rig.source.write("sda", 0, BLOCK, 1)
    rig.sync()
    rig.last = before
    rig.source.write("sda", MIB, BLOCK, 2)
    point = rig.sync()
    assert (point.how, point.transferred) == ("changed", BLOCK)
    assert rig.is_identical()


def test_source_disk_grown_is_refused_before_anything_is_touched(rig: Rig) -> None:
    rig.sync()
    bitmaps = rig.source.bitmaps("sdb")
    rig.source.forget("vm", None)  # qemu-img resizes no image with bitmaps
    run(["qemu-img", "resize", "-q", "-f", "qcow2", str(rig.source.files["sdb"]), str(4 * MIB)])
    with pytest.raises(Refused) as caught:
        rig.sync()
    assert caught.value.code == "disk_size" and caught.value.hint
    assert bitmaps and rig.source.bitmaps("sdb") == set()


class LargerRig(Rig):
    """As on a platform that counts in GiB."""

    LARGER = 2 * MIB + 512


def test_a_replica_that_is_larger_ends_with_zeroes(tmp_path: Path) -> None:
    rig = LargerRig(tmp_path)
    try:
        for value, how in ((1, "full"), (2, "changed")):
            rig.source.write("sda", rig.SIZES["sda"] - 4096, 4096, value)
            assert rig.sync().how == how and rig.is_identical()
        rig.source.lose_bitmaps("sda")
        rig.source.write("sda", 0, MIB, 3)
        assert rig.sync().how == "compared" and rig.is_identical()
        grown = rig.SIZES["sda"] + MIB
        rig.source.forget("vm", None)  # qemu-img resizes no image with bitmaps
        run(["qemu-img", "resize", "-q", "-f", "qcow2", str(rig.source.files["sda"]), str(grown)])
        rig.source.write("sda", grown - 4096, 4096, 4)
        assert rig.sync().how == "full" and rig.is_identical()
        shrunk = rig.SIZES["sda"] - MIB
        rig.source.forget("vm", None)
        shrink = ["qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", str(rig.source.files["sda"])]
        run([*shrink, str(shrunk)])
        assert rig.sync().how == "full" and rig.is_identical()
    finally:
        rig.close()


def test_a_disk_too_many_is_refused(rig: Rig) -> None:
    del rig.source.files["sdb"]
    with pytest.raises(Refused) as caught:
        rig.sync()
    assert caught.value.code == "disks_changed"


def test_no_room_for_the_delta_is_refused_before_anything_is_sent(rig: Rig) -> None:
    rig.sync()
    rig.source.write("sda", 0, 4 * MIB, 1)
    controller = Cramped(rig)
    with pytest.raises(Refused) as caught:
        rig.sync(controller=controller)
    assert caught.value.code == "no_space" and caught.value.hint
    rig.sync()
    assert rig.is_identical()


@pytest.fixture
def small_disk(rig: Rig) -> Iterator[None]:
    """The controller's own disk takes 3 MiB."""
    (rig.link.root / "sync").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", rig.link.root / "sync"], check=True)
    try:
        yield
    finally:
        rig.controller.sync_close()
        subprocess.run(["umount", rig.link.root / "sync"], check=True)


@pytest.mark.usefixtures("small_disk")
def test_controller_disk_full_in_the_middle(rig: Rig) -> None:
    """Somebody else took the room after it was checked."""
    rig.sync()
    before = rig.replica("ra")
    rig.source.write("sda", 0, 5 * MIB, 1)
    with pytest.raises(Failed) as caught:
        rig.sync(controller=Cramped(rig, free=1 << 40))
    assert caught.value.code == "no_space" and "controller" in caught.value.hint
    assert rig.replica("ra") == before
    assert rig.exports() == []


class Cramped:
    """The rig's controller, claiming this much room."""

    def __init__(self, rig: Rig, free: int = 33 * MIB) -> None:
        self._real = rig.controller
        self._free = free
        self.disks, self.forward = self._real.disks, self._real.forward
        self.sync_open, self.sync_complete = self._real.sync_open, self._real.sync_complete

    def sync_close(self, progress: object = None) -> SyncStatus:
        status = self._real.sync_close()
        return SyncStatus(status.merged_point, status.attempt, status.exports, free=self._free)


def test_cancel(rig: Rig) -> None:
    rig.sync()
    before = rig.replica("ra")
    rig.source.write("sda", 0, 6 * MIB, 1)
    with pytest.raises(Aborted):
        rig.sync(cancelled=lambda: True)
    assert rig.replica("ra") == before
    assert rig.exports() == []
    rig.sync()
    assert rig.is_identical()


def test_the_source_dies_in_the_middle(rig: Rig) -> None:
    """The replica still equals the last complete sync point."""
    rig.source.write("sda", 0, MIB, 1)
    point = rig.sync()
    before = rig.replica("ra"), rig.replica("rb")
    rig.source.write("sda", 0, 6 * MIB, 2)

    def strike(event: dict[str, object]) -> None:
        if event.get("phase") == "sending":
            from refloat.sources.offline import stop_readers

            stop_readers(rig.directory / "readers")

    with pytest.raises(Failed):
        rig.sync(progress=strike)
    assert (rig.replica("ra"), rig.replica("rb")) == before
    assert rig.controller.health().merged_point == point.id
    rig.sync()
    assert rig.is_identical()


def test_progress_in_bytes(rig: Rig) -> None:
    rig.source.write("sda", 0, 5 * MIB, 1)
    rig.sync()
    sending = [event for event in rig.events if event["phase"] == "sending"]
    assert sending[-1]["bytes_done"] == sending[-1]["bytes_total"]
    done = [event["bytes_done"] for event in sending]
    assert done == sorted(done, key=lambda one: int(str(one)))


def test_verify_finds_a_flipped_byte(rig: Rig) -> None:
    rig.source.write("sda", 0, MIB, 1)
    rig.sync()
    with rig.source.read_changes("vm", None, "x") as changes:
        assert differing_disks(changes, rig.controller, rig.target) == ()
        device = rig.link.root / "dev" / "vdb"
        content = bytearray(device.read_bytes())
        content[-1] ^= 1
        device.write_bytes(content)
        assert differing_disks(changes, rig.controller, rig.target) == ("sda",)
