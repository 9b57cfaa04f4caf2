"""A hub in a process of its own, over a simulated estate: `python -m tests.crash.hub_process DIR WHAT`.

It takes up what an earlier one left, does what is asked unless it is done, and ends when the job is at rest.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from refloat.config import Config
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.model import JobState, Mode, TargetState
from refloat.simulated.world import Protected, World, estate
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


def main(directory: Path, what: str) -> None:
    hub = open_hub(directory)
    if what in tuple(Mode):
        fail_over(hub, Mode(what))
    else:
        decide(hub, what)
    # As `refloat serve` ends: what runs in threads is not waited for.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
