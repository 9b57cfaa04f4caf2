"""From facts to HTML. All text is untrusted: escaped, and without characters that could deceive a reader."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from refloat import __version__
from refloat.access import Permission
from refloat.api.common import hub_of
from refloat.api.door import COOKIE, principal_of
from refloat.clock import now, seconds_between
from refloat.evidence.render import diff_lines, mark, tone, value_lines, words
from refloat.text import instant, safe, size, span


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("refloat", "web/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finished,
    )
    environment.filters.update(
        ago=ago,
        diff=diff_lines,
        instant=instant,
        mark=mark,
        registry=value_lines,
        size=size,
        span=span,
        tone=tone,
        words=words,
    )
    environment.globals.update(version=__version__, Permission=Permission)
    return environment


def ago(stamp: str) -> str:
    """How long ago an instant was, for people."""
    return f"{span(max(0.0, seconds_between(stamp, now())))} ago"


def html(template: str, values: Mapping[str, Any]) -> str:
    return _environment().get_template(template).render(values)


def _finished(value: Any) -> Any:
    return safe(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def page(request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """A whole page; the session's secret is in it, for the requests that its forms make."""
    around = {"who": principal_of(request), "path": request.url.path, "csrf": _csrf(request)}
    content = html(template, {**around, **values})
    return HTMLResponse(content, status)


def fragment(request: Request, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
    around = {"who": principal_of(request), "path": request.url.path}
    return HTMLResponse(html(template, {**around, **values}), status)


def partial(request: Request) -> bool:
    """Whether only a part of the page is asked for."""
    return "hx-request" in request.headers and "hx-boosted" not in request.headers


def _csrf(request: Request) -> str:
    cookie = request.cookies.get(COOKIE, "")
    session = hub_of(request).people.session(cookie) if cookie else None
    return session.csrf if session else ""
