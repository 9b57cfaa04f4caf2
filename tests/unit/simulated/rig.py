"""A hub over a simulated estate, and how to wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refloat.config import Config
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.model import JobState, Mode, OperatorDecision, TargetState
from refloat.notify.channels import Channel
from refloat.simulated.world import Protected, World, estate

WITHIN = 60.0  # seconds
SETTLED = frozenset(
    {
        JobState.REFUSED,
        JobState.TEST_ACTIVE,
        JobState.AWAITING_COMMIT,
        JobState.COMMITTED,
        JobState.ROLLED_BACK,
        JobState.BLOCKED,
    }
)


def until(holds: Callable[[], bool], what: str = "it") -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.02)


class Site:
    """A world with some protected VMs, and the hub over it."""

    notify: tuple[Channel, ...] = ()

    def __init__(self, directory: Path, *protected: Protected, **policy: Any) -> None:
        self.directory, self.protected = directory, protected
        self.policy = {"report_deadline": 10, **policy}
        self.world = World(directory / "world")
        for one in protected:
            self.world.protect(one)
        self.hub = self.opened()

    def opened(self) -> Hub:
        form = Estate.model_validate(estate(self.world.directory, self.protected, self.policy))
        hub = Hub(Config(data_dir=self.directory / "hub", notify=self.notify), form)
        # The hub's own platforms, so that a test can reach into them.
        hub.platforms._worlds[str(self.world.directory)] = self.world
        hub.open()
        return hub

    def close(self) -> None:
        self.hub.close()

    def sync(self, one: Protected, full: bool = False) -> None:
        self.hub.start_sync(one.name, full)
        self.idle(one)
        target = self.hub.target(one.name)
        assert target.state is TargetState.READY and not target.message, target

    def idle(self, one: Protected) -> None:
        until(lambda: not self.hub.target(one.name).holder, f"the end of the sync of {one.name}")

    def fail_over(self, one: Protected, mode: Mode, override: OperatorDecision | None = None) -> str:
        """The job, when it has come to rest."""
        job = self.hub.start_failover(one.name, mode, override).id
        self.rest(job)
        return job

    def rest(self, job: str, *states: JobState) -> None:
        wanted = states or tuple(SETTLED)
        until(lambda: self.hub.job(job).state in wanted, f"{job} comes to rest")

    def roll_back(self, job: str, discard: bool = False) -> None:
        self.hub.rollback(job, "tester", discard_writes=discard)
        self.rest(job, JobState.ROLLED_BACK, JobState.BLOCKED)
        assert self.hub.job(job).state is JobState.ROLLED_BACK, self.hub.job(job).error

    def replicas(self, one: Protected) -> dict[str, bytes]:
        folder = self.world.destination.volumes.directory
        return {key: (folder / f"{one.name}-{key}.raw").read_bytes() for key in one.disk_keys()}
