"""Routes of users, tokens and the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from refloat.access import Permission, Principal, Role, TokenInfo
from refloat.access.roles import at_least
from refloat.api.common import PROBLEMS, Name, hub_of
from refloat.api.door import Audits, Forbidden, Looks, ManagesAccess, Needs
from refloat.api.schemas_access import (
    AuditOut,
    AuditPage,
    IssuedOut,
    MeOut,
    TokenIn,
    TokenOut,
    UserChange,
    UserIn,
    UserOut,
    VerifiedOut,
)

router = APIRouter(prefix="/api/v1", tags=["access"], responses=PROBLEMS)


@router.get("/me", summary="Who the hub takes you for, and what you may")
def me(who: Looks) -> MeOut:
    may = [permission for permission in Permission if who.may(permission)]
    return MeOut(name=who.name, role=who.role, may=may)


# ---------------------------------------------------------------- users


@router.get("/users", summary="All users")
def list_users(request: Request, _: ManagesAccess) -> list[UserOut]:
    return [UserOut.model_validate(user) for user in hub_of(request).people.users()]


@router.post("/users", status_code=201, summary="Add a user")
def add_user(request: Request, who: ManagesAccess, body: UserIn) -> UserOut:
    hub = hub_of(request)
    user = hub.people.add_user(body.name, body.role, body.password.get_secret_value())
    hub.audit.record(who.signature, "user-add", body.name, role=body.role)
    return UserOut.model_validate(user)


@router.patch("/users/{name}", summary="Change a user's role or password, or shut them out")
def change_user(request: Request, who: ManagesAccess, name: Name, body: UserChange) -> UserOut:
    """Ends their sessions. Tokens of a disabled user let nobody in."""
    hub = hub_of(request)
    password = None if body.password is None else body.password.get_secret_value()
    user = hub.people.change_user(name, body.role, body.disabled, password)
    changed = sorted(body.model_fields_set)
    hub.audit.record(who.signature, "user-change", name, changed=changed, role=user.role)
    return UserOut.model_validate(user)


# ---------------------------------------------------------------- tokens


@router.get("/tokens", summary="API tokens: your own, or everybody's for who manages access")
def list_tokens(request: Request, who: Looks) -> list[TokenOut]:
    owner = "" if who.may(Permission.ACCESS) else who.name
    return [TokenOut.model_validate(token) for token in hub_of(request).people.tokens(owner)]


@router.post("/tokens", status_code=201, summary="Make an API token; it is shown this once")
def issue_token(request: Request, who: Looks, body: TokenIn) -> IssuedOut:
    """For yourself, with no more rights than you have now; for others by who manages access."""
    hub, owner = hub_of(request), body.owner or who.name
    role, scopes = body.role, body.scopes
    if owner == who.name:
        role, scopes = _no_higher(who, role), _within(who, scopes)
    else:
        Needs(Permission.ACCESS)(request)
    # One who asks with a token makes none that outlives it, for whomever: else a short life means nothing.
    token, secret = hub.people.issue_token(owner, body.label, body.days, role, scopes, who.until)
    hub.audit.record(who.signature, "token-issue", token.id, owner=owner, role=token.role, days=body.days)
    return IssuedOut(**TokenOut.model_validate(token).model_dump(), token=secret)


def _no_higher(who: Principal, role: Role | None) -> Role:
    if role is not None and not at_least(who.role, role):
        raise Forbidden(
            f"you are {who.role} here: a token of yours cannot be {role}",
            code="forbidden",
            hint="leave the role out",
        )
    return role or who.role


def _within(who: Principal, scopes: list[Permission]) -> list[Permission]:
    """A narrow token makes no wide one. None left would mean all of the role: that is refused."""
    if who.scopes is None:
        return scopes
    left = [scope for scope in (scopes or sorted(who.scopes)) if scope in who.scopes]
    if not left:
        raise Forbidden(
            f"this token has none of these scopes: {', '.join(scopes)}",
            code="forbidden",
            hint="nothing was made; leave the scopes out for a token that may the same",
        )
    return left


@router.delete("/tokens/{id}", summary="Revoke a token, at once")
def revoke_token(request: Request, who: Looks, id: Name) -> TokenOut:
    """Your own, as long as it may no more than you may here; any by who manages access."""
    hub = hub_of(request)
    if not _covers(who, hub.people.token(id)):
        Needs(Permission.ACCESS)(request)
    token = hub.people.revoke_token(id)
    hub.audit.record(who.signature, "token-revoke", id, owner=token.owner)
    return TokenOut.model_validate(token)


def _covers(who: Principal, token: TokenInfo) -> bool:
    """A narrow token that was stolen must not shut out its owner's wider ones."""
    rights = set(token.scopes) or set(Permission)
    within = who.scopes is None or rights <= who.scopes
    return token.owner == who.name and at_least(who.role, token.role) and within


# ---------------------------------------------------------------- audit


@router.get("/audit", summary="Every decision, newest first, a page at a time")
def audit(
    request: Request,
    _: Audits,
    before: Annotated[int, Query(ge=0, le=2**53, description="`next` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    subject: Annotated[str, Query(max_length=128, description="A job, target, user or token")] = "",
) -> AuditPage:
    found = hub_of(request).audit.entries(before, limit + 1, subject)
    entries = [AuditOut.model_validate(entry) for entry in found[:limit]]
    return AuditPage(entries=entries, next=entries[-1].id if len(found) > limit else 0)


@router.get("/audit/verify", summary="Whether the log is what was written")
def verify_audit(
    request: Request,
    _: Audits,
    head: Annotated[str, Query(pattern=r"^([0-9a-f]{64})?$", description="A hash noted earlier")] = "",
) -> VerifiedOut:
    """Fails with `audit_changed`, naming the first entry that is not what was written."""
    return VerifiedOut.model_validate(hub_of(request).audit.verify(head))
