"""`refloat apply`, `refloat export`, `refloat estate versions`: the estate as a file in your care."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from refloat.cli.common import AsJson, Url, connect, session_of, sub_app
from refloat.cli.output import note, print_json, say, table
from refloat.errors import Refused
from refloat.text import instant, safe

estate = sub_app("The estate's versions; see `refloat apply` and `refloat export`.")

_LARGEST = 1 << 20  # bytes: the hub takes no larger one
_NAME = 200  # characters of a file's name that the hub takes

Version = Annotated[
    int | None, typer.Option("--version", min=1, metavar="N", help="An earlier one; see `estate versions`.")
]


def apply(
    ctx: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="The estate file; - is standard input.")
    ] = None,
    version: Version = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="End after the differences.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the version.")] = "",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show what an estate file would change, ask, and put it into use. Applied again it changes nothing."""
    with connect(ctx, url) as client:
        if version is None:
            (text, name), again = _read(file), ""
        else:
            text, name, again = (
                client.estate(version)["text"],
                f"version {version}",
                f"version {version} again",
            )
        found = client.compare_estate(text, name)
        if not as_json:
            _show(found)
        if found["blocked"]:
            hint = "nothing was changed; do what is said, or leave these objects as they are"
            raise Refused("\n".join(found["blocked"]), code="estate_in_use", hint=hint)
        if dry_run or not found["changes"]:
            if as_json:
                print_json(found)
            return
        _confirm(ctx, yes, found)
        done = client.apply_estate(text, name, found["base"], reason or again)
    print_json(done) if as_json else say(f"version {done['number']} of the estate is in use")


def _read(file: str | None) -> tuple[str, str]:
    """The text, and what errors are to call it."""
    if file is None:
        raise Refused("there is nothing to apply", code="bad_usage", hint="name a file, or --version N")
    try:
        if file == "-":
            content, name = sys.stdin.buffer.read(_LARGEST + 1), "standard input"
        else:
            name = file[-_NAME:]
            with Path(file).open("rb") as stream:
                content = stream.read(_LARGEST + 1)
        text = content.decode()
    except OSError as error:
        hint = "name the estate file; `refloat export` prints the one in use"
        raise Refused(f"cannot read {file}: {error.strerror}", code="bad_file", hint=hint) from error
    except UnicodeDecodeError as error:
        raise Refused(f"{file} is no UTF-8: {error}", code="bad_file", hint="write it as UTF-8") from error
    if len(content) > _LARGEST:
        raise Refused(f"{name} has more than {_LARGEST} bytes", code="bad_file", hint="is it an estate?")
    return text, name


def _show(found: dict[str, Any]) -> None:
    for change in found["changes"]:
        say(f"{change['what']} {change['kind']} {change['name']}")
        for one in change["fields"]:
            new = one["new"] or "(nothing)"
            value = new if change["what"] == "added" else f"{one['old'] or '(nothing)'} -> {new}"
            say(f"    {one['field']}: {value}")
    for one in found["reach"]:
        say(f"new on the hub's machine: {one}")
    if not found["changes"]:
        say(f"nothing changes: it means what version {found['base']} means, which is in use")


def _confirm(ctx: typer.Context, yes: bool, found: dict[str, Any]) -> None:
    question = f"apply this to version {found['base']}?"
    if not yes and not (session_of(ctx).interactive() and typer.confirm(safe(question), err=True)):
        raise Refused("the changes were not confirmed", code="not_confirmed", hint="say so with --yes")


def export(ctx: typer.Context, version: Version = None, url: Url = None, as_json: AsJson = False) -> None:
    """Print the estate in use as it was written, comments too. Apply it and nothing changes."""
    with connect(ctx, url) as client:
        found = client.estate(version)
    if as_json:
        print_json(found)
    elif sys.stdout.isatty():
        typer.echo(safe(found["text"], keep="\n\t"), nl=False)
    else:
        typer.echo(found["text"].encode(), nl=False)
    if not as_json and not version:
        note(f"version {found['number']} of the estate")


@estate.command("versions")
def versions(ctx: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """List every estate that was applied; `refloat apply --version N` puts an earlier one into use again."""
    with connect(ctx, url) as client:
        found = client.estate_versions()
    if as_json:
        print_json(found)
        return
    rows = [
        (one["number"], instant(one["at"]), one["who"], one["sha256"][:12], one["reason"]) for one in found
    ]
    table(("VERSION", "APPLIED (UTC)", "BY", "SHA-256", "REASON"), rows, "no version yet")
