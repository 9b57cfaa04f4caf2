"""`refloat doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refloat.cli.common import AsJson
from refloat.cli.output import note, print_json, say


def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The settings; see docs/config.md.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check what a failover would need: this machine, both platforms, keys, controllers. Changes nothing.

    Exit code 0: no trouble; 1: trouble was found.
    """
    from refloat.codec import encode
    from refloat.config import load_config
    from refloat.doctor import State, examine

    found = []
    for one in examine(load_config(config)):
        found.append(one)
        if not as_json:
            say(f"{one.state:<8} {one.subject}: {one.found}")
            if one.hint:
                note(f"         what to do: {one.hint}")
    if as_json:
        print_json(encode(found))
    troubles = sum(one.state is State.TROUBLE for one in found)
    if troubles and not as_json:
        say(f"{troubles} of {len(found)} checks found trouble")
    raise typer.Exit(1 if troubles else 0)
