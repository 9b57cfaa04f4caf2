"""`refloat job ...`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refloat.cli import exits
from refloat.cli.client import Client, Data
from refloat.cli.common import AsJson, Reason, Url, Watch, connect, session_of, sub_app
from refloat.cli.evidence import write_evidence
from refloat.cli.exits import EPILOG
from refloat.cli.output import print_json, say, table
from refloat.cli.show import print_job, print_outcome
from refloat.cli.watch import watch as watch_job
from refloat.errors import Refused
from refloat.text import instant, safe

app = sub_app("Jobs: what failovers did, and the operator's decisions about them.")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]
Discard = Annotated[
    bool,
    typer.Option("--discard-writes", help="I know that what the recovered VM has written is lost."),
]


@app.command("list")
def list_jobs(ctx: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """List jobs, newest first."""
    with connect(ctx, url) as client:
        jobs = client.jobs()
    if as_json:
        print_json(jobs)
        return
    rows = [(j["id"], j["target"], j["mode"], j["state"], instant(j["created"])) for j in jobs]
    table(("JOB", "TARGET", "MODE", "STATE", "CREATED (UTC)"), rows, "no jobs yet")


@app.command("show")
def show_job(ctx: typer.Context, job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show a job with its steps, decision and verdict."""
    with connect(ctx, url) as client:
        job = client.job(job_id)
    print_json(job) if as_json else print_job(job)


@app.command("watch", epilog=EPILOG)
def watch(ctx: typer.Context, job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Follow a job until it waits for a decision or is over."""
    with connect(ctx, url) as client:
        client.job(job_id)
        job = watch_job(client, job_id, quiet=as_json, patience=session_of(ctx).patience)
    print_json(job) if as_json else print_outcome(job)
    raise typer.Exit(exits.of_job(job))


@app.command("commit", epilog=EPILOG)
def commit(
    ctx: typer.Context,
    job_id: JobId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    reason: Reason = "",
    watch: Watch = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Keep the recovered VM. One-way: the rollback points go."""
    with connect(ctx, url) as client:
        if not yes:
            question = f"Keep the recovered VM of {job_id}? After this there is no rollback."
            _ask(ctx, question, "commit is one-way and was not confirmed", "--yes")
        _decide(ctx, client, job_id, "commit", reason, watch=watch, as_json=as_json)


@app.command("rollback", epilog=EPILOG)
def rollback(
    ctx: typer.Context,
    job_id: JobId,
    discard_writes: Discard = False,
    reason: Reason = "",
    watch: Watch = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Put everything back: the replica byte for byte, the source running."""
    with connect(ctx, url) as client:
        if not discard_writes:
            question = f"Discard everything that the recovered VM of {job_id} has written?"
            _ask(ctx, question, "rollback discards what the recovered VM has written", "--discard-writes")
        _decide(ctx, client, job_id, "rollback", reason, discard=True, watch=watch, as_json=as_json)


@app.command("abort", epilog=EPILOG)
def abort(
    ctx: typer.Context,
    job_id: JobId,
    discard_writes: Discard = False,
    reason: Reason = "",
    watch: Watch = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Stop a running job; what it did is undone.

    Once the recovered VM has run, the hub refuses this without --discard-writes.
    """
    with connect(ctx, url) as client:
        _decide(ctx, client, job_id, "abort", reason, discard=discard_writes, watch=watch, as_json=as_json)


@app.command("resume", epilog=EPILOG)
def resume(
    ctx: typer.Context,
    job_id: JobId,
    reason: Reason = "",
    watch: Watch = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a blocked job, once its cause is mended."""
    with connect(ctx, url) as client:
        _decide(ctx, client, job_id, "resume", reason, watch=watch, as_json=as_json)


@app.command("evidence")
def evidence(
    ctx: typer.Context,
    job_id: JobId,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Default: ./evidence-JOB")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Write a job's evidence (evidence.json, evidence.html) and print the folder's path."""
    with connect(ctx, url) as client:
        folder = write_evidence(client, job_id, output or Path(f"evidence-{job_id}"))
    if as_json:
        print_json({name: str(folder / f"evidence.{name}") for name in ("json", "html")})
    else:
        say(folder)


# ---------------------------------------------------------------- decisions

# What each decision asks for. A job that never changed anything ends an abort as refused.
_ASKED = {
    "commit": frozenset({"committed"}),
    "rollback": frozenset({"rolled_back"}),
    "abort": frozenset({"rolled_back", "refused"}),
    "resume": frozenset({"rolled_back", "committed"}),
}


def _ask(ctx: typer.Context, question: str, refusal: str, flag: str) -> None:
    """Asks on a terminal; refuses where there is nobody to ask."""
    confirmed = session_of(ctx).interactive() and typer.confirm(safe(question), err=True)
    if not confirmed:
        raise Refused(refusal, code="not_confirmed", hint=f"say so with {flag}")


def _decide(
    ctx: typer.Context,
    client: Client,
    job_id: str,
    what: str,
    reason: str,
    *,
    watch: bool,
    as_json: bool,
    discard: bool = False,
) -> None:
    known = client.last_event(job_id) if watch else 0
    job: Data = client.decide(job_id, what, reason, discard)
    if not watch:
        hint = f"watch it with: refloat job watch {job_id}"
        print_json(job) if as_json else say(f"{what} of {job_id} accepted; {hint}")
        return
    job = watch_job(client, job_id, after=known, quiet=as_json, patience=session_of(ctx).patience)
    print_json(job) if as_json else print_outcome(job)
    raise typer.Exit(exits.of_request(job, _ASKED[what]))
