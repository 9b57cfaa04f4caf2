"""Notices are in the store exactly where the change is that they tell of; on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.clock import seconds_between
from refloat.errors import Aborted, Failed
from refloat.model import ControllerHealth, HealthState, JobState, Mode, TargetState, Verdict, Word
from refloat.notices import ALL, GROUPS, Alarm, Kind
from refloat.notify.courier import FIRST, GIVE_UP, LONGEST, later, next_try
from refloat.store.outbox import Outbox
from refloat.store.seal import Keys
from refloat.store.store import Store
from tests.postgres import Cluster

LATER = "2999-01-01T00:00:00.000+00:00"
AT = "2026-03-01T10:00:00.000+00:00"


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        opened = Store.open(tmp_path / "refloat.sqlite")
    else:
        cluster: Cluster = request.getfixturevalue("cluster")
        server = cluster.server(cluster.database())
        opened = Store.on(server.store_engine(), Keys(tmp_path / "seal.key"))
    opened.ensure_target("web")
    opened.outbox.wanted = {"ops": ALL, "night": GROUPS["trouble"]}
    yield opened
    opened.engine.dispose()


def kinds(store: Store, channel: str = "ops") -> list[Kind]:
    return [one.notice.kind for one in store.outbox.due(channel, LATER)]


def test_a_jobs_life(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED)
    assert kinds(store) == []
    store.set_state(job.id, JobState.RUNNING, before=JobState.QUEUED)
    store.mark(job.id, "adapt-guest", "do")
    error = Failed("secret words of a guest", code="no_space")
    store.finish(job.id, "adapt-guest", "do", error)
    store.set_state(job.id, JobState.ROLLING_BACK, error, before=JobState.RUNNING)
    ready = TargetState.READY
    store.set_state(job.id, JobState.ROLLED_BACK, error, release=ready, before=JobState.ROLLING_BACK)
    assert kinds(store) == [Kind.STARTED, Kind.FAILED, Kind.ROLLED_BACK]
    (told,) = store.outbox.due("night", LATER)
    notice = told.notice
    assert (notice.kind, notice.job, notice.target) == (Kind.FAILED, job.id, "web")
    assert (notice.step, notice.error, notice.mode) == ("adapt-guest", "no_space", Mode.PLANNED)
    assert "secret words" not in str(told)
    # One notice to two channels has one id.
    assert notice.id == store.outbox.due("ops", LATER)[1].notice.id
    assert len({one.notice.id for one in store.outbox.due("ops", LATER)}) == 3


def test_the_verdict_and_the_reminder(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED)
    store.save(job.id, "verdict", Verdict(Word.PARTIAL, ("what the guest said",), ()))
    store.set_state(job.id, JobState.AWAITING_COMMIT, before=JobState.QUEUED)
    store.emit(job.id, "progress", {})
    store.emit(job.id, "reminder", {"message": "x"})
    assert kinds(store, "night") == [Kind.VERDICT_PARTIAL, Kind.REMINDER]
    first = store.outbox.due("night", LATER)[0]
    assert first.notice.verdict is Word.PARTIAL and "guest" not in str(first)


def test_an_abort(store: Store) -> None:
    job = store.create_job("web", Mode.TEST)
    store.request_abort(job.id)
    store.set_state(job.id, JobState.REFUSED, Aborted("x"), before=JobState.QUEUED)
    assert kinds(store) == [Kind.ABORTED] and kinds(store, "night") == []


def test_what_did_not_happen_is_not_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job = store.create_job("web", Mode.PLANNED)
    assert not store.set_state(job.id, JobState.COMMITTED, before=JobState.COMMITTING)
    monkeypatch.setattr("refloat.store.store._release", _breaks)
    with pytest.raises(ZeroDivisionError):
        store.set_state(job.id, JobState.REFUSED, release=TargetState.READY)
    assert kinds(store) == [] and store.job(job.id).state is JobState.QUEUED


def test_what_cannot_be_told_did_not_happen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row and the state are one: neither is there without the other."""
    job = store.create_job("web", Mode.PLANNED)
    monkeypatch.setattr(Outbox, "put", _breaks)
    with pytest.raises(ZeroDivisionError):
        store.set_state(job.id, JobState.RUNNING)
    assert store.job(job.id).state is JobState.QUEUED and not store.events(job.id)


