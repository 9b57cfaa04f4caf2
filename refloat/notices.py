"""What is worth a notice, and which kind of one. Pure.

A notice holds names, states and codes: no secret, and of the guest nothing but the verdict's word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from refloat.errors import Aborted
from refloat.model import ControllerHealth, HealthState, JobState, Mode, TargetState, Word
from refloat.text import span


class Kind(StrEnum):
    """Part of what receivers rely on: a name keeps its meaning."""

    STARTED = "job.started"
    REFUSED = "job.refused"
    VERDICT_SUCCEEDED = "job.verdict_succeeded"
    VERDICT_PARTIAL = "job.verdict_partial"
    VERDICT_FAILED = "job.verdict_failed"
    REMINDER = "job.reminder"
    FAILED = "job.failed"
    ABORTED = "job.aborted"
    BLOCKED = "job.blocked"
    COMMITTED = "job.committed"
    ROLLED_BACK = "job.rolled_back"
    RPO_EXCEEDED = "target.rpo_exceeded"
    RPO_MET = "target.rpo_met"
    CONTROLLER_ILL = "controller.ill"
    CONTROLLER_WELL = "controller.well"
    TEST = "test"


VERDICTS = {
    Word.SUCCEEDED: Kind.VERDICT_SUCCEEDED,
    Word.PARTIAL: Kind.VERDICT_PARTIAL,
    Word.FAILED: Kind.VERDICT_FAILED,
}
_VERDICT = frozenset(VERDICTS.values())
# A test is sent because somebody asked for it, whatever the channel is for.
ALL = frozenset(Kind) - {Kind.TEST}
# What a channel's `events` may name beside single kinds.
GROUPS = {
    "all": ALL,
    "job": frozenset(kind for kind in ALL if kind.startswith("job.")),
    "verdict": _VERDICT,
    "waiting": _VERDICT | {Kind.BLOCKED, Kind.REMINDER},
    "health": frozenset(kind for kind in ALL if not kind.startswith("job.")),
    "trouble": frozenset(
        {
            Kind.REFUSED,
            Kind.VERDICT_PARTIAL,
            Kind.VERDICT_FAILED,
            Kind.FAILED,
            Kind.BLOCKED,
            Kind.REMINDER,
            Kind.RPO_EXCEEDED,
            Kind.CONTROLLER_ILL,
        }
    ),
}


class Alarm(StrEnum):
    """What is wrong with a target for a while: told when it begins, and when it is over."""

    RPO = "rpo"
    CONTROLLER = "controller"


ALARMS = {
    Alarm.RPO: (Kind.RPO_EXCEEDED, Kind.RPO_MET),
    Alarm.CONTROLLER: (Kind.CONTROLLER_ILL, Kind.CONTROLLER_WELL),
}


@dataclass(frozen=True)
class Notice:
    """`id` is the same at every delivery, to every channel. `detail` is the hub's own figures, in words."""

    id: str
    kind: Kind
    at: str
    target: str
    job: str = ""
    mode: Mode | None = None
    state: JobState | None = None
    verdict: Word | None = None
    step: str = ""
    error: str = ""
    detail: str = ""


def kinds_of(words: Iterable[str]) -> frozenset[Kind]:
    """The kinds that these words stand for, each a kind or a group. Raises ValueError for an unknown one."""
    found: frozenset[Kind] = frozenset()
    for word in words:
        found |= GROUPS[word] if word in GROUPS else {Kind(word)}
    return found


def of_state(
    state: JobState,
    before: JobState | None,
    error: str = "",
    aborted: bool = False,
    verdict: Word | None = None,
) -> Kind | None:
    """What a job's new state tells; None: nothing of its own. `error` is the code that it came with, and
    `aborted` that the operator asked for the job's end."""
    match state:
        case JobState.RUNNING:
            return Kind.STARTED
        case JobState.REFUSED:
            return Kind.ABORTED if error == Aborted.default_code else Kind.REFUSED
        case JobState.TEST_ACTIVE | JobState.AWAITING_COMMIT:
            return VERDICTS[verdict or Word.FAILED]
        case JobState.ROLLING_BACK if before is JobState.RUNNING:
            return Kind.ABORTED if aborted or error == Aborted.default_code else Kind.FAILED
        case JobState.BLOCKED:
            return Kind.BLOCKED
        case JobState.COMMITTED:
            return Kind.COMMITTED
        case JobState.ROLLED_BACK:
            return Kind.ROLLED_BACK
    return None


# While one of these holds, a replica's age says nothing that its operator does not know.
_NO_AIM = frozenset({TargetState.FAILOVER, TargetState.FAILED_OVER, TargetState.PROVISIONING})


def rpo_alarm(state: TargetState, late: bool, age: float | None) -> bool | None:
    """Whether the alarm ought to be up; None: as it is. Without an `age` the first sync is still to end."""
    if state in _NO_AIM or (age is None and state is not TargetState.ERROR):
        return None
    return late


def rpo_detail(age: float | None, rpo: int | None) -> str:
    aim = f"the aim is {span(rpo)}" if rpo is not None else "there is no aim any more"
    if age is None:
        return f"there is no complete sync point; {aim}"
    return f"the last complete sync point is {span(age)} old; {aim}"


def controller_detail(health: ControllerHealth) -> str:
    """What a program outside said of its silence stays with the hub."""
    return "it does not answer" if health.state is HealthState.SILENT else health.text
