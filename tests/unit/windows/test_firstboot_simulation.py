"""The stage machine against every order of failures, hangs, power cuts and restarts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refloat.guest.firstboot.windows.stages import ATTEMPTS, RESTARTS, RUNS, SILENT, STAGES, State
from refloat.model import Remediation
from tests.windows.simulation import Event, Guest

FINE = (State.DONE, State.SKIPPED)
ENDS = (Remediation.SUCCEEDED, Remediation.PARTIAL, Remediation.FAILED)


def _guest(
    events: list[Event],
    cuts: list[int],
    powershell: bool = True,
    restarts_work: bool = True,
    deadline: int = 2000,
) -> Guest:
    return Guest(iter(events), iter(cuts), powershell, restarts_work, deadline)


def _check(guest: Guest) -> None:
    word = guest.live()
    disk = guest.disk
    assert word in ENDS
    assert disk.removed and disk.cleaned
    # The caps.
    assert all(count <= ATTEMPTS for count in guest.made.values())
    assert guest.asked <= RESTARTS
    assert disk.numbers["runs"] <= RUNS
    # The word.
    required = [disk.states.get(stage.name) for stage in STAGES if stage.required]
    if word is not Remediation.FAILED:
        assert all(state in FINE for state in required)
        assert guest.world.right()
    if word is Remediation.SUCCEEDED:
        assert all(disk.states[stage.name] in FINE for stage in STAGES)
        assert not disk.problems
    assert not guest.world.online & guest.world.clustered
    # The reports: numbers rise, and nothing but the end says that it is the end.
    numbers = [number for number, _ in guest.reports]
    assert numbers == sorted(numbers)
    ends = [(number, end) for number, end in guest.reports if end in ENDS]
    assert {end for _, end in ends} <= {word}
    assert len({number for number, _ in ends}) <= 1


@settings(max_examples=600, deadline=None)
@given(
    events=st.lists(st.sampled_from(Event), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=60),
    restarts_work=st.booleans(),
    powershell=st.booleans(),
    deadline=st.sampled_from((1, 300, 2000, 100_000)),
)
def test_whatever_happens_it_ends_within_the_caps(
    events: list[Event], cuts: list[int], restarts_work: bool, powershell: bool, deadline: int
) -> None:
    _check(_guest(events, cuts, powershell, restarts_work, deadline))


@pytest.mark.parametrize("stage", range(len(STAGES)))
@pytest.mark.parametrize("events", list(itertools.product(Event, repeat=3)), ids=lambda e: ",".join(e))
def test_every_order_of_three_events_at_every_stage(stage: int, events: tuple[Event, ...]) -> None:
    _check(_guest([*[Event.WORKS] * stage, *events], [], deadline=100_000))


@pytest.mark.parametrize("write", range(60))
def test_a_power_cut_before_every_write_and_then_peace(write: int) -> None:
    """One cut, wherever it comes, costs nothing but an attempt: the recovery succeeds."""
    guest = _guest([Event.WORKS_AFTER_RESTART], [write])
    _check(guest)
    assert guest.disk.finished is Remediation.SUCCEEDED


def test_all_works() -> None:
    guest = _guest([], [])
    _check(guest)
    assert guest.disk.finished is Remediation.SUCCEEDED
    assert guest.boots == 1
    assert guest.world.ghost is False and guest.world.stub is False


def test_a_driver_that_wants_a_restart_gets_it_before_the_network() -> None:
    guest = _guest([Event.WORKS, Event.WORKS_AFTER_RESTART], [])
    _check(guest)
    assert guest.disk.finished is Remediation.SUCCEEDED
    assert (guest.boots, guest.asked) == (2, 1)
    words = [word for _, word in guest.reports]
    assert words == [
        Remediation.RUNNING,
        Remediation.AWAITING_REBOOT,
        Remediation.RUNNING,
        Remediation.SUCCEEDED,
    ]


def test_optional_stages_that_fail_make_it_partial() -> None:
    optional = next(number for number, stage in enumerate(STAGES) if stage.name == "agent")
    guest = _guest([*[Event.WORKS] * optional, *[Event.FAILS] * ATTEMPTS], [])
    _check(guest)
    assert guest.disk.finished is Remediation.PARTIAL


@pytest.mark.parametrize("event", [Event.FAILS, Event.HANGS, Event.DIES, Event.NEEDS_RESTART])
@pytest.mark.parametrize("name", [stage.name for stage in STAGES if stage.required])
def test_a_required_stage_that_never_works_fails_it(name: str, event: Event) -> None:
    before = [stage.name for stage in STAGES].index(name)
    guest = _guest([*[Event.WORKS] * before, *[event] * 10], [], deadline=100_000)
    if event is Event.NEEDS_RESTART and name == "network":
        guest.restarts_work = False  # else the restart does its work
    _check(guest)
    assert guest.disk.finished is Remediation.FAILED
    assert guest.made[name] == ATTEMPTS


def test_a_powershell_that_does_not_work_is_tried_three_times() -> None:
    guest = _guest([], [], powershell=False)
    _check(guest)
    assert guest.disk.finished is Remediation.FAILED
    assert guest.disk.numbers["runs"] == SILENT


def test_power_that_never_stays_ends_it_all_the_same() -> None:
    """A cut soon after each start of a stage: every one is counted."""
    guest = _guest([], [9] * 200)
    _check(guest)
    assert guest.disk.numbers["runs"] <= RUNS


def test_the_deadline_ends_it() -> None:
    guest = _guest([Event.HANGS, Event.HANGS, Event.HANGS], [], deadline=1000)
    _check(guest)
    assert guest.disk.finished is Remediation.FAILED
    assert guest.disk.numbers["spent"] >= 1000
