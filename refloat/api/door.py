"""Who is at the door: from a bearer token or a session cookie to a Principal, and what a form must show.

Every way in is tried by the guard before a route is reached; a route only names the permission it needs.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.datastructures import Headers

from refloat.access import LOCAL, People, Permission, Principal, Role
from refloat.errors import Refused
from refloat.text import safe

COOKIE = "refloat_session"
CSRF_HEADER = "x-refloat-csrf"
USER_HEADER = "x-refloat-user"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
NOBODY = Principal("nobody", Role.VIEWER, frozenset())


class Forbidden(Refused):
    """Known, but not allowed. Nothing was changed."""


@dataclass(frozen=True)
class Door:
    """`token` is the hub's own, from its file: who can read that is an administrator of this machine."""

    token: str
    people: People

    def __post_init__(self) -> None:
        if not self.token:
            raise ValueError("an empty token would let everyone in")

    def who(self, headers: Headers, cookies: Mapping[str, str], method: str) -> Principal | None:
        """None: nobody we know. Raises Forbidden for a session's request that its own page did not make."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme:
            return self._bearer(scheme, given.strip(), headers)
        session = self.people.session(cookies[COOKIE]) if cookies.get(COOKIE) else None
        if session is None:
            return None
        if method not in SAFE_METHODS:
            shown = headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(shown.encode(), session.csrf.encode()) or not same_origin(headers):
                raise Forbidden(
                    "this request did not come from the hub's own page",
                    code="csrf",
                    hint="load the page again and repeat it",
                )
        return session.principal

    def _bearer(self, scheme: str, given: str, headers: Headers) -> Principal | None:
        if scheme.lower() != "bearer" or not given:
            return None
        if hmac.compare_digest(given.encode(), self.token.encode()):
            claimed = safe(headers.get(USER_HEADER, "")).strip()[:64]
            return Principal(LOCAL, Role.ADMIN, claimed=claimed or "unknown")
        return self.people.who_has(given)


def same_origin(headers: Headers) -> bool:
    """Browsers say where a form was. One that says nothing is an old one: then the secret must do."""
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host", "")


def principal_of(request: Request) -> Principal:
    return cast(Principal, getattr(request.state, "principal", NOBODY))


@dataclass(frozen=True)
class Needs:
    """A route's permission: `who: Annotated[Principal, Depends(Needs(Permission.LOOK))]`."""

    permission: Permission

    def __call__(self, request: Request) -> Principal:
        principal = principal_of(request)
        if not principal.may(self.permission):
            raise Forbidden(
                f"{principal.name} may not: {self.permission} is not among the rights of a {principal.role}",
                code="forbidden",
                hint="ask an administrator for the role, or use a token with this scope",
            )
        return principal


Looks = Annotated[Principal, Depends(Needs(Permission.LOOK))]
Replicates = Annotated[Principal, Depends(Needs(Permission.REPLICATE))]
FailsOver = Annotated[Principal, Depends(Needs(Permission.FAILOVER))]
Decides = Annotated[Principal, Depends(Needs(Permission.DECIDE))]
Audits = Annotated[Principal, Depends(Needs(Permission.AUDIT))]
ManagesEstate = Annotated[Principal, Depends(Needs(Permission.ESTATE))]
ManagesAccess = Annotated[Principal, Depends(Needs(Permission.ACCESS))]
