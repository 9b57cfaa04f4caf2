"""What every request passes before any route sees it: host name, size, who asks.

Plain ASGI, so that nothing is left out: no route, no error page, no static file.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import time
from collections.abc import Collection

import anyio
import anyio.to_thread
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refloat.access import ORIGIN, Principal
from refloat.api.door import Door, Forbidden
from refloat.api.problems import problem
from refloat.logs import within

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024  # bytes
BODY_WITHIN = 30.0  # seconds
# An estate has 1 MiB at most; in JSON each of its characters may take two bytes.
LARGE_BODIES = dict.fromkeys(("/api/v1/estate", "/api/v1/estate/diff"), (2 << 20) + MAX_BODY)
# What answers before anybody is known: whether the hub lives, the form to log in, and its looks.
OPEN_PATHS = frozenset({"/api/v1/health", "/api/v1/ready", "/login"})
OPEN_FOLDERS = ("/static/",)
_API = "/api/"

_RESPONSE_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer a form of ours would have no origin
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
)
_TLS_ONLY = (b"strict-transport-security", b"max-age=31536000")


class Guard:
    """`hosts` are the names beside loopback under which the hub may be addressed."""

    def __init__(self, app: ASGIApp, door: Door, hosts: Collection[str] = ()) -> None:
        self.app = app
        self.door = door
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no web sockets: nothing else gets in
        number = secrets.token_hex(4)
        with within(request=number):
            await self._answer(scope, receive, _noted(send, scope, number))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = _hardened(send, tls=scope.get("scheme") == "https")
        refusal = self._refusal(scope) or await self._identified(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self.app(scope, _bounded(receive, _largest(scope)), send)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        if not host_allowed(headers.get("host", ""), self.hosts):
            return problem(
                400,
                "bad_host",
                "the request names a host that is not this hub",
                "use the address that the hub listens on, or 127.0.0.1",
            )
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 12 or int(length) > _largest(scope):
            return problem(413, "too_large", _too_large(_largest(scope)), "send less")
        return None

    async def _identified(self, scope: Scope) -> ASGIApp | None:
        """Writes the principal into the request's state; the answer for those whom it does not know."""
        client = scope.get("client")
        ORIGIN.set(str(client[0]) if client else "")
        if _open(scope["path"]):
            return None  # nobody in particular: what is open looks at neither cookie nor token
        try:
            principal = await anyio.to_thread.run_sync(self._who, scope)
        except Forbidden as error:
            return problem(403, error.code, error.message, error.hint)
        if principal is not None:
            scope.setdefault("state", {})["principal"] = principal
            return None
        return _unknown(scope)

    def _who(self, scope: Scope) -> Principal | None:
        connection = HTTPConnection(scope)
        return self.door.who(connection.headers, connection.cookies, scope["method"])


def _noted(send: Send, scope: Scope, number: str) -> Send:
    """The answer carries its request's number; the log says what was asked, without the query."""
    begun = time.monotonic()

    async def noted(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", number.encode())]
            took = 1000 * (time.monotonic() - begun)
            log.debug("%s %r: %d in %.0f ms", scope["method"], scope["path"], message["status"], took)
        await send(message)

    return noted


def _open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def _unknown(scope: Scope) -> ASGIApp:
    """A person is led to the form; a program is told."""
    headers = Headers(scope=scope)
    page = not scope["path"].startswith(_API) and "text/html" in headers.get("accept", "")
    if page and scope["method"] == "GET" and "hx-request" not in headers:
        return RedirectResponse("/login", status_code=303)
    refusal = problem(
        401,
        "unauthorised",
        "the bearer token is missing, wrong or over",
        "set REFLOAT_TOKEN to a token of yours, or to what the hub's api-token file holds",
    )
    refusal.headers["www-authenticate"] = "Bearer"
    if "hx-request" in headers:
        refusal.headers["hx-redirect"] = "/login"
    return refusal


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


def _largest(scope: Scope) -> int:
    return LARGE_BODIES.get(scope["path"], MAX_BODY)


def _too_large(largest: int) -> str:
    return f"the body is larger than {largest} bytes"


def _bounded(receive: Receive, largest: int) -> Receive:
    """In bytes and in time. Once the body is there, what is waited for is the client's end: that may take
    as long as it takes."""
    seen, whole, begun = 0, False, time.monotonic()

    async def bounded() -> Message:
        nonlocal seen, whole
        try:
            with anyio.fail_after(None if whole else max(0.0, begun + BODY_WITHIN - time.monotonic())):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"the body did not come within {BODY_WITHIN:.0f} seconds") from None
        seen += len(message.get("body", b""))
        whole = whole or not message.get("more_body", False)
        if seen > largest:
            raise HTTPException(413, _too_large(largest))
        return message

    return bounded


def _hardened(send: Send, tls: bool) -> Send:
    """A header that a route set itself stays: files that may be kept, a page with a stricter policy."""

    async def hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", []))
            known = {name.lower() for name, _ in given}
            ours = (*_RESPONSE_HEADERS, _POLICY, *((_TLS_ONLY,) if tls else ()))
            message["headers"] = [*given, *(pair for pair in ours if pair[0] not in known)]
        await send(message)

    return hardened
