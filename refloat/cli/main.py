"""The `refloat` command. Answers --help without importing anything heavy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from refloat.cli import access, estate, evidence, failover, guest, jobs, notify, secrets, targets
from refloat.cli.backup import backup, restore
from refloat.cli.common import AsJson, Root
from refloat.cli.doctor import doctor
from refloat.cli.exits import EPILOG
from refloat.cli.output import print_json, say
from refloat.cli.simulate import simulate

app = typer.Typer(
    cls=Root,
    help="Refloat brings a protected VM back afloat on another platform, and can put everything back.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def serve(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The settings; see docs/config.md.")
    ] = None,
    take_estate: Annotated[
        bool, typer.Option("--take-estate", help="Take the estate file as the next version, unasked.")
    ] = False,
) -> None:
    """Run the hub: the page, the API, the jobs and the store."""
    from refloat.api.server import serve as serve_hub
    from refloat.config import load_config

    def with_pages(app: Any) -> None:
        from refloat.web import install

        install(app)

    serve_hub(load_config(config), extend=with_pages, take_estate=take_estate)


app.add_typer(targets.app, name="target")
app.add_typer(failover.app, name="failover")
app.add_typer(jobs.app, name="job")
app.add_typer(guest.app, name="guest")
app.add_typer(evidence.app, name="evidence")
app.add_typer(access.users, name="user")
app.add_typer(access.tokens, name="token")
app.add_typer(access.audit, name="audit")
app.add_typer(secrets.secrets, name="secret")
app.add_typer(estate.estate, name="estate")
app.command()(estate.apply)
app.command()(estate.export)
app.add_typer(notify.notify, name="notify")


@app.command(
    "lab",
    # Handed on as they are, --help too: the lab's own commands are imported only when they are used.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def lab(ctx: typer.Context) -> None:
    """The built-in lab: a whole estate on this machine (up, status, down)."""
    from refloat.cli.lab import app as lab_app

    code = lab_app(args=ctx.args or ["--help"], prog_name="refloat lab", standalone_mode=False)
    raise typer.Exit(code if isinstance(code, int) else 0)


app.command()(simulate)
app.command()(doctor)
app.command()(backup)
app.command()(restore)


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    from refloat import __version__

    print_json({"version": __version__}) if as_json else say(f"refloat {__version__}")


def main() -> None:
    """The entry point. Text that the terminal's encoding cannot show must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app(prog_name="refloat")
