"""Puts the page onto the API's application."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from refloat.api import problems
from refloat.errors import NotFound, RefloatError
from refloat.web import access, actions, live, pages, session
from refloat.web.panels import Panels
from refloat.web.render import fragment, page

_STATIC = Path(__file__).parent / "static"


def install(app: FastAPI) -> None:
    for router in (session.router, pages.router, live.router, actions.router, access.router):
        app.include_router(router, include_in_schema=False)
    app.state.panels = Panels()
    app.mount("/static", _Static(directory=_STATIC), name="static")
    app.add_exception_handler(RefloatError, _refloat_error)
    app.add_exception_handler(HTTPException, _http_error)


class _Static(StaticFiles):
    """The hub's own files: may be kept for an hour, nothing of them is anybody's secret."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        answer: Response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        answer.headers["cache-control"] = "public, max-age=3600"
        return answer


async def _refloat_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefloatError)
    if request.url.path.startswith("/api/"):
        return await problems.refloat_error(request, error)
    return _shown(request, problems.status_of(error), error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if request.url.path.startswith("/api/"):
        return await problems.http_error(request, error)
    gone = NotFound("there is no such page", code="unknown_path", hint="begin at the estate")
    return _shown(request, error.status_code, gone if error.status_code == 404 else _plain(error))


def _plain(error: HTTPException) -> RefloatError:
    return RefloatError(str(error.detail), code="http_error", hint="load the page again and repeat it")


def _shown(request: Request, status: int, error: RefloatError) -> Response:
    """Where a part of a page was asked for, the error comes up on that page; else it is a page itself."""
    if "hx-request" in request.headers:
        notice = fragment(request, "notice.html.j2", {"error": error}, status)
        notice.headers.update({"hx-retarget": "#notice", "hx-reswap": "innerHTML show:#notice:top"})
        return notice
    return page(request, "error.html.j2", {"error": error}, status)
