"""Connections that drop and disks that fill in the middle of a sync. After each: the replica holds the last
complete sync point to the byte, the error names the cause, and the next sync goes on once it is mended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refloat.controller.exports import running_exports
from refloat.controller.paths import Paths
from refloat.errors import Failed, RefloatError
from tests.faults.small_disk import SmallDisk, small_disk
from tests.unit.sync.rig import MIB, Rig, SparseLink

SIZE = 96 * MIB  # several times what is in flight


class LargeRig(Rig):
    SIZES = {"sda": SIZE, "sdb": 2 * MIB}  # noqa: RUF012

    def dirty(self, value: int) -> None:
        self.source.write("sda", 0, SIZE - MIB, value)
        self.source.write("sdb", 0, MIB, value)

    def broken(self, breaks: Callable[[], None]) -> RefloatError:
        """What a sync says in the middle of which something breaks."""
        at: list[Any] = []

        def progress(data: dict[str, Any]) -> None:
            if data.get("phase") == "sending" and not at:
                at.append(data)
                breaks()

        with pytest.raises(RefloatError) as caught:
            self.sync(progress=progress)
        assert at and at[0]["bytes_done"] < at[0]["bytes_total"] // 2, "that was not in the middle"
        assert caught.value.hint
        return caught.value

    def paths(self) -> Paths:
        root = self.link.root
        return Paths(str(root), str(root / "sys"), str(self.link.dev), port=self.link.port)


class SparseRig(LargeRig):
    LINK = SparseLink


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small", 160) as made:
        yield made


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[LargeRig]:
    made = LargeRig(tmp_path)
    try:
        yield made
    finally:
        made.close()


def _kill(*pids: int) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _readers(rig: Rig) -> list[int]:
    return [int(file.read_text()) for file in (rig.directory / "readers").glob("*.pid")]


BROKEN: dict[str, tuple[Callable[[LargeRig], None], str]] = {
    "the source's export dies": (lambda rig: _kill(*_readers(rig)), "reading the source"),
    "the controller's export dies": (
        lambda rig: _kill(*running_exports(rig.paths()).values()),
        "writing to the controller",
    ),
    "the way to the controller is cut": (lambda rig: rig.link.cut(), "writing to the controller"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_connection_that_drops(rig: LargeRig, what: str) -> None:
    rig.dirty(1)
    first = rig.sync()
    before = rig.replica("ra"), rig.replica("rb")
    rig.dirty(2)
    breaks, said = BROKEN[what]
    error = rig.broken(lambda: breaks(rig))
    assert isinstance(error, Failed) and said in error.message, error
    assert (rig.replica("ra"), rig.replica("rb")) == before
    assert rig.controller.sync_status().merged_point == first.id
    assert rig.exports() == []
    point = rig.sync()
    assert point.how == "changed" and rig.is_identical()


def test_the_controllers_own_disk_fills(tmp_path: Path, disk: SmallDisk) -> None:
    """The check before a sync found room; then somebody else took it."""
    rig = LargeRig(tmp_path, controller=disk.directory, volumes=tmp_path)
    try:
        rig.dirty(1)
        first = rig.sync()
        before = rig.replica("ra"), rig.replica("rb")
        rig.dirty(2)
        error = rig.broken(disk.fill)
        assert error.code == "no_space" and "writing to the controller" in error.message
        disk.free()
        assert (rig.replica("ra"), rig.replica("rb")) == before
        assert rig.controller.sync_status().merged_point == first.id
        assert rig.sync().how == "changed" and rig.is_identical()
    finally:
        rig.close()


def test_the_replicas_pool_fills_during_the_merge(tmp_path: Path, disk: SmallDisk) -> None:
    """The delta is complete and stays; the merge goes on by itself as soon as there is room."""
    rig = SparseRig(tmp_path, volumes=disk.directory)
    try:
        rig.sync()
        rig.dirty(2)
        disk.fill()
        with pytest.raises(RefloatError) as caught:
            rig.sync()
        assert "space" in caught.value.message.lower() and caught.value.hint
        disk.free()
        rig.controller.sync_close()
        assert rig.is_identical(), "the merge did not go on"
        assert rig.sync().how == "changed"
    finally:
        rig.close()
