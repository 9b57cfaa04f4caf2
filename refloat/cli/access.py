"""`refloat user ...`, `refloat token ...`, `refloat audit ...`: who may do what, and who did what."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Any

import typer

from refloat.cli.common import AsJson, Url, connect, session_of, sub_app
from refloat.cli.output import note, print_json, say, table
from refloat.errors import Refused
from refloat.text import instant

users = sub_app("Users of the hub, and their roles.")
tokens = sub_app("API tokens: for programs, and for people without the page.")
audit = sub_app("The log of every decision: who, when, why.")


class RoleName(StrEnum):
    """As the hub knows them; written out here so that --help needs nothing of the hub."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


Name = Annotated[str, typer.Argument(metavar="USER", help="The user's name.")]
RoleOption = Annotated[RoleName, typer.Option("--role", help="viewer looks, operator acts, admin manages.")]
PASSWORD_VARIABLE = "REFLOAT_PASSWORD"


# ---------------------------------------------------------------- users


@users.command("list")
def list_users(ctx: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """List users."""
    with connect(ctx, url) as client:
        found = client.users()
    if as_json:
        print_json(found)
        return
    rows = [(u["name"], u["role"], _user_state(u), instant(u["created"])) for u in found]
    table(
        ("USER", "ROLE", "STATE", "CREATED (UTC)"), rows, "no users yet: `refloat user add NAME --role admin`"
    )


def _user_state(user: dict[str, Any]) -> str:
    if user["disabled"]:
        return "disabled"
    return "active" if user["has_password"] else "tokens only"


@users.command("add")
def add_user(
    ctx: typer.Context,
    name: Name,
    role: RoleOption,
    no_password: Annotated[bool, typer.Option("--no-password", help="Only tokens let them in.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Add a user. The password is asked for, or taken from REFLOAT_PASSWORD."""
    password = "" if no_password else _password(ctx)
    with connect(ctx, url) as client:
        user = client.add_user(name, role.value, password)
    print_json(user) if as_json else say(f"{name} is {user['role']}")


@users.command("change")
def change_user(
    ctx: typer.Context,
    name: Name,
    role: Annotated[RoleName | None, typer.Option("--role")] = None,
    disable: Annotated[bool | None, typer.Option("--disable/--enable", help="Shut out or not.")] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a new one.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Change a role or a password, or shut a user out. Ends their sessions."""
    changes: dict[str, Any] = {}
    if role is not None:
        changes["role"] = role.value
    if disable is not None:
        changes["disabled"] = disable
    if password:
        changes["password"] = _password(ctx)
    if not changes:
        raise Refused("nothing to change", code="nothing_to_do", hint="see `refloat user change --help`")
    with connect(ctx, url) as client:
        user = client.change_user(name, **changes)
    print_json(user) if as_json else say(f"{name} is {user['role']}, {_user_state(user)}")


def _password(ctx: typer.Context) -> str:
    """Never an argument: other users of this machine could read it there."""
    given = os.environ.get(PASSWORD_VARIABLE, "")
    if given:
        return given
    if not session_of(ctx).interactive():
        raise Refused(
            "there is nobody to ask for the password",
            code="no_password",
            hint=f"set {PASSWORD_VARIABLE}, or give --no-password",
        )
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


# ---------------------------------------------------------------- tokens


@tokens.command("list")
def list_tokens(ctx: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """List API tokens: your own, or everybody's for an admin."""
    with connect(ctx, url) as client:
        found = client.tokens()
    if as_json:
        print_json(found)
        return
    rows = [
        (t["id"], t["owner"], t["label"], t["role"], " ".join(t["scopes"]) or "all", _token_state(t))
        for t in found
    ]
    table(("TOKEN", "OWNER", "LABEL", "ROLE", "SCOPES", "STATE"), rows, "no tokens yet")


def _token_state(token: dict[str, Any]) -> str:
    if token["revoked"]:
        return f"revoked {instant(token['revoked'])}"
    used = f", used {instant(token['used'])}" if token["used"] else ", never used"
    return f"until {instant(token['expires'])}{used}"


@tokens.command("issue")
def issue_token(
    ctx: typer.Context,
    label: Annotated[str, typer.Argument(help="What it is for.")],
    owner: Annotated[str, typer.Option("--owner", metavar="USER", help="Default: yourself.")] = "",
    role: Annotated[RoleName | None, typer.Option("--role", help="The owner's, or a lower one.")] = None,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="Only this; may be repeated.")] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=366)] = 90,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make an API token. It is printed this once, alone on stdout."""
    wanted: dict[str, Any] = {"label": label, "owner": owner, "days": days, "scopes": scope or []}
    if role is not None:
        wanted["role"] = role.value
    with connect(ctx, url) as client:
        token = client.issue_token(**wanted)
    if as_json:
        print_json(token)
        return
    until = instant(token["expires"])
    note(f"token {token['id']} of {token['owner']}, until {until} UTC; it is not shown again:")
    say(token["token"])


@tokens.command("revoke")
def revoke_token(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, as `list` shows it.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a token, at once."""
    with connect(ctx, url) as client:
        token = client.revoke_token(id)
    print_json(token) if as_json else say(f"token {id} lets nobody in any more")


# ---------------------------------------------------------------- audit


@audit.command("list")
def list_audit(
    ctx: typer.Context,
    subject: Annotated[str, typer.Option("--subject", help="A job, target, user or token.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=200)] = 50,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """The newest entries, newest first."""
    with connect(ctx, url) as client:
        found = client.audit(subject=subject, limit=limit)["entries"]
    if as_json:
        print_json(found)
        return
    rows = [(e["id"], instant(e["at"]), e["who"], e["what"], e["subject"], e["reason"]) for e in found]
    table(("ENTRY", "AT (UTC)", "WHO", "WHAT", "SUBJECT", "WHY"), rows, "nothing was decided yet")


@audit.command("verify")
def verify_audit(
    ctx: typer.Context,
    head: Annotated[str, typer.Option("--head", metavar="HASH", help="One that was noted earlier.")] = "",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Check that the log is what was written, and print its newest hash: note it elsewhere."""
    with connect(ctx, url) as client:
        found = client.verify_audit(head)
    print_json(found) if as_json else say(f"unchanged; {found['entries']} entries, head {found['head']}")
