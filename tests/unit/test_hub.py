"""The hub over a world in memory: what it accepts, what it refuses, and what becomes of that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from refloat.config import Config
from refloat.errors import Busy, NotFound, Refused
from refloat.estate import Estate
from refloat.failover import RUNS_LIVE
from refloat.hub import Hub
from refloat.jobs import engine as engine_module
from refloat.model import JobState, Mode, OperatorDecision, PowerState, SyncPoint, TargetState
from refloat.platforms import Platforms
from refloat.policy import Weighty
from tests.unit.fakes import POINT, World, make_world

ESTATE = {
    "version": 1,
    "sites": {
        "a": {"platform": "libvirt", "uri": "test:///a"},
        "b": {
            "platform": "libvirt",
            "uri": "test:///b",
            "networks": {name: {"kind": "bridge", "name": name} for name in ("production", "bubble")},
        },
    },
    "mappings": [{"from": "user", "to": "production", "test": "bubble"}],
    "policies": {"default": {"report_deadline": 10}},
    "protected": {"web": {"site": "a", "vm": "web"}},
    "targets": {
        "web": {
            "protected": "web",
            "site": "b",
            "controller": {"vm": "web-controller", "address": "10.0.0.1", "identity": "/k", "host_key": "k"},
            "disks": {"sda": "rf-sda", "sdb": "rf-sdb"},
        }
    },
}


class InMemory:
    """Platforms that are a world's fakes."""

    def __init__(self, world: World) -> None:
        self._world = world

    def source(self, _: str) -> Any:
        return self._world.source

    def destination(self, _: str) -> Any:
        return self._world.destination

    def controller(self, _: Any) -> Any:
        return self._world.controller


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    yield made
    made.store.engine.dispose()


