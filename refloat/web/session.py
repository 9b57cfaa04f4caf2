"""Logging in and out. How often may be tried is limited for each address and for each name."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from refloat.access.limits import Throttle
from refloat.api.common import hub_of
from refloat.api.door import COOKIE, Looks, same_origin
from refloat.text import safe, span
from refloat.web.render import page

router = APIRouter()

# Somebody who mistypes gets on; somebody who guesses gets 300 tries an hour at most.
_BURST, _EVERY = 5, 12.0
_WRONG = "The name or the password is wrong."


def throttle_of(request: Request) -> Throttle:
    if not hasattr(request.app.state, "logins"):
        request.app.state.logins = Throttle(_BURST, _EVERY)
    throttle = request.app.state.logins
    assert isinstance(throttle, Throttle)
    return throttle


@router.get("/login")
def form(request: Request) -> Response:
    return _form(request)


@router.post("/login")
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=64)] = "",
    password: Annotated[str, Form(max_length=1024)] = "",
) -> Response:
    """Always a new session: what the browser showed before is not taken up."""
    hub, throttle = hub_of(request), throttle_of(request)
    name = safe(name).strip().lower()
    keys = (f"address {_site_of(request)}", f"name {name}")
    # An address that has to wait counts for no name: else it locks others out, and makes names forgotten.
    wait = throttle.wait_for(keys[0]) or throttle.wait_for(keys[1])
    if wait:
        return _form(request, 429, f"Too many tries. Wait {span(wait)}.", name)
    session = hub.people.log_in(name, password) if same_origin(request.headers) else None
    if session is None:
        hub.audit.record(name or "nobody", "login-failed", "hub")
        return _form(request, 401, _WRONG, name)
    for key in keys:
        throttle.forgive(key)
    hub.audit.record(name, "login", "hub")
    answer = RedirectResponse("/", status_code=303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, session.cookie, httponly=True, samesite="strict", secure=secure, path="/")
    return answer


def _site_of(request: Request) -> str:
    """The address; of IPv6 its /64, of which one machine has every address."""
    host = request.client.host if request.client else "?"
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4 or address.ipv4_mapped:
        return str(address)
    return str(ipaddress.ip_network((address.packed[:8] + bytes(8), 64)))


@router.post("/logout")
def log_out(request: Request, who: Looks) -> Response:
    hub_of(request).people.log_out(who.session)
    answer = Response(status_code=200, headers={"hx-redirect": "/login"})
    answer.delete_cookie(COOKIE, path="/")
    return answer


def _form(request: Request, status: int = 200, wrong: str = "", name: str = "") -> Response:
    first = not hub_of(request).people.anyone()
    return page(request, "login.html.j2", {"wrong": wrong, "name": name, "first": first}, status)
