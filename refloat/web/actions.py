"""What the page asks the hub to do. The hub decides whether it may be; here is only the form."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from refloat.access import Permission
from refloat.api.common import Name, hub_of
from refloat.api.door import FailsOver, Needs, Replicates
from refloat.clock import now
from refloat.errors import Refused
from refloat.model import Mode, OperatorDecision
from refloat.web.views import RIGHTS

router = APIRouter()

Why = Annotated[str, Form(max_length=500)]
Ticked = Annotated[str, Form(max_length=3)]


def _go_to(path: str) -> Response:
    return Response(status_code=200, headers={"hx-redirect": path})


@router.post("/targets/{name}/sync")
def sync(request: Request, who: Replicates, name: Name, full: Ticked = "") -> Response:
    hub_of(request).start_sync(name, bool(full), by=who.signature)
    return _go_to(f"/targets/{name}")


@router.post("/targets/{name}/pause")
def pause(request: Request, who: Replicates, name: Name) -> Response:
    hub_of(request).pause(name, by=who.signature)
    return _go_to(f"/targets/{name}")


@router.post("/targets/{name}/resume")
def resume(request: Request, who: Replicates, name: Name) -> Response:
    hub_of(request).resume_replication(name, by=who.signature)
    return _go_to(f"/targets/{name}")


@router.post("/targets/{name}/failover/{mode}")
def start(
    request: Request,
    who: FailsOver,
    name: Name,
    mode: Mode,
    key: Annotated[str, Form(min_length=8, max_length=64)],
    source_is_off: Why = "",
    confirmed: Ticked = "",
) -> Response:
    if mode is not Mode.TEST and not confirmed:
        raise Refused(
            "the start was not confirmed",
            code="not_confirmed",
            hint="tick that you have read what will happen",
        )
    override = None
    if source_is_off.strip():
        Needs(Permission.OVERRIDE)(request)
        override = OperatorDecision(who.signature, now(), "override", source_is_off.strip())
    job = hub_of(request).start_failover(name, mode, override, by=who.signature, key=key)
    return _go_to(f"/jobs/{job.id}")


@router.post("/jobs/{job_id}/{what}")
def decide(request: Request, job_id: Name, what: str, reason: Why = "", confirmed: Ticked = "") -> Response:
    """commit, rollback, abort or resume. `confirmed` is the tick beside what it means."""
    hub = hub_of(request)
    if what not in RIGHTS:
        raise Refused(f"{what} is no decision", code="unknown_decision", hint="load the page again")
    who = Needs(RIGHTS[what])(request).signature
    if what in ("commit", "rollback") and not confirmed:
        raise Refused(
            f"the {what} was not confirmed",
            code="not_confirmed",
            hint="tick that you know what it means",
        )
    if what == "commit":
        hub.commit(job_id, who, reason)
    elif what == "rollback":
        hub.rollback(job_id, who, bool(confirmed), reason)
    elif what == "abort":
        hub.abort(job_id, who, bool(confirmed), reason)
    else:
        hub.resume(job_id, who, reason)
    return _go_to(f"/jobs/{job_id}")
