"""`refloat failover ...`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refloat.cli import exits
from refloat.cli.common import AsJson, Url, Watch, connect, session_of, sub_app
from refloat.cli.evidence import write_evidence
from refloat.cli.exits import EPILOG
from refloat.cli.output import print_json, say
from refloat.cli.show import print_outcome
from refloat.cli.watch import watch as watch_job
from refloat.model import Mode

app = sub_app("Failovers: make the replica the running VM.")


@app.callback()
def _group() -> None:
    """Keeps `start` a subcommand."""


@app.command("start", epilog=EPILOG)
def start(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The target's name.")],
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            help="planned: the source is shut down first. test: an isolated network, the source goes on. "
            "emergency: the source is gone.",
        ),
    ],
    source_is_off: Annotated[
        str,
        typer.Option(
            "--source-is-off",
            metavar="REASON",
            help="Emergency: how I know that the source is off, where nobody answers there. Recorded.",
        ),
    ] = "",
    watch: Watch = False,
    evidence: Annotated[
        Path | None,
        typer.Option("--evidence", metavar="DIR", help="Watch, then write the evidence to this folder."),
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Start a failover of a target.

    With --evidence the last line is `verdict: WORD  evidence: DIR`.
    """
    with connect(ctx, url) as client:
        job = client.start_failover(target, mode.value, source_is_off)
        if not (watch or evidence):
            print_json(job) if as_json else _print_started(job["id"])
            return
        if not as_json:
            say(f"job {job['id']} started")
        job = watch_job(client, job["id"], quiet=as_json, patience=session_of(ctx).patience)
        folder = write_evidence(client, job["id"], evidence) if evidence else None
    if as_json:
        print_json({**job, "evidence": str(folder) if folder else None})
    else:
        print_outcome(job, folder)
    raise typer.Exit(exits.of_job(job))


def _print_started(job_id: str) -> None:
    say(f"job {job_id} started; watch it with: refloat job watch {job_id}")
