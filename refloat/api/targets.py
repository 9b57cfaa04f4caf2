"""Routes of targets. Handlers are synchronous, so FastAPI runs them (and the hub's calls) in its threads."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from refloat.access import Permission
from refloat.api.common import PROBLEMS, Name, hub_of
from refloat.api.door import FailsOver, Looks, ManagesEstate, Needs, Replicates
from refloat.api.schemas import FailoverIn, JobOut, ReplicationOut, SyncIn, TargetOut, TargetsOut
from refloat.api.schemas_plan import PlanOut, plan_out
from refloat.clock import now
from refloat.model import HealthState, Mode, OperatorDecision, TargetState
from refloat.store.store import TargetStatus

router = APIRouter(prefix="/api/v1/targets", tags=["targets"], responses=PROBLEMS)


@router.get("", summary="Targets with their state and last sync point, by name, a page at a time")
def list_targets(
    request: Request,
    _: Looks,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
    after: Annotated[str, Query(max_length=128, description="`next` of the page before")] = "",
    search: Annotated[str, Query(max_length=128, description="A part of the name")] = "",
    state: TargetState | None = None,
    health: Annotated[HealthState | None, Query(description="Of the controller, when last asked")] = None,
) -> TargetsOut:
    hub = hub_of(request)
    found = hub.targets(limit + 1, after=after, search=search, state=state, health=health)
    targets = [_shown(request, target) for target in found[:limit]]
    return TargetsOut(targets=targets, next=targets[-1].name if len(found) > limit else "")


@router.get("/{name}", summary="One target")
def show_target(request: Request, _: Looks, name: Name) -> TargetOut:
    return _shown(request, hub_of(request).target(name))


@router.get("/{name}/plan", summary="What a failover would do, by the last look at the replica")
def show_plan(request: Request, _: Looks, name: Name, mode: Mode = Mode.PLANNED) -> PlanOut:
    """Nothing is asked of the platforms: it is worked out after each sync. 404 (`no_plan`) before the first,
    409 (`network_unmapped`) where the estate file leads an adapter nowhere in this mode."""
    return plan_out(name, hub_of(request).plan(name, mode))


@router.post("/{name}/sync", status_code=202, summary="Start a sync; its progress is in the target")
def sync_target(request: Request, who: Replicates, name: Name, body: SyncIn | None = None) -> TargetOut:
    hub = hub_of(request)
    hub.start_sync(name, body.full if body else False, by=who.signature)
    return _shown(request, hub.target(name))


@router.post("/{name}/provision", status_code=202, summary="Make its controller, and sync it a first time")
def add_target(request: Request, who: ManagesEstate, name: Name) -> TargetOut:
    """As the estate file wishes it, or goes on with what an interrupted attempt made. Progress and outcome
    are in the target."""
    hub = hub_of(request)
    hub.add_target(name, by=who.signature)
    return _shown(request, hub.target(name))


@router.post(
    "/{name}/remove", status_code=202, summary="Delete the controller that was made, and the replica"
)
def remove_target(request: Request, who: ManagesEstate, name: Name) -> TargetOut:
    """Refused with 409 while a failover or its recovered VM uses it."""
    hub = hub_of(request)
    hub.remove_target(name, by=who.signature)
    return _shown(request, hub.target(name))


@router.post("/{name}/pause", summary="Start no sync until it is resumed")
def pause_target(request: Request, who: Replicates, name: Name) -> TargetOut:
    return _shown(request, hub_of(request).pause(name, by=who.signature))


@router.post("/{name}/resume", summary="Replicate again")
def resume_target(request: Request, who: Replicates, name: Name) -> TargetOut:
    return _shown(request, hub_of(request).resume_replication(name, by=who.signature))


@router.post("/{name}/failover", status_code=201, summary="Start a failover job")
def start_failover(
    request: Request,
    response: Response,
    who: FailsOver,
    name: Name,
    body: FailoverIn,
    idempotency_key: Annotated[
        str, Header(max_length=128, description="A start that is asked for again with it is the same job")
    ] = "",
) -> JobOut:
    """Refused with 409 while the target is busy, or where the mode cannot be run."""
    override = None
    if body.source_is_off:
        Needs(Permission.OVERRIDE)(request)
        override = OperatorDecision(who.signature, now(), "override", body.source_is_off)
    job = hub_of(request).start_failover(name, body.mode, override, by=who.signature, key=idempotency_key)
    response.headers["location"] = f"/api/v1/jobs/{job.id}"
    return JobOut.model_validate(job)


def _shown(request: Request, target: TargetStatus) -> TargetOut:
    shown = TargetOut.model_validate(target)
    replication = hub_of(request).replication_of(target)
    return shown.model_copy(update={"replication": ReplicationOut.model_validate(replication)})
