"""Routes of targets. Handlers are synchronous, so FastAPI runs them (and the hub's calls) in its threads."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from refloat.api.common import PROBLEMS, Name, claimed_user, hub_of
from refloat.api.schemas import FailoverIn, JobOut, ReplicationOut, SyncIn, TargetOut
from refloat.clock import now
from refloat.model import OperatorDecision
from refloat.store.store import TargetStatus

router = APIRouter(prefix="/api/v1/targets", tags=["targets"], responses=PROBLEMS)


@router.get("", summary="All targets with their state and last sync point")
def list_targets(request: Request) -> list[TargetOut]:
    return [_shown(request, target) for target in hub_of(request).targets()]


@router.get("/{name}", summary="One target")
def show_target(request: Request, name: Name) -> TargetOut:
    return _shown(request, hub_of(request).target(name))


@router.post("/{name}/sync", status_code=202, summary="Start a sync; its progress is in the target")
def sync_target(request: Request, name: Name, body: SyncIn | None = None) -> TargetOut:
    hub = hub_of(request)
    hub.start_sync(name, body.full if body else False)
    return _shown(request, hub.target(name))


@router.post("/{name}/provision", status_code=202, summary="Make its controller, and sync it a first time")
def add_target(request: Request, name: Name) -> TargetOut:
    """As the estate file wishes it, or goes on with what an interrupted attempt made. Progress and outcome
    are in the target."""
    hub = hub_of(request)
    hub.add_target(name)
    return _shown(request, hub.target(name))


@router.post(
    "/{name}/remove", status_code=202, summary="Delete the controller that was made, and the replica"
)
def remove_target(request: Request, name: Name) -> TargetOut:
    """Refused with 409 while a failover or its recovered VM uses it."""
    hub = hub_of(request)
    hub.remove_target(name)
    return _shown(request, hub.target(name))


@router.post("/{name}/pause", summary="Start no sync until it is resumed")
def pause_target(request: Request, name: Name) -> TargetOut:
    return _shown(request, hub_of(request).pause(name))


@router.post("/{name}/resume", summary="Replicate again")
def resume_target(request: Request, name: Name) -> TargetOut:
    return _shown(request, hub_of(request).resume_replication(name))


@router.post("/{name}/failover", status_code=201, summary="Start a failover job")
def start_failover(request: Request, response: Response, name: Name, body: FailoverIn) -> JobOut:
    """Refused with 409 while the target is busy, or where the mode cannot be run."""
    by = claimed_user(request)
    override = OperatorDecision(by, now(), "override", body.source_is_off) if body.source_is_off else None
    job = hub_of(request).start_failover(name, body.mode, override)
    response.headers["location"] = f"/api/v1/jobs/{job.id}"
    return JobOut.model_validate(job)


def _shown(request: Request, target: TargetStatus) -> TargetOut:
    shown = TargetOut.model_validate(target)
    replication = hub_of(request).replication(target.name)
    return shown.model_copy(update={"replication": ReplicationOut.model_validate(replication)})
