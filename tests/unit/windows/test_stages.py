"""The stage table: what follows from what, the final word, and that the guest gets the same tables."""

from __future__ import annotations

import itertools
import re

import pytest

from refloat.guest.firstboot.windows import stages
from refloat.guest.firstboot.windows.stages import (
    ATTEMPTS,
    DECISIONS,
    RESTARTS,
    STAGES,
    VERDICTS,
    Outcome,
    Phase,
    State,
    Step,
    crosses,
    decide,
    status,
)
from refloat.model import Remediation

DONE = {stage.name: State.DONE for stage in STAGES}


def test_the_stages_are_in_their_order() -> None:
    names = [stage.name for stage in STAGES]
    assert names == ["ready", "drivers", "disks", "agent", "stale", "network", "verify"]
    phases = [stage.phase for stage in STAGES]
    assert phases == sorted(phases, key=[Phase.FIRST, Phase.POST].index)
    assert [stage.name for stage in STAGES if stage.required] == ["drivers", "disks", "network", "verify"]


def test_every_outcome_has_a_decision() -> None:
    assert len(DECISIONS) == len(Outcome) * 4
    for outcome, attempts, restarts, left in itertools.product(Outcome, range(1, 5), range(5), (False, True)):
        decision = decide(outcome, attempts, restarts, left)
        if decision.state is State.PENDING:
            assert attempts < ATTEMPTS and left
        if decision.step is Step.RESTART:
            assert restarts < RESTARTS and left
            assert decision.state is State.PENDING
        if decision.step is Step.RETRY:
            assert decision.state is State.PENDING
        assert (decision.state is State.DONE) == (outcome in (Outcome.DONE, Outcome.RESTART))


def test_a_failure_while_a_restart_is_wanted_waits_for_it() -> None:
    assert decide(Outcome.FAILED, 1, 0, True, wanted=True).step is Step.RESTART
    assert decide(Outcome.FAILED, 1, RESTARTS, True, wanted=True).step is Step.RETRY
    assert decide(Outcome.DONE, 1, 0, True, wanted=True).step is Step.NEXT


@pytest.mark.parametrize("name", [stage.name for stage in STAGES])
@pytest.mark.parametrize("state", [State.PENDING, State.FAILED, None])
def test_the_word_for_one_stage_that_is_not_done(name: str, state: State | None) -> None:
    states = {key: value for key, value in DONE.items() if key != name}
    if state is not None:
        states[name] = state
    required = next(stage.required for stage in STAGES if stage.name == name)
    assert status(states, ()) is (Remediation.FAILED if required else Remediation.PARTIAL)


def test_the_word_when_all_is_done() -> None:
    assert status(DONE, ()) is Remediation.SUCCEEDED
    assert status({**DONE, "agent": State.SKIPPED}, ()) is Remediation.SUCCEEDED
    assert status(DONE, ("a driver is missing",)) is Remediation.PARTIAL
    assert status({}, ()) is Remediation.FAILED


def test_restarts_are_due_between_phases_and_at_the_end() -> None:
    by_name = {stage.name: stage for stage in STAGES}
    assert crosses(by_name["network"], by_name["stale"])
    assert crosses(None, by_name["verify"])
    assert not crosses(by_name["verify"], by_name["network"])
    assert not crosses(by_name["drivers"], by_name["ready"])
    assert not crosses(by_name["ready"], None)


# ---------------------------------------------------------------- as the guest reads them

_ROW = re.compile(r"^    '([^']+)' = (.+)$", re.MULTILINE)


def _table(text: str, name: str) -> dict[str, str]:
    body = text.partition(f"${name} = @{{\n")[2].partition("\n}\n")[0]
    return dict(_ROW.findall(body))


def test_the_script_decides_by_the_same_tables() -> None:
    text = stages.powershell()
    assert f"$MaxAttempts = {ATTEMPTS}\n" in text and f"$MaxRestarts = {RESTARTS}\n" in text
    assert _table(text, "Verdicts") == {key: f"'{word}'" for key, word in VERDICTS.items()}
    decisions = _table(text, "Decisions")
    assert decisions.keys() == DECISIONS.keys()
    for key, decision in DECISIONS.items():
        wants = "$true" if decision.wants_restart else "$false"
        row = f"@{{ State = '{decision.state}'; Step = '{decision.step}'; WantsRestart = {wants} }}"
        assert decisions[key] == row
    rows = re.findall(r"Name = '(\w+)'; Phase = '(\w+)'; Required = \$(\w+); Limit = (\d+)", text)
    assert rows == [(s.name, s.phase, str(s.required).lower(), str(s.limit)) for s in STAGES]
    assert _table(text, "WhileWanted") == {"failed": "'again'"}
