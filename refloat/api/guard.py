"""What every request passes before any route sees it: host name, size, bearer token.

Plain ASGI, so that nothing is left out: no route, no error page, no static file.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refloat.api.problems import problem

MAX_BODY = 64 * 1024  # bytes; the largest legal body is a short reason
_TOO_LARGE = f"the body is larger than {MAX_BODY} bytes"
OPEN_PATHS = frozenset({"/api/v1/health"})

_RESPONSE_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """`hosts` are the names beside loopback under which the hub may be addressed."""

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str] = ()) -> None:
        if not token:
            raise ValueError("an empty token would let everyone in")
        self.app = app
        self.token = token.encode()
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no web sockets: nothing else gets in
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            await refusal(scope, receive, _hardened(send))
            return
        await self.app(scope, _bounded(receive), _hardened(send))

    def _refusal(self, path: str, headers: Headers) -> ASGIApp | None:
        if not host_allowed(headers.get("host", ""), self.hosts):
            return problem(
                400,
                "bad_host",
                "the request names a host that is not this hub",
                "use the address that the hub listens on, or 127.0.0.1",
            )
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return _too_large()
        if path not in OPEN_PATHS and not self._authorised(headers.get("authorization", "")):
            refusal = problem(
                401,
                "unauthorised",
                "the bearer token is missing or wrong",
                "set REFLOAT_TOKEN to what the hub's api-token file holds",
            )
            refusal.headers["www-authenticate"] = "Bearer"
            return refusal
        return None

    def _authorised(self, header: str) -> bool:
        scheme, _, given = header.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token)


def host_allowed(header: str, hosts: Collection[str]) -> bool:
    """Whether a Host header names this hub. A web page elsewhere that rebinds its own name does not.

    Loopback and `hosts` are allowed. When a wildcard address is among `hosts`, so is every literal
    address: rebinding needs a name.
    """
    host = _without_port(header.lower())
    if host == "localhost" or host in hosts:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or bool({"0.0.0.0", "::"} & set(hosts))


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def _too_large() -> ASGIApp:
    return problem(413, "too_large", _TOO_LARGE, "send less")


def _bounded(receive: Receive) -> Receive:
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return bounded


def _hardened(send: Send) -> Send:
    async def hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_RESPONSE_HEADERS]
        await send(message)

    return hardened
