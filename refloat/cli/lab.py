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
def down() -> None:
    """Removes all that `lab up` made: VMs, disks, keys, the hub and its data. Cached images stay."""
    from refloat.lab.lab import down as lab_down
    from refloat.lab.layout import default_lab

    lab_down(default_lab(), _say)


@app.command()
def image(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The raw image that is written.")],
) -> None:
    """Writes the controller's image, which `refloat target add` makes controllers of. It holds no key."""
    from refloat.command import run
    from refloat.errors import Refused
    from refloat.lab.images import controller_image

    if file.exists():
        raise Refused(f"{file} exists", code="file_exists", hint="name a new file")
    run(["cp", "--sparse=always", str(controller_image(_say)), str(file)])
    typer.echo(f"{file}: name it in the estate as a target's provision.image")
