"""The hub's own disk fills, or somebody holds its database: jobs wait, none is lost, and they go on by
themselves once it is mended. With real ENOSPC and real locks, on the simulated platform."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from refloat.errors import RefloatError
from refloat.model import JobState, Mode, PowerState, TargetState
from refloat.simulated.world import Protected
from tests.faults.small_disk import SmallDisk, small_disk
from tests.unit.simulated.rig import Site, until

ONE = Protected(1)


class Hubs(Site):
    """The hub's data is on a disk of its own; the estate's is not."""

    def __init__(self, directory: Path, disk: SmallDisk) -> None:
        self.disk = disk
        (directory / "hub").symlink_to(disk.directory)
        super().__init__(directory, ONE)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """As a backup tool may hold it that copies the file."""
        with closing(sqlite3.connect(self.disk.directory / name, timeout=30)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hubs]:
    monkeypatch.setattr("refloat.jobs.engine.ASK_AGAIN", 0.2)
    with small_disk(tmp_path / "small", 48) as disk:
        site = Hubs(tmp_path, disk)
        try:
            site.sync(ONE)
            yield site
        finally:
            site.close()


def at_step(site: Hubs, step: str, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """`act` happens once, right before the step's mark would be written."""
    mark, seen = site.hub.store.mark, list[str]()

    def marked(job: str, name: str, phase: str) -> bool:
        if name == step and not seen:
            seen.append(name)
            act()
        return mark(job, name, phase)

    monkeypatch.setattr(site.hub.store, "mark", marked)


@pytest.mark.parametrize("step", ["snapshot-disks", "start-vm"])
def test_the_disk_fills_in_the_middle_of_a_job(
    site: Hubs, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    at_step(site, step, site.disk.fill, monkeypatch)
    job = site.hub.start_failover(ONE.name, Mode.PLANNED).id
    until(lambda: "a job cannot go on" in caplog.text, "the job meets the full disk")
    assert site.hub.job(job).state is JobState.RUNNING
    site.disk.free()
    site.rest(job)
    assert site.hub.job(job).state is JobState.AWAITING_COMMIT, site.hub.job(job).error
    site.roll_back(job, discard=True)
    assert site.world.source.power_state(ONE.name) is PowerState.RUNNING
    assert site.hub.target(ONE.name).state is TargetState.READY


def test_a_start_on_a_full_disk_changes_nothing(site: Hubs) -> None:
    site.disk.fill()
    with pytest.raises(Exception, match=r"full|start"):
        site.hub.start_failover(ONE.name, Mode.PLANNED)
    assert site.world.source.power_state(ONE.name) is PowerState.RUNNING
    site.disk.free()
    until(lambda: all(job.state is not JobState.RUNNING for job in site.hub.jobs()), "nothing is under way")
    for left in site.hub.jobs():
        with suppress(RefloatError):
            site.hub.abort(left.id, "tester")
        site.rest(left.id)
    until(lambda: not site.hub.target(ONE.name).holder, "the target is free")
    assert site.world.source.power_state(ONE.name) is PowerState.RUNNING
    site.sync(ONE)


@pytest.mark.parametrize("name", ["refloat.sqlite", "jobs.sqlite"])
def test_a_database_that_somebody_holds(site: Hubs, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = site.hub.start_failover(ONE.name, Mode.PLANNED).id
    with site.locked(name):
        until(lambda: site.world.source.power_state(ONE.name) is PowerState.RUNNING, "the hub goes on asking")
    site.rest(job)
    assert site.hub.job(job).state is JobState.AWAITING_COMMIT, site.hub.job(job).error
    site.roll_back(job, discard=True)
