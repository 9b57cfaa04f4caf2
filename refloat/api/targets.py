"""Routes of targets. Handlers are synchronous, so FastAPI runs them (and the hub's calls) in its threads."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from refloat.api.common import PROBLEMS, Name, hub_of
from refloat.api.schemas import FailoverIn, JobOut, TargetOut

router = APIRouter(prefix="/api/v1/targets", tags=["targets"], responses=PROBLEMS)


@router.get("", summary="All targets with their state and last sync point")
def list_targets(request: Request) -> list[TargetOut]:
    return [TargetOut.model_validate(target) for target in hub_of(request).targets()]


@router.get("/{name}", summary="One target")
def show_target(request: Request, name: Name) -> TargetOut:
    return TargetOut.model_validate(hub_of(request).target(name))


@router.post("/{name}/sync", status_code=202, summary="Start a sync; its progress is in the target")
def sync_target(request: Request, name: Name) -> TargetOut:
    hub = hub_of(request)
    hub.start_sync(name)
    return TargetOut.model_validate(hub.target(name))


@router.post("/{name}/failover", status_code=201, summary="Start a failover job")
def start_failover(request: Request, response: Response, name: Name, body: FailoverIn) -> JobOut:
    """Refused with 409 while the target is busy, or where the mode cannot be run."""
    job = hub_of(request).start_failover(name, body.mode)
    response.headers["location"] = f"/api/v1/jobs/{job.id}"
    return JobOut.model_validate(job)
