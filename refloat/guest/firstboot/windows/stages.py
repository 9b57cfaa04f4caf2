"""The stages in a Windows guest: rows of data, and what follows from an attempt: pure functions over tables.

The tables are rendered into the script and into the launcher, so that what Python tests is what runs.
What ends it in any case: attempts of a stage are counted before they begin, restarts before they are asked
for, starts of the script before each; the launcher ends a stage that takes longer than its limit; and the
clock that counts against the deadline is the launcher's own, which no change of the guest's time moves.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from refloat.model import Remediation

ATTEMPTS = 3  # of one stage
RESTARTS = 3  # that the remediation asks for; the guest's own do not count
SILENT = 3  # starts of the script in a row that begin no stage: PowerShell does not work here


class Phase(StrEnum):
    FIRST = "first"  # the first boot: installs
    POST = "post"  # after the restart that this needed, if any: applies, verifies


class Outcome(StrEnum):
    """What became of one attempt at a stage."""

    DONE = "done"
    SKIPPED = "skipped"  # the plan has nothing for it
    RESTART = "restart"  # done, once Windows has restarted
    AGAIN = "again"  # to be repeated after a restart
    FAILED = "failed"
    DIED = "died"  # the attempt was begun and nothing more is known: a power cut, a crash, out of time


class State(StrEnum):
    PENDING = "pending"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


class Step(StrEnum):
    NEXT = "next"
    RETRY = "retry"
    RESTART = "restart"


@dataclass(frozen=True)
class Stage:
    """`limit`: seconds for one attempt, then the launcher ends it."""

    name: str
    phase: Phase
    required: bool
    limit: int


STAGES = (
    Stage("ready", Phase.FIRST, False, 600),
    Stage("drivers", Phase.FIRST, True, 900),
    Stage("disks", Phase.FIRST, True, 300),
    Stage("agent", Phase.FIRST, False, 600),
    # Before addresses are set: the old adapter may hold them still.
    Stage("stale", Phase.FIRST, False, 300),
    Stage("network", Phase.POST, True, 600),
    Stage("verify", Phase.POST, True, 600),
)

# Every start of the script either begins an attempt at a stage or is silent.
RUNS = ATTEMPTS * len(STAGES) + SILENT


@dataclass(frozen=True)
class Decision:
    state: State
    step: Step
    wants_restart: bool = False


# What follows from an outcome, by whether the stage may be attempted again and Windows restarted again.
# None stands for either. The first row that matches holds.
_RULES: tuple[tuple[Outcome, bool | None, bool | None, Decision], ...] = (
    (Outcome.DONE, None, None, Decision(State.DONE, Step.NEXT)),
    (Outcome.SKIPPED, None, None, Decision(State.SKIPPED, Step.NEXT)),
    (Outcome.RESTART, None, None, Decision(State.DONE, Step.NEXT, wants_restart=True)),
    (Outcome.AGAIN, True, True, Decision(State.PENDING, Step.RESTART)),
    (Outcome.AGAIN, None, None, Decision(State.FAILED, Step.NEXT)),
    (Outcome.FAILED, True, None, Decision(State.PENDING, Step.RETRY)),
    (Outcome.FAILED, False, None, Decision(State.FAILED, Step.NEXT)),
    (Outcome.DIED, True, None, Decision(State.PENDING, Step.RETRY)),
    (Outcome.DIED, False, None, Decision(State.FAILED, Step.NEXT)),
)


def _rule(outcome: Outcome, again: bool, restart: bool) -> Decision:
    return next(
        decision
        for wanted, if_again, if_restart, decision in _RULES
        if wanted is outcome and if_again in (None, again) and if_restart in (None, restart)
    )


def _key(*parts: str | bool) -> str:
    return ",".join(part if isinstance(part, str) else str(int(part)) for part in parts)


# By "outcome,again,restart" with 0 and 1: what the script looks up.
DECISIONS: Mapping[str, Decision] = {
    _key(outcome, again, restart): _rule(outcome, again, restart)
    for outcome, again, restart in itertools.product(Outcome, (False, True), (False, True))
}

# By "required,clean": whether every required stage is done, and whether nothing else is to be complained of.
VERDICTS: Mapping[str, Remediation] = {
    _key(False, False): Remediation.FAILED,
    _key(False, True): Remediation.FAILED,
    _key(True, False): Remediation.PARTIAL,
    _key(True, True): Remediation.SUCCEEDED,
}


# What an outcome stands for while a restart is wanted, and possible: a driver that works only then may be all
# that was missing.
WHILE_WANTED: Mapping[Outcome, Outcome] = {Outcome.FAILED: Outcome.AGAIN}


def decide(outcome: Outcome, attempts: int, restarts: int, time_left: bool, wanted: bool = False) -> Decision:
    """What follows from the outcome of the attempt that was number `attempts` of its stage, when Windows was
    restarted `restarts` times. After the deadline nothing is attempted again. `wanted`: an earlier one wants
    a restart that has not come yet."""
    again = attempts < ATTEMPTS and time_left
    restart = restarts < RESTARTS and time_left
    if wanted and restart:
        outcome = WHILE_WANTED.get(outcome, outcome)
    return DECISIONS[_key(outcome, again, restart)]


def crosses(now: Stage | None, before: Stage | None) -> bool:
    """Whether a restart that is wanted has to happen between these two: at a phase's end. None: nothing."""
    return before is not None and (now is None or now.phase is not before.phase)


def status(states: Mapping[str, State], problems: Sequence[str]) -> Remediation:
    """The final word: never succeeded, nor partial, with a required stage that is not done. A stage that is
    missing from `states` was never reached."""
    fine = (State.DONE, State.SKIPPED)
    required = all(states.get(stage.name) in fine for stage in STAGES if stage.required)
    optional = all(states.get(stage.name) in fine for stage in STAGES if not stage.required)
    return VERDICTS[_key(required, optional and not problems)]


# ---------------------------------------------------------------- as the guest reads them


def powershell() -> str:
    """The tables as PowerShell. Names come from the rows above: no character in them needs quoting."""
    lines = [
        "# Made from stages.py: not to be edited by hand.",
        f"$MaxAttempts = {ATTEMPTS}",
        f"$MaxRestarts = {RESTARTS}",
        "$Stages = @(",
        *(_stage(stage) for stage in STAGES),
        ")",
        "$Decisions = @{",
        *(f"    '{key}' = {_decision(decision)}" for key, decision in DECISIONS.items()),
        "}",
        "$WhileWanted = @{",
        *(f"    '{outcome}' = '{instead}'" for outcome, instead in WHILE_WANTED.items()),
        "}",
        "$Verdicts = @{",
        *(f"    '{key}' = '{word}'" for key, word in VERDICTS.items()),
        "}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _stage(stage: Stage) -> str:
    comma = "" if stage is STAGES[-1] else ","
    fields = f"Name = '{stage.name}'; Phase = '{stage.phase}'; Required = {_flag(stage.required)}"
    return f"    @{{ {fields}; Limit = {stage.limit} }}{comma}"


def _decision(decision: Decision) -> str:
    wants = _flag(decision.wants_restart)
    return f"@{{ State = '{decision.state}'; Step = '{decision.step}'; WantsRestart = {wants} }}"


def _flag(value: bool) -> str:
    return "$true" if value else "$false"
