"""`refloat lab`: the embedded lab. Imports what it needs only when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="A lab in the local libvirt: a VMware-like source VM, a controller and a synced target.",
    no_args_is_help=True,
)

DEMO_USER = "demo"


def _say(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def up() -> None:
    """Builds what is missing, starts it, and syncs the target. Safe to repeat."""
    from refloat.lab.estate import TARGET
    from refloat.lab.lab import up as lab_up
    from refloat.lab.layout import default_lab

    lab = default_lab()
    lab_up(lab, _say)
    typer.echo(f"target {TARGET} is ready; config: {lab.config}")
    typer.echo(f"next: refloat failover start {TARGET} --mode planned --watch")


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Facts for a program.")] = False) -> None:
    """What of the lab exists and runs."""
    from refloat.lab.lab import status as lab_status
    from refloat.lab.layout import default_lab

    found = lab_status(default_lab())
    facts = {
        "source": found.source,
        "controller": found.controller,
        "hub": found.hub,
        "directory": str(found.directory),
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name:<11}{value}")


@app.command(hidden=True)
def spent() -> None:
    """Exit code 0 when a failover has used the lab up, else 1. For scripts."""
    from refloat.lab.lab import is_spent
    from refloat.lab.layout import default_lab

    raise typer.Exit(0 if is_spent(default_lab()) else 1)


@app.command()
def page() -> None:
    """Prints the page's address with a user to log in as, and waits for Ctrl-C. The hub goes on."""
    import secrets
    import signal

    from refloat.cli.client import Client
    from refloat.config import load_config
    from refloat.lab.layout import default_lab

    config = load_config(default_lab().config)
    password = secrets.token_urlsafe(12)
    with Client(config.url, config.token_file.read_text().strip()) as client:
        if DEMO_USER in {user["name"] for user in client.users()}:
            client.change_user(DEMO_USER, password=password)
        else:
            client.add_user(DEMO_USER, "admin", password)
    typer.echo(f"page: {config.url}  user: {DEMO_USER}  password: {password}")
    _say("Ctrl-C ends this; the hub goes on until `refloat lab down`")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pause()


@app.command()
def down() -> None:
    """Removes all that `lab up` made: VMs, disks, keys, the hub and its data. Cached images stay."""
    from refloat.lab.lab import down as lab_down
    from refloat.lab.layout import default_lab

    lab_down(default_lab(), _say)


@app.command()
def image(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The raw image that is written.")],
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="DIR", help="Makes keys there and puts them into the image."),
    ] = None,
) -> None:
    """Writes the controller's image, which `refloat target add` makes controllers of."""
    from refloat.command import run
    from refloat.errors import Refused
    from refloat.lab.images import controller_image
    from refloat.provision import make_keys, put_keys

    for path in (file, *([keys] if keys else [])):
        if path.exists():
            raise Refused(f"{path} exists", code="file_exists", hint="name a new one")
    run(["cp", "--sparse=always", str(controller_image(_say)), str(file)])
    if keys is None:
        typer.echo(f"{file}: name it in the estate as a target's provision.image")
        return
    make_keys(keys)
    host_key = put_keys(file, keys)
    typer.echo(f"{file}: a template; in the estate's provision:")
    typer.echo(f"  identity: {keys.resolve() / 'controller'}")
    typer.echo(f"  host_key: {host_key}")
