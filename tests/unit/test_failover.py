"""The shape of a failover: order, undos, transitions, and invariants that are violated on purpose."""

from __future__ import annotations

import pytest

from refloat.failover import COMMIT, INVARIANTS, OBSERVING, RUNS_LIVE, STEPS, TRANSITIONS, may
from refloat.model import JobState, Mode


def test_steps_are_those_of_the_design() -> None:
    assert [step.name for step in STEPS] == [
        "preflight",
        "power-off-source",
        "fence",
        "final-sync",
        "stop-exports",
        "snapshot-disks",
        "adapt-guest",
        "stop-controller",
        "apply-compute",
        "reorder-disks",
        "apply-networks",
        "apply-firmware",
        "start-vm",
        "validate",
        "await-report",
    ]


def test_nothing_before_the_start_runs_live() -> None:
    assert [step.undo.__name__ for step in STEPS if step.name == RUNS_LIVE] == ["stop_vm"]


def test_an_empty_undo_has_its_reason() -> None:
    for step in (*STEPS, *COMMIT):
        assert step.undo.__doc__ or step.undo.__name__ != "nothing", step.name


def test_only_the_source_is_brought_back_when_the_replica_is_blocked() -> None:
    assert [step.name for step in STEPS if step.undo_when_blocked] == ["power-off-source", "fence"]


def test_a_test_failover_never_touches_the_source() -> None:
    names = {step.name for step in STEPS if Mode.TEST in step.modes}
    assert not names & {"power-off-source", "fence", "final-sync"}


def test_observing_steps_are_the_last() -> None:
    assert {step.name for step in STEPS[-2:]} == OBSERVING


@pytest.mark.parametrize("final", [JobState.REFUSED, JobState.COMMITTED, JobState.ROLLED_BACK])
def test_final_states_are_final(final: JobState) -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] is final]


def test_commit_is_one_way() -> None:
    assert not may(JobState.COMMITTING, JobState.ROLLING_BACK)
    assert not may(JobState.COMMITTED, JobState.ROLLING_BACK)


def test_every_state_but_the_first_can_be_reached() -> None:
    assert {after for _, after in TRANSITIONS} == set(JobState) - {JobState.QUEUED}


def test_each_invariant_names_a_step_from_which_it_holds() -> None:
    names = {step.name for step in STEPS}
    assert all(invariant.holds_from in names and invariant.words for invariant in INVARIANTS)
