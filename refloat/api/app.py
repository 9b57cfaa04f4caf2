"""The API as an ASGI application."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.security import HTTPBearer

from refloat import __version__
from refloat.api import access, estate, jobs, metrics, notify, problems, secrets, targets
from refloat.api.common import hub_of
from refloat.api.door import Door
from refloat.api.examples import codes_in_words, with_examples
from refloat.api.guard import Guard
from refloat.api.live import Live
from refloat.api.schemas import Health, Ready

if TYPE_CHECKING:
    from refloat.hub import Hub

ROUTERS = (
    *(targets.router, jobs.router, access.router, secrets.router, estate.router),
    *(notify.router, metrics.router),
)

_DESCRIPTION = """
Promotes a protected VM's replica into a running, verified VM, and can put everything back.

Every call but `/api/v1/health` and `/api/v1/ready` needs `Authorization: Bearer TOKEN`. Every error is
`{code, message, hint}`. Refusals (4xx) have changed nothing. With the hub's own token the header
`X-Refloat-User` says who asks; it is recorded as claimed. A user's token proves its owner.
"""


def create_app(hub: Hub, token: str, hosts: Collection[str] = ()) -> FastAPI:
    """The application for this hub. `hosts` are the names beside loopback that requests may be for.

    There are no documentation pages (they would load scripts from elsewhere): the OpenAPI document is
    at /api/v1/openapi.json, behind the token like the rest.
    """
    # The guard checks the token; this dependency only describes it in the OpenAPI document.
    described = Depends(HTTPBearer(auto_error=False, description="What the hub's api-token file holds"))
    app = FastAPI(
        title="Refloat hub",
        version=__version__,
        description=f"{_DESCRIPTION}\nCodes of refusals:\n\n{codes_in_words()}\n",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.hub = hub
    app.state.stopping = False
    app.state.live = Live(hub)
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router, dependencies=[described])
    app.add_api_route("/api/v1/health", _health, methods=["GET"], tags=["hub"], summary="Is the hub there?")
    app.add_api_route(
        "/api/v1/ready",
        _ready,
        methods=["GET"],
        tags=["hub"],
        summary="Can the hub do its work?",
        responses={503: {"model": Ready, "description": "Not now"}},
    )
    _describe(app)
    app.add_api_route("/api/v1/openapi.json", _openapi, methods=["GET"], include_in_schema=False)
    app.add_middleware(Guard, door=Door(token, hub.people), hosts=hosts)
    return app


def _describe(app: FastAPI) -> None:
    """The document is made once, when it is first asked for; the examples come with it."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        return with_examples(plain())

    app.openapi = described  # type: ignore[method-assign]


async def _health() -> Health:
    return Health(status="ok", version=__version__)


def _ready(request: Request, response: Response) -> Ready:
    """What is wrong is in the hub's log and in `refloat doctor`: this answers anybody."""
    ready = not hub_of(request).troubles()
    response.status_code = 200 if ready else 503
    return Ready(ready=ready)


async def _openapi(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    return document
