"""What the commands share: options, the session, the connection, and how errors end a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from refloat.cli import exits
from refloat.errors import RefloatError, Refused
from refloat.text import safe

if TYPE_CHECKING:
    from refloat.cli.client import Client

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="REFLOAT_URL", help="The hub's address; from the settings when not given."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print facts as JSON, and nothing else, on stdout.")]
Watch = Annotated[bool, typer.Option("--watch/--no-watch", help="Follow it until it rests.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the evidence.")]


def _on_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


@dataclass(frozen=True)
class Session:
    """What a command has around it; tests pass their own. `pause` is the seconds between looks at a sync."""

    transport: Any = None
    interactive: Callable[[], bool] = field(default=_on_a_terminal)
    pause: float = 1.0
    patience: float = 90.0


def session_of(ctx: typer.Context) -> Session:
    return ctx.obj if isinstance(ctx.obj, Session) else Session()


def connect(ctx: typer.Context, url: str | None) -> Client:
    """A client with address and token from the options, the environment or the settings, in this order."""
    from refloat.cli.client import Client
    from refloat.config import load_config

    token = os.environ.get("REFLOAT_TOKEN", "").strip()
    named = os.environ.get("REFLOAT_TLS_CA", "")
    ca = Path(named) if named else None
    if not (url and token):
        config = load_config()
        ca = ca or (None if url else config.tls_ca or config.tls_cert)
        url = url or config.url
        token = token or _read_token(config.token_file)
    return Client(url, token, session_of(ctx).transport, ca)


def _read_token(file: Any) -> str:
    try:
        return str(file.read_text().strip())
    except OSError as error:
        raise Refused(
            f"cannot read the hub's token from {file}: {error.strerror}",
            code="no_token",
            hint="set REFLOAT_TOKEN; on the hub's machine REFLOAT_CONFIG or REFLOAT_DATA_DIR lead to it",
        ) from error


class Root(TyperGroup):
    """Ends every command that raised a RefloatError with its message, its hint and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RefloatError as error:
            for line in _lines(error):
                typer.echo(line, err=True)
            if error.hint:
                typer.echo(f"  what to do: {safe(error.hint)}", err=True)
            raise typer.Exit(exits.of_error(error)) from error


# Errors of which there may be many at once: each is a line of the message.
_MANY = frozenset({"bad_estate", "estate_in_use"})


def _lines(error: RefloatError) -> list[str]:
    parts = error.message.split("\n") if error.code in _MANY else [error.message]
    code = f"[{safe(error.code)}]"
    if len(parts) == 1:
        return [f"refloat: {safe(parts[0])} {code}"]
    return [f"refloat: {len(parts)} things are in the way {code}", *(f"  {safe(part)}" for part in parts)]


def sub_app(text: str) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