def _breaks(*_: object) -> None:
    raise ZeroDivisionError


def test_nobody_wants_to_know(store: Store) -> None:
    store.outbox.wanted = {}
    job = store.create_job("web", Mode.PLANNED)
    store.set_state(job.id, JobState.RUNNING)
    store.save_health("web", ControllerHealth(AT, HealthState.SILENT, "x", ""))
    assert kinds(store) == [] and store.outbox.alarms(Alarm.CONTROLLER) == set()


def test_a_controller_is_ill_once(store: Store) -> None:
    for state in (HealthState.OK, HealthState.SILENT, HealthState.WARNING, HealthState.OK, HealthState.OK):
        store.save_health("web", ControllerHealth(AT, state, "ssh: words", ""))
    assert kinds(store) == [Kind.CONTROLLER_ILL, Kind.CONTROLLER_WELL]
    assert store.outbox.due("night", LATER)[0].notice.detail == "it does not answer"


def test_an_alarm_is_kept(store: Store) -> None:
    for up in (False, True, True):
        store.outbox.alarm("web", Alarm.RPO, up, "old")
    assert store.outbox.alarms(Alarm.RPO) == {"web"} and kinds(store) == [Kind.RPO_EXCEEDED]
    store.outbox.forget("web", Alarm.RPO)
    assert store.outbox.alarms(Alarm.RPO) == set() and kinds(store) == [Kind.RPO_EXCEEDED]


def test_outcomes_are_counted_and_forgotten(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED)
    for state in (JobState.RUNNING, JobState.ROLLED_BACK, JobState.COMMITTED):
        store.set_state(job.id, state)
    first, second, third = store.outbox.due("ops", LATER)
    store.outbox.delivered(first.id)
    store.outbox.failed(second.id, "no answer", LATER)
    store.outbox.failed(third.id, "never", "")
    tally = store.outbox.tallies()["ops"]
    assert (tally.delivered, tally.waiting, tally.given_up) == (1, 1, 1)
    assert tally.last_delivered and tally.oldest_waiting == second.notice.at and tally.last_error == "never"
    (left,) = store.outbox.due("ops", LATER)
    assert (left.id, left.attempts, left.error) == (second.id, 1, "no answer")
    assert store.outbox.due("ops", AT) == []
    store.outbox.prune(AT)
    assert store.outbox.tallies()["ops"] == tally
    store.outbox.prune(LATER)
    assert store.outbox.tallies()["ops"].waiting == 1 and store.outbox.tallies()["ops"].given_up == 0


def test_a_channel_that_the_settings_forgot(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED)
    store.set_state(job.id, JobState.RUNNING)
    store.outbox.wanted = {"other": ALL}
    (orphan,) = store.outbox.orphans()
    assert orphan.channel == "ops" and store.outbox.tallies()["ops"].waiting == 1
    store.outbox.failed(orphan.id, "no channel", "")
    assert store.outbox.orphans() == []


def test_how_long_it_is_tried() -> None:
    """Ever more rarely, until it is too old to be of use."""
    at, waits = AT, []
    for attempts in range(1, 1000):
        after = next_try(AT, attempts, at)
        if not after:
            break
        waits.append(seconds_between(at, after))
        at = after
    assert waits[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST] and max(waits) == LONGEST
    assert GIVE_UP - LONGEST <= seconds_between(AT, at) <= GIVE_UP
    assert later(AT, -60) == "2026-03-01T09:59:00.000+00:00"
    assert next_try(AT, 10_000, AT) == later(AT, LONGEST)