@pytest.fixture
def hub(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("refloat.validate.STABLE_FOR", 0.0)

    def synchronise(self: Hub, name: str, _: Callable[[], bool]) -> SyncPoint:
        self.store.save_sync_point(name, POINT)
        return POINT

    monkeypatch.setattr(Hub, "synchronise", synchronise)
    made = Hub(Config(data_dir=tmp_path), Estate.model_validate(ESTATE), cast(Platforms, InMemory(world)))
    made.open()
    yield made
    made.close()


def reach(hub: Hub, job: str, state: JobState) -> None:
    deadline = time.monotonic() + 30
    while (now := hub.job(job).state) is not state:
        assert time.monotonic() < deadline, f"{job} is {now}: {hub.steps(job)[-1:]}"
        time.sleep(0.05)


def wait_for_step(hub: Hub, job: str, name: str) -> None:
    deadline = time.monotonic() + 30
    while not any(step.step == name for step in hub.steps(job)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def started(hub: Hub, world: World) -> str:
    job = hub.start_failover("web", Mode.PLANNED).id
    world.destination.hear = lambda: world.good_report(job)
    return job


def decisions(hub: Hub, job: str) -> list[str]:
    known = hub.store.load(job, "decisions", tuple[OperatorDecision, ...]) or ()
    return [decision.what for decision in known]


# ---------------------------------------------------------------- a start that fails


def fail_start(hub: Hub, monkeypatch: pytest.MonkeyPatch, first: Callable[[str], object]) -> None:
    """The engine's answer to the next start is an error, after `first` was done."""
    real = hub.engine.start

    def start(job: str) -> None:
        monkeypatch.setattr(hub.engine, "start", real)
        first(job)
        raise TimeoutError("the database is locked")

    monkeypatch.setattr(hub.engine, "start", start)


def test_a_job_that_cannot_be_started_is_refused_and_its_target_free(
    hub: Hub, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_start(hub, monkeypatch, first=lambda job: None)
    with pytest.raises(Refused, match="the database is locked") as caught:
        hub.start_failover("web", Mode.PLANNED)
    assert caught.value.code == "not_started" and caught.value.hint
    (job,) = hub.jobs()
    assert job.state is JobState.REFUSED and job.finished
    assert job.error is not None and job.error["code"] == "not_started"
    target = hub.target("web")
    assert (target.holder, target.state) == ("", TargetState.READY) and "locked" in target.message
    # A start that was only slow comes too late: it finds the job refused, and touches nothing.
    hub.engine.start(job.id)
    again = started(hub, world)
    reach(hub, again, JobState.AWAITING_COMMIT)
    assert hub.job(job.id).state is JobState.REFUSED and hub.steps(job.id) == []
    assert "cannot go on" not in caplog.text


def test_a_job_that_did_start_goes_on_whatever_its_start_said(
    hub: Hub, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hub.engine.start

    def really(job: str) -> None:
        world.destination.hear = lambda: world.good_report(job)
        real(job)
        wait_for_step(hub, job, "preflight")

    fail_start(hub, monkeypatch, first=really)
    job = hub.start_failover("web", Mode.PLANNED)
    assert job.state is not JobState.REFUSED and hub.target("web").holder == job.id
    reach(hub, job.id, JobState.AWAITING_COMMIT)


def test_a_job_that_can_neither_start_nor_be_refused_starts_when_it_can(
    hub: Hub, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk under both databases, for a while."""
    monkeypatch.setattr("refloat.jobs.engine.ASK_AGAIN", 0.05)
    real_state, troubles = hub.store.set_state, [1] * 3

    def set_state(*args: Any, **kwargs: Any) -> bool:
        if troubles:
            troubles.pop()
            raise OperationalError("UPDATE jobs", {}, OSError("database or disk is full"))
        return real_state(*args, **kwargs)

    real_start, failures = engine_module._start, [1] * 3

    async def start(job: str) -> None:
        if failures:
            failures.pop()
            raise OSError("no space left on device")
        await real_start(job)

    monkeypatch.setattr(hub.store, "set_state", set_state)
    monkeypatch.setattr(engine_module, "_start", start)
    job = hub.start_failover("web", Mode.PLANNED)
    world.destination.hear = lambda: world.good_report(job.id)
    assert job.state is JobState.QUEUED and hub.target("web").holder == job.id
    reach(hub, job.id, JobState.AWAITING_COMMIT)
    assert not failures and not troubles


# ---------------------------------------------------------------- abort


def test_an_abort_once_the_vm_runs_must_acknowledge_what_is_lost(hub: Hub) -> None:
    job = hub.start_failover("web", Mode.PLANNED).id
    wait_for_step(hub, job, "await-report")
    with pytest.raises(Refused) as caught:
        hub.abort(job, "ada")
    assert caught.value.code == "writes_not_acknowledged" and "--discard-writes" in caught.value.hint
    assert not hub.job(job).abort_requested and decisions(hub, job) == []
    hub.abort(job, "ada", discard_writes=True)
    reach(hub, job, JobState.ROLLED_BACK)
    assert decisions(hub, job) == ["abort"]


def test_an_abort_that_the_start_of_the_vm_overtakes_is_refused(
    hub: Hub, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator asks while the last step before it is under way; the mark is there when it is heard."""
    real = hub.store.request_abort

    def late(job: str, *allowed: Any) -> bool:
        wait_for_step(hub, job, RUNS_LIVE)
        return real(job, *allowed)

    monkeypatch.setattr(hub.store, "request_abort", late)
    job = started(hub, world)
    with pytest.raises((Refused, Busy)) as caught:
        hub.abort(job, "ada")
    assert caught.value.code in ("writes_not_acknowledged", "illegal_state")
    assert decisions(hub, job) == []
    reach(hub, job, JobState.AWAITING_COMMIT)


def test_an_abort_that_is_too_late_says_what_to_do(hub: Hub, world: World) -> None:
    job = started(hub, world)
    reach(hub, job, JobState.AWAITING_COMMIT)
    with pytest.raises(Busy) as caught:
        hub.abort(job, "ada", discard_writes=True)
    assert caught.value.code == "illegal_state" and f"refloat job rollback {job}" in caught.value.hint
    assert decisions(hub, job) == [] and not hub.job(job).abort_requested
    hub.rollback(job, "ada", discard_writes=True)
    reach(hub, job, JobState.ROLLED_BACK)
    with pytest.raises(Busy) as caught:
        hub.abort(job, "ada", discard_writes=True)
    assert "rollback" not in caught.value.hint
    assert world.source.power is PowerState.RUNNING


def test_an_abort_that_discards_writes_needs_two_people_like_a_rollback(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    careful = replace(hub.estate.policy("default"), second_person=(Weighty.ROLLBACK,))
    monkeypatch.setattr(type(hub.estate), "policy", lambda *_: careful)
    job = hub.start_failover("web", Mode.PLANNED).id
    wait_for_step(hub, job, "await-report")
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            hub.abort(job, "ada", discard_writes=True)
        assert caught.value.code == "second_person" and not hub.job(job).abort_requested
    hub.abort(job, "ben", discard_writes=True)
    reach(hub, job, JobState.ROLLED_BACK)


def test_an_unknown_job_is_not_aborted(hub: Hub) -> None:
    with pytest.raises(NotFound, match="unknown job: x"):
        hub.abort("x", "ada")


def test_a_started_job_holds_its_target_until_it_is_over(hub: Hub, world: World) -> None:
    job = started(hub, world)
    with pytest.raises(Busy, match=job):
        hub.start_failover("web", Mode.PLANNED)
    reach(hub, job, JobState.AWAITING_COMMIT)
    hub.rollback(job, "ada", discard_writes=True)
    reach(hub, job, JobState.ROLLED_BACK)
    assert (hub.target("web").holder, hub.target("web").state) == ("", TargetState.READY)
