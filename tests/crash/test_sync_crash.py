"""A hub that is killed anywhere in a sync: the next sync goes on by itself, and no gap is left.

The kill is an exception that nothing handles: what a SIGKILL leaves is what is durable at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from refloat import durable
from refloat.controller import attempts
from refloat.controller.paths import Paths
from refloat.controller.records import ControllerDisk, Export, SyncStatus
from refloat.model import SyncPoint
from refloat.sync.ledger import Ledger
from tests.unit.sync.conftest import rig as rig
from tests.unit.sync.rig import MIB, Rig


class Killed(BaseException):
    pass


class MortalHub:
    """The rig's controller, seen by a hub that dies before or after its n-th call."""

    def __init__(self, rig: Rig, call: int, after: bool) -> None:
        self._real, self._at, self._after = rig.controller, call, after
        self._calls = 0
        self._dead = False

    def _call(self, action: Callable[[], Any]) -> Any:
        if self._dead:
            raise Killed
        self._calls += 1
        if self._calls == self._at and not self._after:
            self._dead = True
            raise Killed
        answer = action()
        if self._calls == self._at:
            self._dead = True
            raise Killed
        return answer

    def disks(self) -> Sequence[ControllerDisk]:
        return self._call(self._real.disks)  # type: ignore[no-any-return]

    def sync_open(self, point: str, direct: bool, sizes: Mapping[str, int]) -> Sequence[Export]:
        return self._call(lambda: self._real.sync_open(point, direct, sizes))  # type: ignore[no-any-return]

    def sync_complete(self, point: str, progress: object = None) -> SyncStatus:
        return self._call(lambda: self._real.sync_complete(point))  # type: ignore[no-any-return]

    def sync_close(self, progress: object = None) -> SyncStatus:
        return self._call(lambda: self._real.sync_close())  # type: ignore[no-any-return]

    @contextmanager
    def forward(self, port: int) -> Iterator[str]:
        with self._call(lambda: self._real.forward(port)) as path:
            yield path


# close, disks, open, forward, forward, complete
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", range(1, 7))
def test_hub_killed_at_each_call(rig: Rig, call: int, after: bool) -> None:
    rig.source.write("sda", 0, MIB, 1)
    first = rig.sync()
    before = rig.replica("ra"), rig.replica("rb")
    rig.source.write("sda", 0, 2 * MIB, 2)
    with pytest.raises(Killed):
        rig.sync(controller=MortalHub(rig, call, after))
    merged = rig.controller.sync_status().merged_point
    if (call, after) == (6, True):
        assert rig.is_identical() and merged != first.id
    else:
        assert (rig.replica("ra"), rig.replica("rb")) == before and merged == first.id
    rig.source.write("sda", 3 * MIB, 10, 3)
    point = rig.sync()
    assert point.how == "changed"
    assert rig.is_identical()
    rig.source.lose_bitmaps("sda")
    assert rig.sync().transferred == 0, "the kept hashes do not describe the replica"


def test_first_sync_killed_in_the_middle_leaves_no_stale_block(rig: Rig) -> None:
    """What was data at the first attempt and is a hole at the second must be a hole in the replica."""
    rig.source.write("sda", 0, 4 * MIB, 1)
    with pytest.raises(Killed):
        rig.sync(controller=MortalHub(rig, 6, after=False))
    assert rig.controller.sync_status().merged_point is None
    rig.source.write("sda", MIB, 2 * MIB, 0)
    assert rig.sync().how == "full"
    assert rig.is_identical()


@pytest.mark.parametrize("written", [False, True])
def test_killed_around_the_ledger(rig: Rig, written: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rig.sync()
    rig.source.write("sda", 0, MIB, 1)
    real = Ledger.write

    def dies(self: Ledger, point: SyncPoint, hashes: Any) -> None:
        if written:
            real(self, point, hashes)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Ledger, "write", dies)
        rig.sync()
    assert rig.controller.sync_status().merged_point == first.id
    assert rig.sync().transferred == MIB
    assert rig.is_identical()


def test_killed_before_the_source_forgets(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rig.sync()
    rig.source.write("sda", 0, MIB, 1)

    def dies(vm: str, keep: str | None) -> None:
        if keep != first.checkpoint:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(rig.source, "forget", dies)
        rig.sync()
    assert first.checkpoint in rig.source.bitmaps("sda")
    assert rig.sync().transferred == 0  # it knows that the point was complete
    assert rig.is_identical()


# ---------------------------------------------------------------- the controller itself is killed


class Reaper:
    """Kills the in-guest command before its n-th durable step, or before its n-th command."""

    STEPS = ("save_state", "remove_durably", "run", "stop_exports", "flush_device", "_prove_on_disk")

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.steps = 0
        for name in self.STEPS:
            patch.setattr(attempts, name, self._mortal(getattr(attempts, name), at))

    def _mortal(self, real: Callable[..., Any], at: int) -> Callable[..., Any]:
        def step(*arguments: Any, **keywords: Any) -> Any:
            self.steps += 1
            if self.steps == at:
                raise Killed
            return real(*arguments, **keywords)

        return step


def test_controller_killed_at_each_step_of_a_merge(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.source.write("sda", 0, MIB, 1)
    paths = Paths(
        str(rig.link.root), str(rig.link.root / "sys"), str(rig.link.root / "dev"), port=rig.link.port
    )
    outcomes = set()
    rig.sync()
    for at in range(1, 100):
        first = rig.controller.sync_status().merged_point
        rig.source.write("sda", MIB, MIB, at)
        rig.source.write("sdb", 0, MIB, at)
        host = MergesHere(rig, paths, monkeypatch, at)
        if not host.is_killed():
            break
        merged = rig.controller.sync_close().merged_point  # goes on by itself
        outcomes.add(merged == first)
        assert rig.is_identical() is (merged != first)
        assert not list(Path(paths.sync).glob("delta-*"))
    assert rig.sync().how == "changed" and rig.is_identical()
    assert outcomes == {True, False}, "kills on both sides of the complete marker"


class MergesHere:
    """One sync whose `sync complete` runs in this process, and dies at its n-th step."""

    def __init__(self, rig: Rig, paths: Paths, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self._rig, self._paths, self._patch, self._at = rig, paths, monkeypatch, at
        real = rig.controller
        self.disks, self.sync_open, self.forward = real.disks, real.sync_open, real.forward
        self._dead = False

    def sync_close(self, progress: object = None) -> SyncStatus:
        if self._dead:
            raise Killed
        return self._rig.controller.sync_close()

    def sync_complete(self, point: str, progress: object = None) -> SyncStatus:
        with self._patch.context() as patch:
            Reaper(patch, self._at)
            try:
                attempts.complete_attempt(self._paths, point, lambda _event: None)
            except Killed:
                self._dead = True
                raise
        return self._rig.controller.sync_status()

    def is_killed(self) -> bool:
        try:
            self._rig.sync(controller=self)
        except Killed:
            return True
        return False


def test_a_write_is_the_old_content_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state"
    durable.write_durably(file, b"old")

    def dies(_old: str, _new: str) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("os.replace", dies)
        durable.write_durably(file, b"new")
    assert file.read_bytes() == b"old"
    durable.write_durably(file, b"new")
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]
