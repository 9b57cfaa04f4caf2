"""Anything in any order, on real VMs: starts, aborts, rollbacks, syncs, and a hub that is killed in between.
A smaller walk than that over the simulated platform (tests/crash/test_hub_model.py); no guest has to boot."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest

from refloat.lab.estate import SYSTEM_SERIAL, TARGET
from refloat.lab.hub import hub_pid, start_hub
from refloat.model import PowerState
from tests.system.real_site import processes
from tests.system.rig import Rig

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="takes minutes: script/test --all"),
]

SEED = int(os.environ.get("REFLOAT_TEST_SEED", "5"))
ASKED = 6
STARTS = ("test", "test", "planned", "sync")
ENDS = ("abort", "rollback", "resume", "sync")
# How far a job gets before the next thing happens.
FAR = ("stop-exports", "snapshot-disks", "adapt-guest", "stop-controller", "reorder-disks", "start-vm")
REST = ("refused", "test_active", "awaiting_commit", "committed", "rolled_back", "blocked")
WITHIN = 300.0  # seconds


class Walk:
    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig, self.random = rig, random.Random(seed)
        self.told: list[str] = []

    def go(self) -> None:
        for _ in range(ASKED):
            self.ask(self.random.choice(ENDS if self.job_runs() else STARTS))
            if self.random.random() < 0.6:
                self.wait_until_far(self.random.choice(FAR))
            if self.random.random() < 0.5:
                self.kill_hub()
            self.check()

    def ask(self, what: str) -> None:
        """As an operator may, at any time: a refusal is an answer, and changes nothing."""
        body: dict[str, Any] = {"reason": "walk"}
        if what == "sync":
            answer = self.rig.post(f"/targets/{TARGET}/sync")
        elif what in STARTS:
            answer = self.rig.post(f"/targets/{TARGET}/failover", {"mode": what})
        else:
            if what in ("abort", "rollback"):
                body["discard_writes"] = True
            answer = self.rig.post(f"/jobs/{self.last_job()['id']}/{what}", body)
        self.told.append(f"{what}: {answer.status_code}")
        assert answer.status_code < 300 or answer.status_code == 409, (self.told, answer.text)

    def kill_hub(self) -> None:
        pid = hub_pid(self.rig.lab)
        assert pid is not None, self.told
        os.kill(pid, signal.SIGKILL)
        self.rig.wait_for_death()
        self.told.append("killed")
        start_hub(self.rig.lab)

    def wait_until_far(self, step: str) -> None:
        deadline = time.monotonic() + WITHIN
        while not self.is_far(step):
            assert time.monotonic() < deadline, (self.told, self.last_job())
            time.sleep(0.2)
        self.told.append(f"at {step}")

    def is_far(self, step: str) -> bool:
        job = self.last_job()
        if not job or job["state"] in REST or job["state"] == "rolling_back":
            return True
        return any(one["step"] == step for one in self.rig.get(f"/jobs/{job['id']}")["steps"])

    def job_runs(self) -> bool:
        job = self.last_job()
        return bool(job) and job["state"] not in ("refused", "committed", "rolled_back")

    def last_job(self) -> dict[str, Any]:
        jobs: list[dict[str, Any]] = self.rig.get("/jobs")  # the newest first
        return jobs[0] if jobs else {}

    def check(self) -> None:
        """No VM twice; in a live failover never the source beside the recovered VM."""
        for vm in (self.rig.lab.source_vm, self.rig.lab.controller_vm):
            assert len(processes(vm)) <= 1, (vm, self.told)
        recovered = self.rig.lab.controller_vm
        if self.rig.destination.hardware(recovered).disks[0].serial != SYSTEM_SERIAL:
            return
        if self.last_job()["mode"] == "planned":
            powers = [
                self.rig.destination.power_state(recovered),
                self.rig.source.power_state(self.rig.lab.source_vm),
            ]
            assert PowerState.OFF in powers, self.told

    def bring_to_an_end(self) -> None:
        deadline = time.monotonic() + 2 * WITHIN
        while self.rig.target()["holder"]:
            job = self.last_job()
            path = {"running": "abort", "queued": "abort", "blocked": "resume"}.get(job["state"], "rollback")
            if job["state"] in ("running", "queued", "blocked", "test_active", "awaiting_commit"):
                self.rig.post(f"/jobs/{job['id']}/{path}", {"discard_writes": True, "reason": "the end"})
            assert time.monotonic() < deadline, (self.told, job)
            time.sleep(1)


def test_a_walk_ends_where_it_began(rig: Rig) -> None:
    source = rig.lab.source_vm
    rig.wait_for_guest(source)
    walk = Walk(rig, SEED)
    walk.go()
    walk.bring_to_an_end()
    assert rig.target()["state"] == "ready", (walk.told, rig.target())
    assert not list(rig.lab.images.glob("*.refloat-*")), walk.told
    assert rig.source.power_state(source) is PowerState.RUNNING, walk.told
    rig.wait_for_guest(source)
    assert rig.source.shut_down(source, 120)
    rig.sync()
    assert rig.replica_hashes() == rig.source_hashes(), walk.told
    rig.source.power_on(source)
    rig.wait_for_guest(source)
