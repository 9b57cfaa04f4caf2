"""The API's JSON, as pydantic models. They mirror model.py's records; only this edge knows pydantic."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from refloat.model import (
    Action,
    FacetState,
    HealthState,
    JobState,
    Mode,
    Observer,
    Remediation,
    TargetState,
    Word,
)


class _Record(BaseModel):
    """Built from the frozen dataclasses of the store."""

    model_config = ConfigDict(from_attributes=True)


class Problem(BaseModel):
    """Every error has this form."""

    code: str = Field(description="Stable and machine-readable", examples=["target_busy"])
    message: str = Field(description="What is wrong, and where")
    hint: str = Field(description="What to do next; may be empty")


class Health(BaseModel):
    status: str = Field(description="'ok' while the hub answers")
    version: str


class Ready(BaseModel):
    ready: bool


class SyncPointOut(_Record):
    """One instant of the source at which every replica disk is complete."""

    id: str
    taken: str = Field(description="ISO 8601, UTC")
    checkpoint: str
    how: str = Field(description="full, changed or compared")
    transferred: int = Field(description="Bytes")
    reason: str


class ReadinessOut(_Record):
    """What a failover of this sync point would meet."""

    at: str
    point: str
    ready: bool
    reasons: list[str]
    warnings: list[str]


class ControllerOut(_Record):
    """How the target's controller was when it was last asked: at the begin of its last sync."""

    at: str = Field(description="ISO 8601, UTC")
    state: HealthState
    text: str
    hint: str = Field(description="What to do about it; may be empty")


class ReplicationOut(_Record):
    """Seconds throughout."""

    age: float | None = Field(description="Of the last complete sync point")
    rpo: int | None = Field(description="The age that the policy aims at")
    late: bool
    next_sync: float | None = Field(description="By schedule; null without one or while paused")


class TargetOut(_Record):
    """A replication target as it is now."""

    name: str
    state: TargetState
    holder: str = Field(description="The job or sync that the target is busy with; empty when free")
    message: str
    sync_point: SyncPointOut | None
    progress: dict[str, Any] | None = Field(description="Of the sync under way, in bytes")
    paused: bool
    readiness: ReadinessOut | None
    health: ControllerOut | None
    replication: ReplicationOut | None = None


class TargetsOut(BaseModel):
    targets: list[TargetOut]
    next: str = Field(description="Give it as `after` for the next page; empty: this was the last")


class FailoverIn(BaseModel):
    """What to start."""

    model_config = ConfigDict(extra="forbid")
    mode: Mode
    source_is_off: str = Field(
        default="",
        max_length=500,
        description="Emergency: why the operator knows that the source is off, where its platform is silent",
    )


class SyncIn(BaseModel):
    """How to sync."""

    model_config = ConfigDict(extra="forbid")
    full: bool = Field(default=False, description="Believe nothing of what the replica holds")


class DecisionIn(BaseModel):
    """What the operator decides about a job."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(default="", max_length=500, description="Kept in the evidence")
    discard_writes: bool = Field(
        default=False,
        description="Rollback and abort: acknowledges that what the recovered VM has written is lost",
    )


class JobOut(_Record):
    id: str
    target: str
    mode: Mode
    state: JobState
    created: str = Field(description="ISO 8601, UTC")
    finished: str = Field(description="Empty while the job is open")
    abort_requested: bool
    error: dict[str, Any] | None = Field(description="Why it was refused, rolled back or blocked")


class JobsOut(BaseModel):
    jobs: list[JobOut]
    next: str = Field(description="Give it as `before` for the next page; empty: this was the last")


class AttemptOut(_Record):
    number: int
    started: str
    finished: str = Field(description="Empty while it is under way, and for ever if it was interrupted")
    error: dict[str, Any] | None


class StepOut(_Record):
    step: str
    phase: str = Field(description="do, undo or commit")
    started: str
    finished: str = Field(description="Empty while the step is under way")
    attempts: int
    error: dict[str, Any] | None = Field(description="Of the last attempt")
    history: list[AttemptOut] = Field(description="Every attempt, the last one included")


class ProofOut(_Record):
    observer: Observer
    holds: bool
    text: str


class FacetOut(_Record):
    name: str
    state: FacetState
    required: bool
    proofs: list[ProofOut]


class VerdictOut(_Record):
    word: Word
    reasons: list[str]
    facets: list[FacetOut]


class DecisionOut(_Record):
    """What was decided about the guest, and why."""

    action: Action
    reasons: list[str]


class RemediationOut(_Record):
    """What became of what was staged in the guest, so far."""

    at: str = Field(description="Since when; ISO 8601, UTC")
    status: Remediation
    why: str


class SightOut(_Record):
    """What the console began to show. An empty state: nothing was recognised any more."""

    state: str
    words: str = Field(description="The guest's: untrusted text")
    at: str = Field(description="ISO 8601, UTC")
    where: str = Field(description="screen or serial")
    picture: str = Field(description="One of the evidence's screenshots, or empty")


class JobDetail(JobOut):
    """A job with its steps, and its decision and verdict once there are any."""

    steps: list[StepOut]
    decision: DecisionOut | None
    verdict: VerdictOut | None
    remediation: RemediationOut | None
    console: list[SightOut] = Field(description="What was recognised on the recovered VM's console, in order")


class EventOut(_Record):
    id: int
    job: str
    at: str
    kind: str
    data: dict[str, Any]


class EventsOut(BaseModel):
    events: list[EventOut]
    next: int = Field(description="Pass it as `after` in the next call")
