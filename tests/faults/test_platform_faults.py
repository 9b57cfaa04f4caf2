"""Every verb of a destination under every fault: the job comes to rest where the design says, and a rollback
brings back every byte. All of them side by side, through one hub on the simulated platform."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from refloat.destinations.simulated_faults import Fault, FaultKind
from refloat.model import JobState, Mode, PowerState, TargetState
from refloat.simulated.world import Protected
from tests.unit.simulated.rig import SETTLED, Site

WITHIN = 300.0

CHANGES = ("start", "stop", "set_compute", "set_disks", "set_nics", "set_firmware", "set_clock", "snapshot")
QUESTIONS = ("hardware", "power_state", "rollback_points", "stamps", "free_bytes", "observe", "screenshot")
BACK = ("revert", "start", "set_disks", "set_compute")
K = FaultKind


@dataclass(frozen=True)
class Case:
    """`forward` strikes on the way to the recovered VM, else the fault waits for the rollback."""

    fault: Fault
    forward: bool = True

    def __str__(self) -> str:
        return f"{self.fault.verb}-{self.fault.kind}-{'forward' if self.forward else 'back'}"


CASES = (
    *(
        Case(Fault(verb, kind))
        for verb in CHANGES
        for kind in (K.ERROR, K.UNREACHABLE, K.LOST_ANSWER, K.TWICE)
    ),
    *(Case(Fault(verb, K.UNREACHABLE)) for verb in QUESTIONS),
    *(Case(Fault(verb, K.STALE)) for verb in ("hardware", "rollback_points", "stamps")),
    *(Case(Fault(verb, kind), forward=False) for verb in BACK for kind in (K.ERROR, K.LOST_ANSWER, K.TWICE)),
)


class Faulty(Site):
    """One VM for each case."""

    def run(self) -> dict[str, str]:
        for one in self.protected:
            self.hub.start_sync(one.name)
        self._all(lambda one: self.hub.target(one.name).state is TargetState.READY)
        self._set(forward=True)
        jobs = {one.name: self.hub.start_failover(one.name, Mode.PLANNED).id for one in self.protected}
        self._all(lambda one: self.hub.job(jobs[one.name]).state in SETTLED)
        self.after_forward = {name: self.hub.job(job).state for name, job in jobs.items()}
        self._set(forward=False)
        for job in jobs.values():
            if self.hub.job(job).state is JobState.AWAITING_COMMIT:
                self.hub.rollback(job, "tester", discard_writes=True)
        ended = (JobState.ROLLED_BACK, JobState.REFUSED, JobState.BLOCKED)
        self._all(lambda one: self.hub.job(jobs[one.name]).state in ended)
        self.after_rollback = {name: self.hub.job(job).state for name, job in jobs.items()}
        self.world.destination.faults.set()
        for job in jobs.values():
            if self.hub.job(job).state is JobState.BLOCKED:
                self.hub.resume(job, "tester", "the platform answers again")
        self._all(lambda one: self.hub.job(jobs[one.name]).state in ended[:2])
        return jobs

    def _set(self, *, forward: bool) -> None:
        faults = (
            replace(case.fault, vm=one.controller)
            for one, case in zip(self.protected, CASES, strict=True)
            if case.forward is forward
        )
        self.world.destination.faults.set(*faults)

    def _all(self, holds: object) -> None:
        deadline = time.monotonic() + WITHIN
        for one in self.protected:
            while not holds(one):  # type: ignore[operator]
                assert time.monotonic() < deadline, (one.name, self.hub.jobs())
                time.sleep(0.1)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Faulty, dict[str, str]]]:
    everybody = [Protected(number) for number in range(1, len(CASES) + 1)]
    site = Faulty(tmp_path_factory.mktemp("faults"), *everybody)
    try:
        yield site, site.run()
    finally:
        site.close()


@pytest.mark.timeout(700)
@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(case) for case in CASES])
def test_a_fault_loses_nothing(ran: tuple[Faulty, dict[str, str]], number: int) -> None:
    site, jobs = ran
    one, case = site.protected[number], CASES[number]
    job = site.hub.job(jobs[one.name])
    assert job.state in (JobState.ROLLED_BACK, JobState.REFUSED), job.error
    fatal = case.forward and case.fault.kind in (K.ERROR, K.UNREACHABLE, K.LOST_ANSWER)
    if not fatal or case.fault.verb == "screenshot":  # a picture is never a condition
        assert site.after_forward[one.name] is JobState.AWAITING_COMMIT, job.error
    elif case.fault.verb not in QUESTIONS:
        # A step that failed is undone; the undo of `start` and `stop` may meet the fault instead.
        assert site.after_forward[one.name] in (
            JobState.ROLLED_BACK,
            JobState.BLOCKED,
            JobState.AWAITING_COMMIT,
        )
    assert site.world.source.power_state(one.name) is PowerState.RUNNING
    hardware = site.world.destination.state(one.controller).hardware
    assert [disk.serial for disk in hardware.disks][1:] == [one.serial(key) for key in one.disk_keys()]
    for key, content in site.replicas(one).items():
        assert content == site.world.source.content(one.name, key), key
    assert site.hub.target(one.name).state is TargetState.READY
