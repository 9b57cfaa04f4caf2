"""A hub in memory: the contract of refloat.hub.Hub without store, engine or platforms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from refloat.access import Audit, People
from refloat.caretaker import Replication
from refloat.clock import now
from refloat.codec import decode
from refloat.errors import Busy, NotFound, Refused
from refloat.estate import Estate
from refloat.estate.live import LiveEstate
from refloat.evidence import FORMAT
from refloat.hub import Hub
from refloat.model import (
    Action,
    Decision,
    HealthState,
    JobState,
    Mode,
    OperatorDecision,
    Preview,
    Remediation,
    Sight,
    StatusChange,
    SyncPoint,
    TargetState,
    Verdict,
)
from refloat.notify.courier import Courier
from refloat.policy import Policy
from refloat.preview import PlanAhead, plan_ahead
from refloat.run import Networks
from refloat.store.outbox import Outbox
from refloat.store.seal import Seal
from refloat.store.store import Event, Job, StepRecord, Store, TargetStatus
from refloat.store.summaries import Summaries
from refloat.store.tables import Base
from refloat.store.vault import Vault

TOKEN = "test-token-0123456789abcdef"

ESTATE = {
    "version": 1,
    "sites": {"here": {"platform": "simulated", "uri": "/nonexistent"}},
    "policies": {"gold": {}},
    "protected": {"web": {"site": "here", "vm": "web"}},
    "targets": {
        "web": {
            "protected": "web",
            "site": "here",
            "controller": {"vm": "c", "address": "192.0.2.2", "identity": "/k", "host_key": "ssh-ed25519 A"},
            "disks": {"sda": "web-sda"},
        }
    },
}

FACETS = [
    {
        "name": "boot",
        "state": "verified",
        "required": True,
        "proofs": [{"observer": "guest", "holds": True, "text": "root is /dev/vda1"}],
    },
]


def point(number: int) -> SyncPoint:
    return SyncPoint(f"sp-{number}", "2026-03-01T10:00:00.000+00:00", f"cp-{number}", "full", 4096)


class FakeHub:
    """`at_sync` is the message of a failed sync; empty: it succeeds. `calls` are the operator's decisions."""

    data_dir = Path("/nonexistent")

    def __init__(self) -> None:
        self.known = {"web": TargetStatus("web", TargetState.READY, "", "", point(1), None)}
        self.by_id: dict[str, Job] = {}
        self.log: list[Event] = []
        self.calls: list[tuple[Any, ...]] = []
        self.verdict: dict[str, Any] | None = None
        self.preview: Preview | None = None
        self.at_sync = ""
        self.crash = False
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        Base.metadata.create_all(engine)
        self.people, self.audit, self.summaries = People(engine), Audit(engine), Summaries(engine)
        self.courier = Courier(Outbox(engine), (), "http://127.0.0.1:8410")
        self.vault = Vault(engine, Seal([b"k" * 32]))
        self.used: dict[str, list[str]] = {}  # sites by the sealed secret that they name
        self.taken: list[Estate] = []  # the estates that were applied
        self.estates = LiveEstate(Store(engine), self.audit, self.taken.append)
        self.estates.given(Estate.model_validate(ESTATE))
        self.estate = SimpleNamespace(targets=self.known, users_of=lambda secret: self.used.get(secret, []))

    @property
    def hub(self) -> Hub:
        return cast(Hub, self)

    # ------------------------------------------------------------ the contract

    def troubles(self) -> list[str]:
        return ["it is broken"] if self.crash else []

    def targets(
        self,
        limit: int | None = None,
        after: str = "",
        search: str = "",
        state: TargetState | None = None,
        health: HealthState | None = None,
    ) -> list[TargetStatus]:
        if self.crash:
            raise ZeroDivisionError("secret detail of a defect")
        named = [one for name, one in sorted(self.known.items()) if name > after and search in name]
        return [one for one in named if state in (None, one.state)][:limit]

    def target(self, name: str) -> TargetStatus:
        if name not in self.known:
            raise NotFound(f"unknown target: {name}", code="unknown_target", hint="list them")
        return self.known[name]

    def replication_of(self, target: TargetStatus) -> Replication:
        return Replication(61.0, 300, None)

    def plan(self, name: str, mode: Mode) -> PlanAhead:
        policy = Policy()
        return plan_ahead(self.target(name).name, self.preview, mode, Networks({"user": "net"}, {}), policy)

    def pause(self, name: str, by: str = "") -> TargetStatus:
        self.known[name] = replace(self.target(name), paused=True, state=TargetState.PAUSED)
        return self.known[name]

    def resume_replication(self, name: str, by: str = "") -> TargetStatus:
        self.known[name] = replace(self.target(name), paused=False, state=TargetState.READY)
        return self.known[name]

    def start_sync(self, name: str, full: bool = False, by: str = "") -> None:
        old = self.target(name)
        if old.holder:
            raise Busy(f"target {name} is busy with {old.holder}", code="target_busy", hint="wait")
        new = old if self.at_sync else replace(old, sync_point=point(2))
        self.known[name] = replace(new, message=self.at_sync)

    def add_target(self, name: str, by: str = "") -> None:
        old = self.target(name)
        made = replace(old, sync_point=point(1), state=TargetState.READY, message="")
        failed = replace(old, sync_point=None, state=TargetState.ERROR, message=self.at_sync)
        self.known[name] = failed if self.at_sync else made

    def remove_target(self, name: str, by: str = "") -> None:
        old = self.target(name)
        if old.holder:
            raise Busy(f"job {old.holder} uses target {name}", code="target_busy", hint="roll it back")
        self.known[name] = replace(old, sync_point=None, state=TargetState.PROVISIONING, message=self.at_sync)

    def start_failover(
        self,
        target: str,
        mode: Mode,
        override: OperatorDecision | None = None,
        by: str = "",
        key: str = "",
    ) -> Job:
        status = self.target(target)
        if override is not None and mode is not Mode.EMERGENCY:
            raise Refused("an override is for an emergency", code="override_unused", hint="leave it out")
        if status.holder:
            raise Busy(f"target {target} is busy with {status.holder}", code="target_busy", hint="wait")
        job = Job(f"{target}-abc123", target, mode, JobState.QUEUED, now(), "", False, None)
        self.by_id[job.id] = job
        return job

    def jobs(
        self, limit: int = 200, before: str = "", target: str = "", state: JobState | None = None
    ) -> list[Job]:
        return list(self.by_id.values())[:limit]

    def job(self, job_id: str) -> Job:
        if job_id not in self.by_id:
            raise NotFound(f"unknown job: {job_id}", code="unknown_job", hint="list them")
        return self.by_id[job_id]

    def steps(self, job_id: str) -> list[StepRecord]:
        self.job(job_id)
        at = "2026-03-01T10:00:0{}.000+00:00"
        return [StepRecord("preflight", "do", at.format(0), at.format(2), 1, None)]

    def events(self, job_id: str, after: int = 0) -> list[Event]:
        self.job(job_id)
        return [event for event in self.log if event.id > after][:3]  # small pages, so that paging is tested

    def commit(self, job_id: str, by: str, reason: str = "") -> Job:
        return self._decided(job_id, "commit", by, reason, JobState.COMMITTING, JobState.COMMITTED)

    def rollback(self, job_id: str, by: str, discard_writes: bool, reason: str = "") -> Job:
        if not discard_writes:
            raise Refused("writes", code="writes_not_acknowledged", hint="say so with --discard-writes")
        return self._decided(job_id, "rollback", by, reason, JobState.ROLLING_BACK, JobState.ROLLED_BACK)

    def abort(self, job_id: str, by: str, discard_writes: bool = False, reason: str = "") -> Job:
        return self._decided(job_id, "abort", by, reason, JobState.ROLLING_BACK, JobState.ROLLED_BACK)

    def resume(self, job_id: str, by: str, reason: str = "") -> Job:
        return self._decided(job_id, "resume", by, reason, JobState.ROLLING_BACK, JobState.BLOCKED)

    def outcome(self, job_id: str) -> tuple[Decision | None, Verdict | None]:
        self.job(job_id)
        if self.verdict is None:
            return None, None
        return Decision(Action.ADAPT, ("needs virtio",)), decode(Verdict, self.verdict)

    def remediation(self, job_id: str) -> StatusChange | None:
        if self.verdict is None:
            return None
        return StatusChange("2026-03-01T10:04:02.000+00:00", Remediation.AWAITING_REBOOT, "report 3")

    def console(self, job_id: str) -> tuple[Sight, ...]:
        at = "2026-03-01T10:04:01.000+00:00"
        login = Sight("login", "web login:", at, "screen", "1.png")
        seen = (Sight("grub-menu", "GNU GRUB  version 2.06", at), login)
        return seen if self.verdict is not None else ()

    def evidence(self, job_id: str) -> dict[str, Any]:
        job = self.job(job_id)
        absent = ("inventory", "sync_point", "facts", "plan", "hardware", "rollback_points", "adaptation")
        return {
            "format": FORMAT,
            "refloat": "0",
            "generated": now(),
            "limits": "application health is not proven",
            "job": {**vars(job), "error": job.error},
            "decision": {"action": "adapt", "reasons": ["needs virtio"]} if self.verdict else None,
            "verdict": self.verdict,
            **dict.fromkeys((*absent, "promoted", "findings", "reports", "decisions")),
            "steps": [],
            "states": [],
            "screenshots": [],
            "missing": [],
            "problems": [],
        }

    # ------------------------------------------------------------ what the tests arrange

    def happen(self, kind: str, job_id: str = "web-abc123", **data: Any) -> None:
        event = Event(
            len(self.log) + 1, job_id, f"2026-03-01T10:00:{len(self.log) % 60:02d}.000+00:00", kind, data
        )
        self.log.append(event)
        if kind == "state":
            self.by_id[job_id] = replace(self.by_id[job_id], state=JobState(data["state"]))

    def run_job(self, word: str | None = "succeeded", state: str = "awaiting_commit") -> str:
        """A job that has come to rest in `state`."""
        job = self.start_failover("web", Mode.PLANNED)
        self.happen("state", state="running")
        self.happen("step", step="preflight", phase="do")
        self.happen("progress", step="preflight", bytes_done=512, bytes_total=1024)
        self.happen("step_done", step="preflight", phase="do", error=None)
        if word:
            reasons = [] if word == "succeeded" else ["the gateway did not answer"]
            self.verdict = {"word": word, "reasons": reasons, "facets": FACETS}
        self.happen("state", state=state)
        return job.id

    def _decided(self, job_id: str, what: str, by: str, reason: str, *states: JobState) -> Job:
        self.job(job_id)
        self.calls.append((what, by, reason))
        for state in states:
            self.happen("state", job_id, state=state.value)
        return self.by_id[job_id]
