"""The hub is killed with SIGKILL at every order that it gives to CloudStack: carried out there, and its
answer on the way. Each next hub goes on; in the end nothing was done twice, and a rollback brings back every
byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.model import JobState, Word
from tests.crash.cloudstack_rig import Hubs, Killing
from tests.unit.destinations.cloudstack_site import ONE, CloudSite


class Crashing(Hubs):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory, Killing(directory / "volumes"))
        self.site = CloudSite(directory, self.server, with_hub=False)


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
