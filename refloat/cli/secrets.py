"""`refloat secret ...`: what the hub keeps sealed for the estate."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from refloat.cli.common import AsJson, Url, connect, session_of, sub_app
from refloat.cli.output import note, print_json, say, table
from refloat.text import instant

secrets = sub_app("Secrets that the hub keeps sealed, for `sealed: NAME` in the estate file.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name by which the estate file calls it.")]


@secrets.command("list")
def list_secrets(ctx: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """List the names; nothing shows a secret."""
    with connect(ctx, url) as client:
        found = client.secrets()
    if as_json:
        print_json(found)
        return
    rows = [(one["name"], instant(one["changed"]), one["who"], ", ".join(one["used_by"])) for one in found]
    table(("SECRET", "SET (UTC)", "BY", "USED BY"), rows, "no sealed secrets: `refloat secret set NAME`")


@secrets.command("set")
def set_secret(ctx: typer.Context, name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """Set a secret, or set it anew. It is asked for, or read from standard input."""
    with connect(ctx, url) as client:
        done = client.set_secret(name, _value(ctx))
    print_json(done) if as_json else say(f"{name} is set")


def _value(ctx: typer.Context) -> str:
    """Never an argument: other users of this machine could read it there."""
    if session_of(ctx).interactive():
        return str(typer.prompt("Secret", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.read(128 * 1024).removesuffix("\n").removesuffix("\r")


@secrets.command("remove")
def remove_secret(ctx: typer.Context, name: Name, url: Url = None, as_json: AsJson = False) -> None:
    """Remove a secret that the estate does not name."""
    with connect(ctx, url) as client:
        done = client.remove_secret(name)
    print_json(done) if as_json else say(f"{name} is removed")


@secrets.command("new-key")
def new_key() -> None:
    """Make a new key that seals; on the hub's machine. It is used from the hub's next start on."""
    from refloat.config import load_config
    from refloat.store.seal import Keys

    file = load_config().seal_key
    Keys(file).make()
    say(f"{file} has a new key in its first line")
    note("start the hub again: it seals everything with it; then the other lines can go (docs/secrets.md)")
