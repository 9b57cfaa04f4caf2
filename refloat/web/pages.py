"""The pages that show: estate, targets, jobs, changes, audit, policies. None of them changes anything."""

from __future__ import annotations

import re
import secrets
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response

from refloat.api.common import Name, hub_of
from refloat.api.door import Audits, FailsOver, Looks
from refloat.api.schemas_plan import plan_out
from refloat.errors import NotFound, RefloatError
from refloat.evidence import shown_record
from refloat.model import HealthState, JobState, Mode, TargetState
from refloat.web import views
from refloat.web.panels import panel_of
from refloat.web.render import fragment, page, partial

if TYPE_CHECKING:
    from refloat.hub import Hub

router = APIRouter()

_ROWS = 100
_SCREEN = re.compile(r"[0-9]{1,6}-[a-z0-9_-]{1,40}\.png")
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_SCREEN = 4 * 2**20  # bytes

E = TypeVar("E", bound=StrEnum)
State = Annotated[str, Query(max_length=32)]
Search = Annotated[str, Query(max_length=128)]


@router.get("/")
def estate(
    request: Request, _: Looks, search: Search = "", state: State = "", health: State = "", after: Search = ""
) -> Response:
    hub = hub_of(request)
    wanted, asked = _member(TargetState, state), _member(HealthState, health)
    found = hub.targets(_ROWS + 1, after=after, search=search, state=wanted, health=asked)
    rows = [views.target_row(target, hub.replication_of(target)) for target in found[:_ROWS]]
    more = rows[-1]["name"] if len(found) > _ROWS else ""
    values = {"rows": rows, "more": more, "search": search, "state": state, "health": health}
    if partial(request):
        return fragment(request, "targets.html.j2", values)
    whole = {"tiles": views.tiles(hub), "states": list(TargetState), "healths": list(HealthState)}
    return page(request, "estate.html.j2", {**whole, **values})


@router.get("/targets/{name}")
def target(request: Request, _: Looks, name: Name) -> Response:
    hub = hub_of(request)
    status = hub.target(name)
    values = {
        "target": views.target_row(status, hub.replication_of(status)),
        "status": status,
        "estate": hub.known.target(name) if hub.known.is_made(name) else hub.estate.target(name),
        "policy": views.policy_rows(hub.estate.policy(hub.estate.target(name).policy)),
        "jobs": views.job_rows(hub, hub.jobs(10, target=name)),
    }
    if partial(request):
        return fragment(request, "target_panel.html.j2", values)
    return page(request, "target.html.j2", values)


@router.get("/targets/{name}/failover/{mode}")
def plan(request: Request, _: FailsOver, name: Name, mode: Mode) -> Response:
    """What would happen, before anybody asks for it. `key` makes a form that is sent twice one start."""
    hub = hub_of(request)
    status = hub.target(name)
    values = {
        "target": views.target_row(status, hub.replication_of(status)),
        "status": status,
        "mode": mode,
        **_ahead(hub, name, mode),
        "steps": views.plan_steps(mode),
        "policy": hub.estate.policy(hub.estate.target(name).policy),
        "key": secrets.token_hex(12),
    }
    return page(request, "plan.html.j2", values)


def _ahead(hub: Hub, name: str, mode: Mode) -> dict[str, Any]:
    """The plan as the API gives it, or the reason why there is none. A start may be asked for all the same:
    an emergency does not wait for a page."""
    try:
        return {"plan": plan_out(name, hub.plan(name, mode)), "trouble": None}
    except RefloatError as error:
        return {"plan": None, "trouble": error}


@router.get("/jobs")
def jobs(request: Request, _: Looks, state: State = "", before: Search = "") -> Response:
    hub = hub_of(request)
    found = hub.jobs(_ROWS + 1, before=before, state=_member(JobState, state))
    rows = views.job_rows(hub, found[:_ROWS])
    more = rows[-1]["id"] if len(found) > _ROWS else ""
    values = {"rows": rows, "more": more, "state": state}
    if partial(request):
        return fragment(request, "job_rows.html.j2", values)
    return page(request, "jobs.html.j2", {"states": list(JobState), **values})


@router.get("/jobs/{job_id}")
def job(request: Request, _: Looks, job_id: Name) -> Response:
    hub = hub_of(request)
    shown, newest = hub.job(job_id), hub.summaries.newest_event(job_id)
    panel = panel_of(request, job_id, newest)
    return page(request, "job.html.j2", {"job": shown, "panel": panel, "newest": newest})


@router.get("/jobs/{job_id}/changes")
def changes(request: Request, _: Looks, job_id: Name) -> Response:
    hub = hub_of(request)
    adaptation = shown_record(hub.store, hub.job(job_id).id, "adaptation")
    return page(request, "changes.html.j2", {"job": hub.job(job_id), "adaptation": adaptation})


@router.get("/jobs/{job_id}/screens/{file}")
def screen(request: Request, _: Looks, job_id: Name, file: str) -> Response:
    """A picture of the console. A guest drew it: it is served as a picture or not at all."""
    hub_of(request).job(job_id)
    folder = hub_of(request).data_dir / "jobs" / job_id / "screens"
    path = folder / file
    if not _SCREEN.fullmatch(file) or path.is_symlink() or not path.is_file():
        raise NotFound("there is no such picture", code="unknown_screen", hint="load the job's page again")
    content = path.read_bytes() if path.stat().st_size <= _LARGEST_SCREEN else b""
    if not content.startswith(_PNG):
        raise NotFound(f"{file} is no picture", code="unknown_screen", hint="see the job's evidence")
    return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=86400"})


@router.get("/policies")
def policies(request: Request, _: Looks) -> Response:
    return page(request, "policies.html.j2", {"policies": views.policies(hub_of(request).estate)})


@router.get("/audit")
def audit(
    request: Request, _: Audits, subject: Search = "", before: Annotated[int, Query(ge=0, le=2**53)] = 0
) -> Response:
    found = hub_of(request).audit.entries(before, _ROWS + 1, subject)
    more = found[_ROWS - 1].id if len(found) > _ROWS else 0
    values = {"entries": found[:_ROWS], "more": more, "subject": subject}
    if partial(request):
        return fragment(request, "audit_rows.html.j2", values)
    return page(request, "audit.html.j2", values)


def _member(kind: type[E], word: str) -> E | None:
    """The state of this name; None for an empty one, and for one that there is not: then all are shown."""
    return next((one for one in kind if one.value == word), None)
