"""From the hub's records to what a page shows. Nothing here changes anything, or knows HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from refloat.access import Permission
from refloat.caretaker import Replication
from refloat.clock import now, seconds_between
from refloat.codec import encode
from refloat.estate import Estate
from refloat.evidence import LIMITS
from refloat.evidence.render import timeline
from refloat.failover import RUNS_LIVE, STEPS
from refloat.model import JobState, Mode, Plan, TargetState
from refloat.policy import Policy
from refloat.store.store import Event, Job, TargetStatus

if TYPE_CHECKING:
    from refloat.hub import Hub

# ---------------------------------------------------------------- estate


def tiles(hub: Hub) -> list[dict[str, Any]]:
    """What an operator looks at first: how much of the estate is fine, and what waits for a person."""
    targets = hub.summaries.targets_by_state(tuple(hub.estate.targets))
    jobs = hub.summaries.jobs_by_state()
    waiting = sum(jobs.get(state, 0) for state in (JobState.AWAITING_COMMIT, JobState.TEST_ACTIVE))
    failed, blocked = targets.get(TargetState.ERROR, 0), jobs.get(JobState.BLOCKED, 0)
    busy = sum(targets.get(state, 0) for state in (TargetState.SYNCING, TargetState.FAILOVER))
    return [
        _tile("Protected VMs", sum(targets.values()), "none", "/"),
        _tile("Ready", targets.get(TargetState.READY, 0), "good", "/?state=ready"),
        _tile("At work", busy, _warn(busy), "/?state=syncing"),
        _tile("In error", failed, "bad" if failed else "none", "/?state=error"),
        _tile(
            "Waiting for a decision", waiting, "warn" if waiting else "none", "/jobs?state=awaiting_commit"
        ),
        _tile("Blocked jobs", blocked, "bad" if blocked else "none", "/jobs?state=blocked"),
    ]


def _warn(count: int) -> str:
    return "warn" if count else "none"


def _tile(title: str, count: int, tone: str, link: str) -> dict[str, Any]:
    return {"title": title, "count": count, "tone": tone, "link": link}


def target_row(status: TargetStatus, replication: Replication) -> dict[str, Any]:
    readiness = status.readiness
    word = "not looked at" if readiness is None else "ready" if readiness.ready else "would be refused"
    tone = "none" if readiness is None else "good" if readiness.ready else "bad"
    return {
        "name": status.name,
        "state": status.state,
        "holder": status.holder,
        "message": status.message,
        "health": status.health,
        "readiness": word,
        "readiness_tone": tone,
        "age": replication.age,
        "rpo": replication.rpo,
        "late": replication.late,
        "next_sync": replication.next_sync,
        "synced": status.sync_point.taken if status.sync_point else "",
        "paused": status.paused,
        "progress": _progress(status.progress),
    }


def _progress(data: dict[str, Any] | None) -> dict[str, Any] | None:
    """`share` in per cent, None where the whole is not known."""
    if not data:
        return None
    done, total = data.get("bytes_done"), data.get("bytes_total")
    known = isinstance(done, int | float) and isinstance(total, int | float) and total > 0
    share = min(100.0, 100 * done / total) if known else None  # type: ignore[operator]
    return {"text": str(data.get("message") or data.get("phase") or ""), "share": share}


# ---------------------------------------------------------------- policies

_DEFAULTS = Policy()


def policy_rows(policy: Policy) -> list[dict[str, Any]]:
    """Every setting, its own ones marked. Files with keys are named; their content is never read here."""
    shown = []
    for field in fields(Policy):
        value = encode(getattr(policy, field.name))
        own = value != encode(getattr(_DEFAULTS, field.name))
        if field.name != "name":
            shown.append({"name": field.name, "value": _value(value), "own": own})
    return shown


def _value(value: Any) -> str:
    if value in (None, [], {}, ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_value(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "; ".join(_value(item) for item in value)
    return str(value)


def policies(estate: Estate) -> list[dict[str, Any]]:
    names = sorted({"default", *estate.policies})
    used = {name: [] for name in names}  # type: dict[str, list[str]]
    for name in estate.targets:
        used.setdefault(estate.target(name).policy, []).append(name)
    return [
        {"name": name, "rows": policy_rows(estate.policy(name)), "targets": used.get(name, [])}
        for name in names
    ]


# ---------------------------------------------------------------- jobs

# What each step does, in the words of the page.
WORDS = {
    "preflight": "Look at platforms, space and the guest; decide. Nothing is changed.",
    "power-off-source": "Shut the source VM down.",
    "fence": "Prove that the source VM is off, or take the operator's word.",
    "final-sync": "Transfer what changed since the last sync.",
    "stop-exports": "End replication into the replica; flush it.",
    "snapshot-disks": "Make a rollback point under each replica disk.",
    "adapt-guest": "Change the guest so that it boots here. Every change is journaled.",
    "stop-controller": "Stop the controller VM.",
    "apply-compute": "Give it the protected VM's processors and memory.",
    "reorder-disks": "Let the replica's disks boot; park the controller's own.",
    "apply-networks": "Connect the planned networks and MACs.",
    "apply-firmware": "Set firmware and clock.",
    "start-vm": "Start the recovered VM.",
    "validate": "Watch it from outside.",
    "await-report": "Hear the guest; find the verdict.",
}
_PHASES = {"do": "Failover", "undo": "Rollback", "commit": "Commit"}

# What the operator may ask for in a state: (decision, permission, one-way or destructive).
CHOICES: dict[JobState, tuple[str, ...]] = {
    JobState.QUEUED: ("abort",),
    JobState.RUNNING: ("abort",),
    JobState.TEST_ACTIVE: ("rollback",),
    JobState.AWAITING_COMMIT: ("commit", "rollback"),
    JobState.BLOCKED: ("resume", "rollback"),
}
RIGHTS = {
    "abort": Permission.FAILOVER,
    "commit": Permission.DECIDE,
    "rollback": Permission.DECIDE,
    "resume": Permission.DECIDE,
}


def plan_steps(mode: Mode) -> list[dict[str, str]]:
    return [{"name": step.name, "words": WORDS[step.name]} for step in STEPS if mode in step.modes]


def job_rows(hub: Hub, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    words = hub.summaries.verdict_words([job.id for job in jobs])
    return [{**encode(job), "verdict": words.get(job.id, ""), "took": _took(job)} for job in jobs]


def _took(job: Job) -> float | None:
    return seconds_between(job.created, job.finished) if job.finished else None


def job_panel(hub: Hub, job_id: str) -> dict[str, Any]:
    """Everything of a job that may change while somebody looks."""
    job = hub.job(job_id)
    decision, verdict = hub.outcome(job_id)
    plan = hub.store.load(job_id, "plan", Plan)
    begun = encode(hub.steps(job_id))
    events = hub.summaries.last_events(job_id, 60)
    return {
        "job": job,
        "decision": decision,
        "verdict": encode(verdict),
        "remediation": hub.remediation(job_id),
        "phases": _phases(begun),
        "to_come": _to_come(job, begun),
        "progress": _last_progress(events),
        "log": [log_line(event) for event in reversed(events)],
        "screens": _screens(hub, job_id),
        "choices": [{"what": what, "right": RIGHTS[what]} for what in CHOICES.get(job.state, ())],
        "ran": any(step["step"] == RUNS_LIVE and step["phase"] == "do" for step in begun),
        "warnings": plan.warnings if plan else (),
        "limits": LIMITS,
        "at": now(),
    }


def _phases(begun: list[dict[str, Any]]) -> list[dict[str, Any]]:
    chosen = ((title, [step for step in begun if step["phase"] == phase]) for phase, title in _PHASES.items())
    return [
        {"title": title, "steps": timeline(steps), "begun": steps[0]["started"]}
        for title, steps in chosen
        if steps
    ]


def _to_come(job: Job, begun: list[dict[str, Any]]) -> list[str]:
    """Steps that have no mark yet, while the job still goes forward."""
    if job.state not in (JobState.QUEUED, JobState.RUNNING):
        return []
    seen = {step["step"] for step in begun}
    return [step.name for step in STEPS if job.mode in step.modes and step.name not in seen]


def _last_progress(events: Sequence[Event]) -> dict[str, Any] | None:
    """Of the step under way: what was said since it began."""
    for event in reversed(events):
        if event.kind in ("step", "step_done", "state"):
            return None
        if event.kind == "progress":
            return _progress(event.data) or None
    return None


_LOG = {
    "state": "is now {state}",
    "step": "{step}: {phase} begins",
    "step_done": "{step}: {phase} ended",
    "decision": "{by}: {what}",
    "reminder": "{message}",
    "evidence": "evidence was given out, seal {seal}",
}


def log_line(event: Event) -> dict[str, Any]:
    """One event in words; `trouble` marks an error."""
    data = {name: str(value) for name, value in event.data.items()}
    if "phase" in data:
        data["phase"] = _PHASES.get(data["phase"], data["phase"]).lower()
    data["state"] = data.get("state", "").replace("_", " ")
    error = event.data.get("error")
    form = _LOG.get(event.kind)
    try:
        text = form.format(**data) if form else _in_words(data)
    except KeyError:
        text = _in_words(data)
    if isinstance(error, dict):
        text = f"{text}: {error.get('message', '')}"
    if event.kind == "decision" and data.get("reason"):
        text = f"{text} ({data['reason']})"
    return {"id": event.id, "at": event.at, "kind": event.kind, "text": text, "trouble": bool(error)}


def _in_words(data: Mapping[str, str]) -> str:
    if "message" in data:
        return data["message"]
    return ", ".join(f"{name} {value}" for name, value in data.items() if value not in ("", "None"))


def _screens(hub: Hub, job_id: str) -> list[dict[str, str]]:
    folder = hub.data_dir / "jobs" / job_id / "screens"
    if not folder.is_dir():
        return []
    shown = []
    for file in sorted(folder.glob("*.png"))[-24:]:
        taken = datetime.fromtimestamp(file.lstat().st_mtime, UTC).isoformat(timespec="seconds")
        shown.append({"file": file.name, "label": file.stem.partition("-")[2] or file.stem, "at": taken})
    return shown
