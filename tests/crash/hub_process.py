"""A hub in a process of its own, over a simulated estate: `python -m tests.crash.hub_process DIR WHAT`.

It takes up what an earlier one left, does what is asked unless it is done, and ends when the job is at rest.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import OperationalError

from refloat.config import Config
from refloat.errors import Refused
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.jobs import engine
from refloat.model import JobState, Mode, TargetState
from refloat.notify.channels import channels
from refloat.simulated.world import Protected, World, estate
from refloat.syncs import SYNC_HOLDER
from tests.unit.simulated.rig import SETTLED, until

ONE = Protected(1)
POLICY = {"report_deadline": 30}


def config(directory: Path) -> Config:
    """With the store of the settings' environment, if there is one."""
    password = os.environ.get("REFLOAT_STORE_PASSWORD_FILE")
    told = directory / "notify.json"
    return Config(
        data_dir=directory / "hub",
        store=os.environ.get("REFLOAT_STORE", ""),
        store_password_file=Path(password) if password else None,
        notify=channels(json.loads(told.read_text())) if told.exists() else (),
    )


def open_hub(directory: Path) -> Hub:
    world = World(directory / "world")
    hub = Hub(config(directory), Estate.model_validate(estate(world.directory, [ONE], POLICY)))
    hub.open()
    return hub


def fail_over(hub: Hub, mode: Mode) -> None:
    until(lambda: not hub.target(ONE.name).holder or bool(hub.jobs()), "the last sync ends")
    if not hub.jobs():
        if hub.target(ONE.name).sync_point is None:
            hub.start_sync(ONE.name)
            until(lambda: hub.target(ONE.name).state is TargetState.READY, "a sync")
        hub.start_failover(ONE.name, mode)
    job = hub.jobs()[0].id
    until(lambda: answered(lambda: hub.job(job).state in SETTLED), "the job is at rest")


def answered(ask: Callable[[], bool]) -> bool:
    """False while the store does not answer."""
    try:
        return ask()
    except OperationalError:
        return False


def decide(hub: Hub, what: str) -> None:
    job = hub.jobs()[0]
    if job.state in (JobState.AWAITING_COMMIT, JobState.TEST_ACTIVE):
        if what == "commit":
            hub.commit(job.id, "tester")
        else:
            with suppress(OperationalError):  # of waiting until it is heard, in a server that was killed
                hub.rollback(job.id, "tester", discard_writes=True)
    ended = (JobState.COMMITTED, JobState.ROLLED_BACK, JobState.BLOCKED)
    until(lambda: answered(lambda: hub.job(job.id).state in ended), f"{what} ends")


def attempt(hub: Hub, what: str) -> None:
    """Asks for anything at any time, as an operator may: what is refused changes nothing."""
    job = next(iter(hub.jobs()), None)
    with suppress(Refused):
        match what:
            case "sync":
                hub.start_sync(ONE.name)
            case "planned" | "test" | "emergency":
                hub.start_failover(ONE.name, Mode(what))
            case "commit" if job:
                hub.commit(job.id, "tester")
            case "rollback" if job:
                hub.rollback(job.id, "tester", discard_writes=True)
            case "abort" if job:
                hub.abort(job.id, "tester", discard_writes=True)
            case "resume" if job:
                hub.resume(job.id, "tester")
    until(lambda: all(one.state in SETTLED for one in hub.jobs()), "every job is at rest")
    until(lambda: not hub.target(ONE.name).holder.startswith(SYNC_HOLDER), "the sync ends")


def main(directory: Path, what: str) -> None:
    engine.ASK_AGAIN = 1.0
    hub = open_hub(directory)
    if what.startswith("try "):
        attempt(hub, what.removeprefix("try "))
    elif what == "deliver":
        until(lambda: not any(one.waiting for one in hub.store.outbox.tallies().values()), "all is told")
    elif what in tuple(Mode):
        fail_over(hub, Mode(what))
    else:
        decide(hub, what)
    # As `refloat serve` ends: what runs in threads is not waited for.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
