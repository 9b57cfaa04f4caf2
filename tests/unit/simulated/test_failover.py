"""Whole failovers through the hub on the simulated platform: real syncs, real state, real verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refloat.config import Config
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.model import JobState, Mode, PowerState, TargetState, Word
from refloat.simulated.guest import Behaviour
from refloat.simulated.world import Protected, World, estate

ONE = Protected(1)
WITHIN = 60.0


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.protect(ONE)
    return made


@pytest.fixture
def hub(world: World, tmp_path: Path) -> Iterator[Hub]:
    form = Estate.model_validate(estate(world.directory, [ONE], {"report_deadline": 10}))
    made = Hub(Config(data_dir=tmp_path / "hub"), form)
    made.open()
    yield made
    made.close()


def synced(hub: Hub) -> None:
    hub.start_sync(ONE.name)
    until(lambda: hub.target(ONE.name).state is not TargetState.SYNCING)
    assert hub.target(ONE.name).state is TargetState.READY, hub.target(ONE.name).message


def replicas(world: World) -> dict[str, bytes]:
    volumes = world.destination.volumes
    return {key: Path(volumes.directory / f"{ONE.name}-{key}.raw").read_bytes() for key in ONE.disk_keys()}


def settled(hub: Hub, job: str, *states: JobState) -> None:
    until(lambda: hub.job(job).state in states)


def test_a_replica_is_what_the_source_holds(hub: Hub, world: World) -> None:
    synced(hub)
    world.source.guest_writes(ONE.name, "sdb", 0, b"\x07" * 4096)
    synced(hub)
    point = hub.target(ONE.name).sync_point
    assert point and point.how == "changed" and point.transferred <= 64 * 1024
    for key, content in replicas(world).items():
        assert content == world.source.content(ONE.name, key)


def test_a_failover_is_verified_and_rolled_back_to_every_byte(hub: Hub, world: World) -> None:
    synced(hub)
    before = replicas(world)
    job = hub.start_failover(ONE.name, Mode.PLANNED).id
    settled(hub, job, JobState.AWAITING_COMMIT, JobState.ROLLED_BACK, JobState.REFUSED, JobState.BLOCKED)
    assert hub.job(job).state is JobState.AWAITING_COMMIT, hub.job(job).error
    found = hub.outcome(job)[1]
    assert found and found.word is Word.SUCCEEDED, found
    assert world.source.power_state(ONE.name) is PowerState.OFF
    assert world.destination.hardware(ONE.controller).nics[0].mac == ONE.mac
    hub.rollback(job, "tester", discard_writes=True)
    settled(hub, job, JobState.ROLLED_BACK, JobState.BLOCKED)
    assert hub.job(job).state is JobState.ROLLED_BACK
    assert replicas(world) == before
    assert world.source.power_state(ONE.name) is PowerState.RUNNING
    synced(hub)


def test_a_commit_keeps_what_the_recovered_vm_wrote(hub: Hub, world: World) -> None:
    synced(hub)
    job = hub.start_failover(ONE.name, Mode.PLANNED).id
    settled(hub, job, JobState.AWAITING_COMMIT, JobState.ROLLED_BACK, JobState.REFUSED, JobState.BLOCKED)
    world.destination.guest_writes(ONE.controller, ONE.serial("sdb"), 4096, b"kept")
    hub.commit(job, "tester")
    settled(hub, job, JobState.COMMITTED, JobState.BLOCKED)
    assert hub.job(job).state is JobState.COMMITTED
    assert replicas(world)["sdb"][4096:4100] == b"kept"
    assert {path.name for path in world.destination.volumes.directory.iterdir()} == {
        f"{ONE.name}-{key}.raw" for key in ONE.disk_keys()
    }


@pytest.mark.parametrize(
    ("behaviour", "word"),
    [
        (Behaviour(stages=()), Word.FAILED),
        (Behaviour(says={"nonce": "another"}), Word.FAILED),
        (Behaviour(raw="{" * 1000), Word.FAILED),
        (Behaviour(says={"nics": []}), Word.FAILED),
        (Behaviour(ends="kernel panic"), Word.FAILED),
        (Behaviour(says={"cleaned": False}), Word.PARTIAL),
    ],
    ids=["silent", "another boot", "no report", "no adapters", "panic", "not cleaned up"],
)
def test_what_goes_wrong_in_the_guest_is_in_the_verdict(
    hub: Hub, world: World, behaviour: Behaviour, word: Word
) -> None:
    world.guests.behave(ONE.controller, behaviour)
    synced(hub)
    job = hub.start_failover(ONE.name, Mode.PLANNED).id
    settled(hub, job, JobState.AWAITING_COMMIT, JobState.ROLLED_BACK, JobState.REFUSED, JobState.BLOCKED)
    found = hub.outcome(job)[1]
    assert found and found.word is word, found
