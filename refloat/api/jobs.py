"""Routes of jobs: what they did, what they are doing, and the operator's decisions about them."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, StreamingResponse

from refloat.api.common import PROBLEMS, Name, hub_of
from refloat.api.door import Decides, FailsOver, Looks
from refloat.api.live import stream
from refloat.api.schemas import (
    DecisionIn,
    DecisionOut,
    EventOut,
    EventsOut,
    JobDetail,
    JobOut,
    JobsOut,
    RemediationOut,
    SightOut,
    StepOut,
    VerdictOut,
)
from refloat.model import JobState

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], responses=PROBLEMS)

LONGEST_WAIT = 25.0  # seconds: shorter than the idle timeouts of common proxies
_POLL = 0.3  # seconds between looks into the store; no thread is held in between

# The page needs no script and loads nothing: say so, whatever a guest managed to put into it.
_PAGE_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


@router.get("", summary="Jobs, newest first, a page at a time")
def list_jobs(
    request: Request,
    _: Looks,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str, Query(max_length=128, description="`next` of the page before")] = "",
    target: Annotated[str, Query(max_length=128)] = "",
    state: JobState | None = None,
) -> JobsOut:
    found = hub_of(request).jobs(limit + 1, before=before, target=target, state=state)
    jobs = [JobOut.model_validate(job) for job in found[:limit]]
    return JobsOut(jobs=jobs, next=jobs[-1].id if len(found) > limit else "")


@router.get("/{job_id}", summary="One job with its steps, decision and verdict")
def show_job(request: Request, _: Looks, job_id: Name) -> JobDetail:
    hub = hub_of(request)
    job = JobOut.model_validate(hub.job(job_id))
    decision, verdict = hub.outcome(job_id)
    return JobDetail(
        **job.model_dump(),
        steps=[StepOut.model_validate(step) for step in hub.steps(job_id)],
        decision=_optional(DecisionOut, decision),
        verdict=_optional(VerdictOut, verdict),
        remediation=_optional(RemediationOut, hub.remediation(job_id)),
        console=[SightOut.model_validate(sight) for sight in hub.console(job_id)],
    )


def _optional(model: Any, record: Any) -> Any:
    return None if record is None else model.model_validate(record)


@router.get("/{job_id}/events", summary="What happened after event N; waits for news where there is none")
async def job_events(
    request: Request,
    _: Looks,
    job_id: Name,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    wait: Annotated[float, Query(ge=0, le=3600, description="Seconds; bounded by the hub to 25")] = 0,
) -> EventsOut:
    hub = hub_of(request)
    await run_in_threadpool(hub.job, job_id)
    deadline = time.monotonic() + min(wait, LONGEST_WAIT)
    while True:
        found = await run_in_threadpool(hub.events, job_id, after)
        if found or time.monotonic() >= deadline or await _ending(request):
            break
        await asyncio.sleep(_POLL)
    events = [EventOut.model_validate(event) for event in found]
    return EventsOut(events=events, next=events[-1].id if events else after)


@router.get(
    "/{job_id}/stream",
    summary="The same as server-sent events, as they happen",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "id, event (its kind), data (JSON)"}
    },
)
async def job_stream(
    request: Request,
    _: Looks,
    job_id: Name,
    last_event_id: Annotated[str, Header(max_length=20, pattern=r"^\d*$")] = "",
) -> StreamingResponse:
    """Begins after `Last-Event-ID`, as a browser asks when it connects again; from the start without it."""
    await run_in_threadpool(hub_of(request).job, job_id)
    return stream(request, job_id, int(last_event_id or 0))


async def _ending(request: Request) -> bool:
    """The client went away, or the hub is being stopped: no reason to wait on."""
    return bool(getattr(request.app.state, "stopping", False)) or await request.is_disconnected()


@router.post("/{job_id}/commit", summary="Keep the recovered VM; one-way")
def commit_job(request: Request, who: Decides, job_id: Name, body: DecisionIn) -> JobOut:
    return JobOut.model_validate(hub_of(request).commit(job_id, who.signature, reason=body.reason))


@router.post("/{job_id}/rollback", summary="Put everything back")
def rollback_job(request: Request, who: Decides, job_id: Name, body: DecisionIn) -> JobOut:
    """What a live recovered VM has written is lost: refused without `discard_writes`."""
    hub, by = hub_of(request), who.signature
    return JobOut.model_validate(hub.rollback(job_id, by, body.discard_writes, reason=body.reason))


@router.post("/{job_id}/abort", summary="Stop a running job and undo what it did")
def abort_job(request: Request, who: FailsOver, job_id: Name, body: DecisionIn) -> JobOut:
    """When the recovered VM has run already, its writes are lost: refused without `discard_writes`."""
    hub, by = hub_of(request), who.signature
    return JobOut.model_validate(hub.abort(job_id, by, body.discard_writes, reason=body.reason))


@router.post("/{job_id}/resume", summary="Go on with a blocked job")
def resume_job(request: Request, who: Decides, job_id: Name, body: DecisionIn) -> JobOut:
    return JobOut.model_validate(hub_of(request).resume(job_id, who.signature, reason=body.reason))


@router.get("/{job_id}/evidence", summary="The evidence as data (format refloat-evidence/1)")
def job_evidence(request: Request, _: Looks, job_id: Name) -> dict[str, Any]:
    return hub_of(request).evidence(job_id)


@router.get(
    "/{job_id}/evidence.html",
    response_class=Response,  # not HTMLResponse: the errors of this route are JSON too
    responses={200: {"content": {"text/html": {}}, "description": "Self-contained, without scripts"}},
    summary="The evidence as one page",
)
def job_evidence_page(request: Request, _: Looks, job_id: Name) -> Response:
    from refloat.evidence import page

    html = page(hub_of(request).evidence(job_id))
    return HTMLResponse(html, headers={"content-security-policy": _PAGE_POLICY})
