"""Following a job until it rests. The watcher can go at any time: the job does not depend on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import typer

from refloat.cli import exits
from refloat.cli.client import Client, Data
from refloat.cli.exits import HubUnreachable
from refloat.cli.output import note
from refloat.cli.views import View, choose_view

T = TypeVar("T")

# States in which a job waits for a person, or is over.
AT_REST = frozenset({"refused", "test_active", "awaiting_commit", "committed", "rolled_back", "blocked"})

_WAIT = 20.0  # seconds of one long poll
_SYNC_WAIT = 1.0  # while a sync inside the job runs: its progress is in the target, not in events
_SYNC_STEP = "final-sync"
_RETRY = 1.0


def watch(client: Client, job_id: str, *, after: int = 0, quiet: bool, patience: float) -> Data:
    """Shows the job until it rests, and returns it as JobDetail. Events up to `after` are taken as known.

    `patience`: seconds that the hub may be away (it is being restarted: the job goes on by itself).
    Ctrl-C ends the watching only.
    """
    view = choose_view(to_stderr=quiet)
    try:
        return follow(client, job_id, view, after, patience)
    except KeyboardInterrupt:
        view.close()
        note(f"stopped watching; the job goes on. Watch it again with: refloat job watch {job_id}")
        raise typer.Exit(exits.INTERRUPTED) from None
    finally:
        view.close()


def follow(client: Client, job_id: str, view: View, after: int, patience: float) -> Data:
    while True:
        at_rest = view.board.state in AT_REST
        wait = 0.0 if at_rest or not view.board.state else _wait_for(view)
        page = patiently(lambda: client.events(job_id, after, wait), view, patience)  # noqa: B023
        for event in page["events"]:
            view.event(event)
        after = page["next"]
        if page["events"]:
            continue
        if at_rest:
            return patiently(lambda: client.job(job_id), view, patience)
        _catch_up(client, job_id, view, patience, from_start=after == 0)


def _wait_for(view: View) -> float:
    current = view.board.current
    return _SYNC_WAIT if current and current.step == _SYNC_STEP else _WAIT


def _catch_up(client: Client, job_id: str, view: View, patience: float, *, from_start: bool) -> None:
    """What events do not tell: the state before the first one, and the bytes of a sync inside the job.

    When watching starts after an operator's decision, a state at rest is the one before the decision.
    """
    current = view.board.current
    if view.board.state and not (current and current.step == _SYNC_STEP):
        return
    job = patiently(lambda: client.job(job_id), view, patience)
    if not view.board.state:
        old = job["state"] in AT_REST and not from_start
        view.board.state = "queued" if old else job["state"]
    target = patiently(lambda: client.target(job["target"]), view, patience)
    if target["progress"]:
        view.progress(target["progress"])


def patiently(call: Callable[[], T], view: View, patience: float) -> T:
    """The call's result; while the hub is away it is tried again, for `patience` seconds."""
    deadline = time.monotonic() + patience
    told = False
    while True:
        try:
            return call()
        except HubUnreachable:
            if time.monotonic() >= deadline:
                raise
            if not told:
                view.notice(f"the hub does not answer; trying again for {patience:.0f} s")
                told = True
            time.sleep(_RETRY)
