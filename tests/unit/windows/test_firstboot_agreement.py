"""The simulated stage machine and the script's own, side by side: the same events, the same end.

The script is run by the interpreter, with only its stages themselves replaced; the simulation is what
test_firstboot_simulation.py tries everything on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from refloat.guest.firstboot.windows import staging
from refloat.guest.firstboot.windows.stages import RESTARTS, STAGES, Outcome, Stage
from tests.unit.windows.test_firstboot_staging import CASES, FACTS
from tests.windows.interpreter import Call
from tests.windows.ps_values import Table
from tests.windows.simulation import Event, Guest
from tests.windows.windows_model import Windows, staged
from tests.windows.windows_programs import DIR, STATE

OUTCOMES = {
    Event.WORKS: Outcome.DONE,
    Event.WORKS_AFTER_RESTART: Outcome.RESTART,
    Event.NEEDS_RESTART: Outcome.AGAIN,
    Event.FAILS: Outcome.FAILED,
}
End = tuple[str, dict[str, str], dict[str, int], int]


class Died(Exception):
    """PowerShell is gone."""


class Told(Guest):
    """The simulation without its world: an attempt ends as it is told."""

    def _outcome(self, stage: Stage, event: Event) -> Outcome:
        return OUTCOMES[event]


def _simulated(events: Sequence[Event], restarts_work: bool) -> End:
    guest = Told(iter(events), iter(()), restarts_work=restarts_work, deadline=10**9)
    word = guest.live()
    states = {name: str(state) for name, state in guest.disk.states.items()}
    return str(word), states, guest.disk.attempts, guest.asked


def _scripted(events: Sequence[Event], restarts_work: bool) -> End:
    windows = Windows()
    script = staged(windows, dict(staging.stage(CASES["preserve"], FACTS).files))
    left = iter(events)
    windows.begin()
    for _ in range(60):
        try:
            wish = windows.start(
                script, {"start-stage": lambda call: _attempt(left), "get-factsjson": _no_facts}
            )
        except Died:
            continue
        if wish == "done":
            break
        # The launcher would refuse a fourth.
        assert wish == "restart" and windows._number("restarts") <= RESTARTS
        if restarts_work:
            windows.begin()
    return _end(windows)


def _no_facts(call: Call) -> str:
    """The looks at the guest take most of the time, and change nothing here."""
    return '"uptime":1'


def _attempt(left: Iterator[Event]) -> Table:
    event = next(left, Event.WORKS)
    if event in (Event.HANGS, Event.DIES):
        raise Died
    result = Table()
    result["Outcome"], result["Text"] = str(OUTCOMES[event]), "as told"
    return result


def _end(windows: Windows) -> End:
    lines = windows.files[f"{STATE}checkpoint".lower()]
    kept = dict(line.split("=", 1) for line in lines)
    states = {stage.name: kept[f"STATE_{stage.name}"] for stage in STAGES}
    attempts = {stage.name: int(kept[f"ATTEMPTS_{stage.name}"]) for stage in STAGES}
    word = windows.files[f"{DIR}status.txt".lower()][0].partition("=")[2]
    return word, states, attempts, windows._number("restarts")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=st.lists(st.sampled_from(Event), max_size=25), restarts_work=st.booleans())
@example(events=[Event.FAILS] * 25, restarts_work=True)
@example(events=[Event.DIES] * 25, restarts_work=True)
@example(events=[Event.NEEDS_RESTART] * 25, restarts_work=True)
@example(events=[Event.WORKS_AFTER_RESTART] * 25, restarts_work=False)
@example(events=[Event.WORKS, Event.WORKS_AFTER_RESTART, Event.FAILS], restarts_work=True)
def test_the_script_comes_to_the_same_end(events: list[Event], restarts_work: bool) -> None:
    assert _scripted(events, restarts_work) == _simulated(events, restarts_work)


@pytest.mark.parametrize("event", Event)
def test_each_event_alone(event: Event) -> None:
    for stage in range(len(STAGES)):
        events = [*[Event.WORKS] * stage, event]
        assert _scripted(events, True) == _simulated(events, True)
