"""A hub in a process of its own, over a simulated estate: `python -m tests.crash.hub_process DIR WHAT`.

It takes up what an earlier one left, does what is asked unless it is done, and ends when the job is at rest.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from refloat.config import Config
from refloat.errors import Refused
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.model import JobState, Mode, TargetState
from refloat.simulated.world import Protected, World, estate
from refloat.syncs import SYNC_HOLDER
from tests.unit.simulated.rig import SETTLED, until

ONE = Protected(1)
POLICY = {"report_deadline": 30}


def open_hub(directory: Path) -> Hub:
    world = World(directory / "world")
    hub = Hub(
        Config(data_dir=directory / "hub"), Estate.model_validate(estate(world.directory, [ONE], POLICY))
    )
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
    until(lambda: hub.job(job).state in SETTLED, "the job is at rest")


def decide(hub: Hub, what: str) -> None:
    job = hub.jobs()[0]
    if job.state in (JobState.AWAITING_COMMIT, JobState.TEST_ACTIVE):
        if what == "commit":
            hub.commit(job.id, "tester")
        else:
            hub.rollback(job.id, "tester", discard_writes=True)
    ended = (JobState.COMMITTED, JobState.ROLLED_BACK, JobState.BLOCKED)
    until(lambda: hub.job(job.id).state in ended, f"{what} ends")


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
    hub = open_hub(directory)
    if what.startswith("try "):
        attempt(hub, what.removeprefix("try "))
    elif what in tuple(Mode):
        fail_over(hub, Mode(what))
    else:
        decide(hub, what)
    # As `refloat serve` ends: what runs in threads is not waited for.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
