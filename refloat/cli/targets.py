"""`refloat target ...`"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import typer

from refloat.cli.client import Client, Data
from refloat.cli.common import AsJson, Session, Url, connect, session_of, sub_app
from refloat.cli.exits import EPILOG
from refloat.cli.output import (
    age_text,
    facts,
    next_text,
    note,
    print_json,
    progress_text,
    ready_text,
    say,
    sync_point_text,
    table,
)
from refloat.errors import Failed, Refused
from refloat.text import safe

app = sub_app("Replication targets: what is protected, and how fresh its replica is.")

Target = Annotated[str, typer.Argument(metavar="TARGET", help="The target's name.")]


@app.command("list")
def list_targets(ctx: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """List all targets."""
    with connect(ctx, url) as client:
        targets = client.targets()
    if as_json:
        print_json(targets)
        return
    rows = [
        (t["name"], t["state"], t["holder"] or "-", age_text(t["replication"]), ready_text(t["readiness"]))
        for t in targets
    ]
    header = ("TARGET", "STATE", "BUSY WITH", "REPLICA'S AGE", "FAILOVER")
    table(header, rows, "no targets: the estate file names none")


@app.command("show")
def show_target(ctx: typer.Context, target: Target, url: Url = None, as_json: AsJson = False) -> None:
    """Show one target."""
    with connect(ctx, url) as client:
        found = client.target(target)
    if as_json:
        print_json(found)
    else:
        _show(found)


@app.command("sync", epilog=EPILOG)
def sync_target(
    ctx: typer.Context,
    target: Target,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Wait for its end (default).")] = True,
    full: Annotated[
        bool, typer.Option("--full", help="Believe nothing of what the replica holds: send every block.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Replicate the source to the target now."""
    with connect(ctx, url) as client:
        before = client.target(target)
        started = client.sync(target, full)
        if not watch:
            print_json(started) if as_json else say(f"sync of {target} started")
            return
        ended = _wait(client, target, session_of(ctx))
    if as_json:
        print_json(ended)
    if _point_id(ended) == _point_id(before):
        raise Failed(
            ended["message"] or f"the sync of {target} ended without a new sync point",
            code="sync_failed",
            hint="the last complete sync point is untouched; see the hub's log, then sync again",
        )
    if not as_json:
        say(f"{target} is {ended['state']}: {sync_point_text(ended['sync_point'])}")


@app.command("add", epilog=EPILOG)
def add_target(ctx: typer.Context, target: Target, url: Url = None, as_json: AsJson = False) -> None:
    """Make the controller and the replica volumes that the estate file wishes for, and sync a first time.

    Goes on with what an interrupted attempt has made.
    """
    with connect(ctx, url) as client:
        client.add_target(target)
        ended = _wait(client, target, session_of(ctx), busy=_at_work)
    if as_json:
        print_json(ended)
    if ended["state"] != "ready":
        raise Failed(
            ended["message"] or f"target {target} is {ended['state']}",
            code="provision_failed",
            hint=f"`refloat target add {target}` goes on, `refloat target remove {target}` undoes it",
        )
    if not as_json:
        say(f"{target} is ready: {sync_point_text(ended['sync_point'])}")


@app.command("remove", epilog=EPILOG)
def remove_target(
    ctx: typer.Context,
    target: Target,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: the replica is deleted.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Delete the controller and the replica volumes that `add` made, and nothing else."""
    question = f"delete the controller and the replica of {safe(target)}?"
    if not yes and not (session_of(ctx).interactive() and typer.confirm(question, err=True)):
        raise Refused("the removal was not confirmed", code="not_confirmed", hint="say so with --yes")
    with connect(ctx, url) as client:
        client.remove_target(target)
        ended = _wait(client, target, session_of(ctx), busy=_at_work)
    if as_json:
        print_json(ended)
    if ended["message"]:
        raise Failed(
            ended["message"],
            code="removal_failed",
            hint=f"mend the cause, then `refloat target remove {target}` again",
        )
    if not as_json:
        say(f"the controller and the replica of {target} are gone")


@app.command("pause", epilog=EPILOG)
def pause_target(ctx: typer.Context, target: Target, url: Url = None, as_json: AsJson = False) -> None:
    """Start no sync of this target until it is resumed. A failover stays possible."""
    with connect(ctx, url) as client:
        status = client.pause(target)
    print_json(status) if as_json else say(f"replication of {target} is paused")


@app.command("resume", epilog=EPILOG)
def resume_target(ctx: typer.Context, target: Target, url: Url = None, as_json: AsJson = False) -> None:
    """Replicate this target again."""
    with connect(ctx, url) as client:
        status = client.resume(target)
    print_json(status) if as_json else say(f"replication of {target} goes on")


def _syncing(status: Data) -> bool:
    return bool(status["state"] == "syncing")


def _at_work(status: Data) -> bool:
    """Provisioning, or the first sync that follows it."""
    return str(status["holder"]).startswith(("provision-", "sync-"))


def _wait(client: Client, name: str, session: Session, busy: Callable[[Data], bool] = _syncing) -> Data:
    """Until the work ends; progress goes to stderr. Ctrl-C ends the waiting, not the work."""
    shown = ""
    try:
        while busy(status := client.target(name)):
            text = progress_text(status["progress"] or {})
            if text and text != shown:
                note(f"{status['state']} {name}: {text}")
                shown = text
            time.sleep(session.pause)
    except KeyboardInterrupt:
        note(f"stopped watching; the work goes on. Look at it with: refloat target show {name}")
        raise typer.Exit(130) from None
    return status


def _point_id(target: Data) -> str:
    point = target["sync_point"]
    return str(point["id"]) if point else ""


def _show(target: Data) -> None:
    facts(
        [
            ("target", target["name"]),
            ("state", target["state"]),
            ("busy with", target["holder"]),
            ("sync point", sync_point_text(target["sync_point"])),
            ("replica's age", age_text(target["replication"])),
            ("next sync", next_text(target["replication"])),
            ("failover", ready_text(target["readiness"])),
            ("progress", progress_text(target["progress"] or {})),
            ("message", target["message"]),
        ]
    )
    readiness = target["readiness"] or {}
    for reason in (*readiness.get("reasons", ()), *readiness.get("warnings", ())):
        say(f"  - {reason}")
