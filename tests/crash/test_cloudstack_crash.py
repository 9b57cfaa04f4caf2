"""The hub is killed with SIGKILL at every order that it gives to CloudStack: carried out there, and its
answer on the way. Each next hub goes on; in the end nothing was done twice, and a rollback brings back every
byte."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from refloat.model import JobState, Verdict, Word
from refloat.store.store import Job, Store
from tests.cloudstack.server import CloudStack
from tests.unit.destinations.cloudstack_site import ONE, CloudSite

WITHIN = 120.0
QUESTIONS = ("list", "query")


class Killing(CloudStack):
    """Carries an order out, kills the hub that gave it, and answers nobody; each order strikes once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.hub: subprocess.Popen[bytes] | None = None
        self.kills = True
        self.struck: list[str] = []

    def handle(self, raw: dict[str, str]) -> tuple[int, dict[str, Any]]:
        answer = super().handle(raw)
        command = raw.get("command", "")
        own = {"apiKey", "signature", "expires", "signatureVersion", "response"}
        order = command + " " + str(sorted((key, value) for key, value in raw.items() if key not in own))
        if (
            self.kills
            and self.hub is not None
            and not command.startswith(QUESTIONS)
            and order not in self.struck
        ):
            self.struck.append(order)
            self.hub.kill()
        return answer


class Crashing:
    def __init__(self, directory: Path) -> None:
        (directory / "volumes").mkdir()
        self.directory = directory
        self.server = Killing(directory / "volumes")
        self.site = CloudSite(directory, self.server, with_hub=False)
        self.kills = 0

    def until_done(self, what: str) -> None:
        argv = [sys.executable, "-m", "tests.crash.cloudstack_process", str(self.directory), what]
        deadline = time.monotonic() + 2 * WITHIN
        while True:
            assert time.monotonic() < deadline, f"{what} does not come to its end"
            self.server.hub = subprocess.Popen(argv, env=dict(os.environ), stderr=subprocess.PIPE)
            _, said = self.server.hub.communicate(timeout=WITHIN)
            code = self.server.hub.returncode
            self.server.hub = None
            if code == 0:
                return
            assert code == -9, said.decode()[-3000:]
            self.kills += 1

    def job(self) -> tuple[Job, Verdict | None]:
        store = Store.open(self.directory / "hub/refloat.sqlite")
        try:
            job = next(iter(store.jobs()))
            return job, store.load(job.id, "verdict", Verdict)
        finally:
            store.engine.dispose()


@pytest.fixture
def crashing(tmp_path: Path) -> Iterator[Crashing]:
    made = Crashing(tmp_path)
    yield made
    made.site.close()


@pytest.mark.timeout(500)
def test_killed_at_every_order_there_and_back(crashing: Crashing) -> None:
    site = crashing.site
    shape = site.shape()
    crashing.until_done("planned")
    job, found = crashing.job()
    assert job.state is JobState.AWAITING_COMMIT, job
    assert found and found.word is Word.SUCCEEDED, found
    forward = crashing.kills
    assert forward == len(crashing.server.struck) >= 15
    assert site.orders("createSnapshot") == len(site.replicas)
    assert (site.orders("detachVolume"), site.orders("attachVolume")) == (2, 1)
    assert (site.orders("addNicToVirtualMachine"), site.orders("removeNicFromVirtualMachine")) == (1, 1)
    assert (site.orders("startVirtualMachine"), site.orders("stopVirtualMachine")) == (1, 1)
    sources = [site.source.content(ONE.name, key) for key in ONE.disk_keys()]

    crashing.until_done("rollback")
    job, _ = crashing.job()
    assert job.state is JobState.ROLLED_BACK, job
    assert crashing.kills == len(crashing.server.struck) >= forward + 11
    assert [site.server.content(volume.id) for volume in site.replicas] == sources
    assert site.shape() == shape and not site.cloud.snapshots
    assert (site.orders("detachVolume"), site.orders("attachVolume")) == (3, 3)


@pytest.mark.timeout(300)
def test_killed_at_every_order_of_a_commit(crashing: Crashing) -> None:
    """One-way, however often it is interrupted: what is ours goes once, the recovered VM stays as it runs."""
    site = crashing.site
    crashing.server.kills = False
    crashing.until_done("planned")
    running = site.shape()
    crashing.server.kills = True
    crashing.until_done("commit")
    job, _ = crashing.job()
    assert job.state is JobState.COMMITTED, job
    assert crashing.kills == len(crashing.server.struck) >= 2
    assert site.shape() == running
    assert site.own.destroyed and not site.cloud.snapshots
    assert not any(volume.destroyed for volume in site.replicas)
    assert site.vm.state == "Running"
