"""Each invariant, violated: the step that relies on it is not run, and the job says why.

Invariant 4 (no success without this boot's own reports) is in test_verdict.py and test_reports.py,
5 (the boundary) in guest/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refloat.failover import STEPS
from refloat.jobs import steps
from refloat.model import PowerState, TargetState
from tests.unit.fakes import World, make_world

ORDER = [step.name for step in STEPS]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    yield made
    made.store.engine.dispose()


def up_to(world: World, last: str) -> str:
    """A job whose steps before `last` are done."""
    job = world.job()
    for name in ORDER[: ORDER.index(last)]:
        assert steps.perform(world.run(job), name) is None, name
    return job


def test_nothing_violated_nothing_refused(world: World) -> None:
    job = up_to(world, "validate")
    assert world.destination.power is PowerState.RUNNING
    assert world.destination.defined.disks[0].serial == "rf-sda"
    assert world.store.job(job)


def source_returns(world: World) -> None:
    world.source.power = PowerState.RUNNING


def somebody_exports(world: World) -> None:
    world.controller.exports = ("rf-sda",)


def target_is_taken(world: World) -> None:
    holder = world.store.target("web").holder
    world.store.release_target("web", holder, TargetState.READY)
    world.store.claim_target("web", "sync-x", TargetState.SYNCING)


def overlay_vanishes(world: World) -> None:
    world.destination.overlays.pop("rf-sdb")


def base_is_written(world: World) -> None:
    world.destination.writes["/a"] += 1


VIOLATIONS: list[tuple[str, Callable[[World], None], str, str]] = [
    ("final-sync", source_returns, "invariant_1", "source web is running"),
    ("start-vm", source_returns, "invariant_1", "source web is running"),
    ("snapshot-disks", somebody_exports, "invariant_2", "still exports rf-sda"),
    ("adapt-guest", target_is_taken, "invariant_2", "held by sync-x"),
    ("adapt-guest", overlay_vanishes, "invariant_3", "no rollback point under rf-sdb"),
    ("start-vm", overlay_vanishes, "invariant_3", "no rollback point under rf-sdb"),
    ("stop-controller", base_is_written, "invariant_6", "/a was written below its rollback point"),
]


@pytest.mark.parametrize(("step", "violate", "code", "words"), VIOLATIONS)
def test_a_violated_invariant_stops_the_job(
    world: World, step: str, violate: Callable[[World], None], code: str, words: str
) -> None:
    job = up_to(world, step)
    violate(world)
    before = list(world.destination.calls)
    error = steps.perform(world.run(job), step)
    assert error is not None
    assert (error.code, words in error.message) == (code, True), error.message
    assert world.destination.calls == before, "the step must not have acted"


def test_commit_proves_again_that_the_source_is_off(world: World) -> None:
    job = up_to(world, "validate")
    source_returns(world)
    error = steps.commit(world.run(job), "merge-disks")
    assert error is not None and error.code == "invariant_1"
    assert world.destination.overlays, "nothing was merged"
    world.source.power = PowerState.OFF
    assert steps.undo(world.run(job), "start-vm") is None, "a commit that did not begin can be rolled back"


def test_a_commit_that_has_begun_cannot_be_rolled_back(world: World) -> None:
    job = up_to(world, "validate")
    world.destination.fail = {"merge": 1}
    assert steps.commit(world.run(job), "merge-disks") is not None
    error = steps.undo(world.run(job), "start-vm")
    assert error is not None and error.code == "commit_begun"
    assert world.destination.power is PowerState.RUNNING


def test_a_replica_that_was_written_blocks_its_rollback(world: World) -> None:
    """Invariant 6 at its end: the content after rollback is that of step 5, or nobody says so."""
    job = up_to(world, "validate")
    base_is_written(world)
    error = steps.undo(world.run(job), "snapshot-disks")
    assert error is not None and error.code == "replica_touched"
    # The operator resumes: the replica is given up, and the job comes to its end.
    assert steps.undo(world.run(job), "snapshot-disks") is None
    assert world.store.target("web").sync_point is None


def test_the_source_is_not_powered_on_beside_the_recovered_vm(world: World) -> None:
    job = up_to(world, "validate")
    error = steps.undo(world.run(job), "power-off-source")
    assert error is not None and error.code == "recovered_vm_runs"
    assert world.source.power is PowerState.OFF
