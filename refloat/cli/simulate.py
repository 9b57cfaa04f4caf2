"""`refloat simulate`: an estate of simulated VMs, to try policies and procedures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refloat.cli.output import say
from refloat.errors import Refused

_MOST = 1000


def simulate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new directory for all of it.")],
    vms: Annotated[int, typer.Option("--vms", min=1, max=_MOST, help="How many protected VMs.")] = 3,
) -> None:
    """Make a simulated estate: no virtual machines, nothing is proven; see docs/simulated.md."""
    import yaml

    from refloat.simulated.world import Protected, World, estate

    if directory.exists() and any(directory.iterdir()):
        raise Refused(f"{directory} is not empty", code="bad_directory", hint="name a new one")
    world = World((directory / "world").resolve())
    protected = [Protected(number) for number in range(1, vms + 1)]
    for one in protected:
        world.protect(one)
    form = estate(world.directory, protected, {"report_deadline": 60})
    here = directory.resolve()
    settings = {"data_dir": str(here / "hub"), "estate": str(here / "estate.yaml")}
    (directory / "estate.yaml").write_text(yaml.safe_dump(form, sort_keys=False))
    (directory / "refloat.yaml").write_text(yaml.safe_dump(settings))
    say(f"{vms} simulated VMs in {directory}")
    say(f"next: export REFLOAT_CONFIG={here}/refloat.yaml; refloat serve &")
