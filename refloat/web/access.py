"""Users and tokens on the page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from refloat.access import Permission, Role
from refloat.api.access import issue_token as issue
from refloat.api.access import revoke_token as revoke
from refloat.api.common import Name, hub_of
from refloat.api.door import Looks, ManagesAccess
from refloat.api.schemas_access import TokenIn
from refloat.errors import Refused
from refloat.web.render import fragment, page

router = APIRouter()

Word = Annotated[str, Form(max_length=32)]


@router.get("/access")
def show(request: Request, who: Looks) -> Response:
    people = hub_of(request).people
    manages = who.may(Permission.ACCESS)
    values = {
        "users": people.users() if manages else [],
        "tokens": people.tokens("" if manages else who.name),
        "roles": list(Role),
        "permissions": list(Permission),
    }
    return page(request, "access.html.j2", values)


@router.post("/access/users")
def add_user(
    request: Request,
    who: ManagesAccess,
    name: Word,
    role: Role,
    password: Annotated[str, Form(max_length=1024)] = "",
) -> Response:
    hub = hub_of(request)
    hub.people.add_user(name.strip(), role, password)
    hub.audit.record(who.signature, "user-add", name.strip(), role=role)
    return _again()


@router.post("/access/users/{name}")
def change_user(
    request: Request, who: ManagesAccess, name: Name, role: Word = "", disabled: Word = ""
) -> Response:
    hub = hub_of(request)
    wanted = Role(role) if role in set(Role) else None
    shut = {"yes": True, "no": False}.get(disabled)
    if name == who.name and (shut or (wanted and wanted is not Role.ADMIN)):
        raise Refused(
            "you would lock yourself out",
            code="own_account",
            hint="let another administrator do it",
        )
    user = hub.people.change_user(name, wanted, shut)
    hub.audit.record(who.signature, "user-change", name, role=user.role, disabled=user.disabled)
    return _again()


@router.post("/access/tokens")
def issue_token(
    request: Request,
    who: Looks,
    label: Annotated[str, Form(min_length=1, max_length=80)],
    days: Annotated[int, Form(ge=1, le=366)] = 90,
    scope: Annotated[list[Permission] | None, Form()] = None,
) -> Response:
    """The token is in this one answer and nowhere else."""
    made = issue(request, who, TokenIn(label=label, days=days, scopes=scope or []))
    return fragment(request, "issued.html.j2", {"token": made})


@router.post("/access/tokens/{id}/revoke")
def revoke_token(request: Request, who: Looks, id: Name) -> Response:
    revoke(request, who, id)
    return _again()


def _again() -> Response:
    return Response(status_code=200, headers={"hx-redirect": "/access"})
