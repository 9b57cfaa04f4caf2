"""`refloat backup` and `refloat restore`: on the hub's machine, without its API."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from refloat.cli.output import note, say
from refloat.errors import Refused

File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]
Settings = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The settings; see docs/config.md.")
]


def backup(file: File, config: Settings = None) -> None:
    """Write everything that the hub remembers into one file; the hub may run meanwhile."""
    from refloat.backup import back_up
    from refloat.config import load_config

    settings = load_config(config)
    made = back_up(settings, file)
    say(f"{file}: {len(made.members)} files, {len(made.unfinished)} unfinished jobs")
    note(f"the key that seals secrets, {settings.seal_key}, is not in it: keep a copy of it elsewhere")


def restore(
    file: File,
    ended: Annotated[
        list[str] | None,
        typer.Option("--ended", metavar="JOB=HOW", help="It ended since: committed or rolled_back."),
    ] = None,
    resume: Annotated[
        list[str] | None, typer.Option("--resume", metavar="JOB", help="Nothing of it has happened since.")
    ] = None,
    config: Settings = None,
) -> None:
    """Put a backup into an empty folder of a hub. The hub must not run."""
    from refloat.backup import RESUME, restore
    from refloat.config import load_config

    said = dict.fromkeys(resume or (), RESUME)
    for one in ended or ():
        said.update([_ended(one)])
    made = restore(load_config(config), file, said, f"local ({getpass.getuser()})")
    say(f"restored as of {made.at}; start the hub with `refloat serve`")
    note("then run `refloat doctor`: replicas may be newer than this hub knows; the next sync finds that out")


def _ended(text: str) -> tuple[str, str]:
    from refloat.backup import ENDS

    job, _, how = text.partition("=")
    if not job or how not in ENDS:
        known = " or ".join(f"JOB={end}" for end in ENDS)
        raise Refused(f"--ended {text} is not {known}", code="bad_input", hint="say how that job ended")
    return job, how
