"""What the routes share: the hub behind a request, and names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Path, Request

from refloat.api.schemas import Problem

if TYPE_CHECKING:
    from refloat.hub import Hub

Name = Annotated[str, Path(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

# A name in the estate: what refloat.estate takes.
EstateName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "Nobody that the hub knows"},
    403: {"model": Problem, "description": "Known, but not allowed; nothing was changed"},
    404: {"model": Problem, "description": "No such target or job"},
    409: {"model": Problem, "description": "Refused: busy, or not in this state; nothing was changed"},
    422: {"model": Problem, "description": "Bad input; nothing was changed"},
    500: {"model": Problem, "description": "It failed; the hub's log says more"},
}


def hub_of(request: Request) -> Hub:
    return cast("Hub", request.app.state.hub)
