"""The hub is killed with SIGKILL at every mark of a job's life, and at random instants.

Real processes, real syncs, on the simulated platform. After each kill another hub goes on; in the end the
job is where the design says, and in between nothing ever runs twice.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from refloat.controller.exports import running_exports
from refloat.failover import COMMIT, STEPS, Step
from refloat.model import JobState, Mode, PowerState, Verdict, Word
from refloat.run import KILL_AT
from refloat.simulated.world import World
from refloat.store.store import Job, Store
from tests.crash.hub_process import ONE

WITHIN = 120.0  # seconds for one hub; a killed one is at its point long before
INSIDE = ("power-off-source", "final-sync", "snapshot-disks", "reorder-disks", "await-report")


class Crashing:
    """Hubs over one directory, each killed where it is told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.world = World(directory / "world")
        self.world.protect(ONE)
        self.kills = 0

    def until_done(
        self, what: str, points: Sequence[str] = (), after: Callable[[], float] | None = None
    ) -> None:
        """Runs hubs until one comes to its end. `points` as REFLOAT_KILL_AT has them, each strikes once;
        `after` gives the seconds after which the next one is killed, 0 for one that is let live."""
        environment = {**os.environ, KILL_AT: ",".join(points)}
        argv = [sys.executable, "-m", "tests.crash.hub_process", str(self.directory), what]
        deadline = time.monotonic() + WITHIN * 2
        while True:
            assert time.monotonic() < deadline, f"{what} does not come to its end"
            hub = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE)
            seconds = after() if after else 0
            try:
                _, said = hub.communicate(timeout=seconds or WITHIN)
            except subprocess.TimeoutExpired:
                hub.send_signal(signal.SIGKILL)
                _, said = hub.communicate()
                assert seconds, f"a hub did not end: {said.decode()[-2000:]}"
            self.check()
            if hub.returncode == 0:
                return
            assert hub.returncode == -signal.SIGKILL, said.decode()[-3000:]
            self.kills += 1

    def killed_after(self, what: str, seconds: float) -> None:
        """One hub that is killed then, unless it came to its end before."""
        argv = [sys.executable, "-m", "tests.crash.hub_process", str(self.directory), what]
        hub = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            hub.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            hub.send_signal(signal.SIGKILL)
            hub.wait()
            self.kills += 1

    def check(self) -> None:
        """What must hold whenever the hub is dead."""
        recovered = self.world.destination.state(ONE.controller)
        serials = {ONE.serial(key) for key in ONE.disk_keys()}
        promoted = bool(recovered.hardware.disks) and recovered.hardware.disks[0].serial in serials
        runs = recovered.power is PowerState.RUNNING and promoted
        job = self.job()
        if runs:
            assert job and (job.mode is Mode.TEST or self.source() is PowerState.OFF), "the VM runs twice"
            paths = self.world.controller(ONE.controller)._paths
            assert not running_exports(paths), "an export can write under a running VM"

    def source(self) -> PowerState:
        return self.world.source.power_state(ONE.name)

    def job(self) -> Job | None:
        file = self.directory / "hub/refloat.sqlite"
        if not file.exists():
            return None
        store = Store.open(file)
        try:
            return next(iter(store.jobs()), None)
        finally:
            store.engine.dispose()

    def verdict(self) -> Verdict | None:
        job = self.job()
        store = Store.open(self.directory / "hub/refloat.sqlite")
        try:
            return store.load(job.id, "verdict", Verdict) if job else None
        finally:
            store.engine.dispose()

    def replicas(self) -> dict[str, bytes]:
        folder = self.world.destination.volumes.directory
        return {key: (folder / f"{ONE.name}-{key}.raw").read_bytes() for key in ONE.disk_keys()}

    def sources(self) -> dict[str, bytes]:
        return {key: self.world.source.content(ONE.name, key) for key in ONE.disk_keys()}


@pytest.fixture
def crashing(tmp_path: Path) -> Iterator[Crashing]:
    made = Crashing(tmp_path)
    yield made
    made.world.controller(ONE.controller).stopped()


def points(steps: Sequence[Step], phase: str, mode: Mode) -> list[str]:
    """Every mark of these steps."""
    names = [step.name for step in steps if mode in step.modes]
    before = [f"{name}:before" for name in names] if phase == "do" else []
    return [*before, *(f"{name}:after-{phase}" for name in names)]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", [Mode.PLANNED, Mode.TEST])
def test_killed_at_every_mark_and_rolled_back(crashing: Crashing, mode: Mode) -> None:
    inside = [f"{name}:inside" for name in INSIDE if mode is Mode.PLANNED or name not in INSIDE[:2]]
    forward = [*points(STEPS, "do", mode), *inside]
    crashing.until_done(mode, forward)
    found, job = crashing.verdict(), crashing.job()
    assert crashing.kills == len(forward)
    assert job and job.state is (JobState.AWAITING_COMMIT if mode is Mode.PLANNED else JobState.TEST_ACTIVE)
    assert found and found.word is Word.SUCCEEDED, found
    before = crashing.sources()

    back = [*points(STEPS, "undo", mode), "revert-disks:inside"]
    crashing.until_done("rollback", back)
    assert crashing.kills == len(forward) + len(back)
    job = crashing.job()
    assert job and job.state is JobState.ROLLED_BACK, job
    assert crashing.replicas() == before
    assert crashing.source() is PowerState.RUNNING


@pytest.mark.timeout(300)
def test_killed_at_every_mark_of_a_commit(crashing: Crashing) -> None:
    crashing.until_done(Mode.PLANNED)
    crashing.world.destination.guest_writes(ONE.controller, ONE.serial("sdb"), 0, b"kept")
    marks = [*(f"{step.name}:after-commit" for step in COMMIT), "merge-disks:inside"]
    crashing.until_done("commit", marks)
    job = crashing.job()
    assert crashing.kills == len(marks) and job and job.state is JobState.COMMITTED
    assert crashing.replicas()["sdb"].startswith(b"kept")
    assert crashing.source() is PowerState.OFF


@pytest.mark.timeout(400)
def test_killed_at_random_instants(crashing: Crashing) -> None:
    dice = random.Random(20260)  # the same instants each time, as far as the machine allows
    left = [dice.uniform(0.5, 4.0) for _ in range(8)]
    crashing.until_done(Mode.PLANNED, after=lambda: left.pop() if left else 0)
    found = crashing.verdict()
    assert found and found.word is Word.SUCCEEDED, found
    before = crashing.sources()
    left = [dice.uniform(0.5, 3.0) for _ in range(5)]
    crashing.until_done("rollback", after=lambda: left.pop() if left else 0)
    job = crashing.job()
    assert job and job.state is JobState.ROLLED_BACK, job
    assert crashing.replicas() == before
