from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from refloat.errors import Busy, Failed, NotFound, Refused
from refloat.model import JobState, Mode, SyncPoint, TargetState
from refloat.store.store import Store
from refloat.store.tables import Base


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "refloat.sqlite")
    opened.ensure_target("web")
    yield opened
    opened.engine.dispose()


def test_migrations_make_exactly_the_tables(store: Store) -> None:
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_opening_again_keeps_everything(store: Store, tmp_path: Path) -> None:
    store.create_job("web", Mode.PLANNED)
    again = Store.open(tmp_path / "refloat.sqlite")
    assert len(again.jobs()) == 1
    again.engine.dispose()


def test_a_target_has_one_holder(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED)
    with pytest.raises(Busy, match=job.id):
        store.create_job("web", Mode.PLANNED)
    with pytest.raises(Busy):
        store.claim_target("web", "sync-1", TargetState.SYNCING)
    assert [known.id for known in store.jobs()] == [job.id]
    store.release_target("web", "somebody else", TargetState.READY)
    assert store.target("web").holder == job.id
    store.release_target("web", job.id, TargetState.READY)
    assert store.target("web").holder == ""


def test_a_free_target_in_another_state_is_refused(store: Store) -> None:
    with pytest.raises(Refused, match="target web is provisioning") as caught:
        store.create_job("web", Mode.PLANNED, {TargetState.READY})
    assert caught.value.code == "target_not_ready"
    assert store.target("web").holder == ""


def test_unknown_names_say_what_they_are(store: Store) -> None:
    with pytest.raises(NotFound, match="unknown target: mail"):
        store.create_job("mail", Mode.PLANNED)
    with pytest.raises(NotFound, match="unknown job: x"):
        store.job("x")


def test_a_mark_is_written_once_and_a_finished_step_is_not_done_again(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED).id
    assert store.mark(job, "adapt-guest", "do")
    assert store.mark(job, "adapt-guest", "do"), "a step that was killed acts again"
    store.finish(job, "adapt-guest", "do")
    assert not store.mark(job, "adapt-guest", "do")
    assert store.mark(job, "adapt-guest", "undo")
    assert [(step.phase, step.attempts) for step in store.steps(job)] == [("do", 2), ("undo", 1)]


def test_a_failed_step_may_be_tried_again(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED).id
    store.mark(job, "snapshot-disks", "undo")
    store.finish(job, "snapshot-disks", "undo", Failed("no"))
    assert store.mark(job, "snapshot-disks", "undo")


def test_records_and_sync_points_come_back_as_they_were(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED).id
    point = SyncPoint("p1", "2026-01-01T00:00:00+00:00", "refloat-p1", "full", 12)
    store.save(job, "sync_point", point)
    assert store.load(job, "sync_point", SyncPoint) == point
    assert store.load(job, "plan", SyncPoint) is None
    store.save_sync_point("web", point)
    assert store.target("web").sync_point == point


def test_states_leave_events_and_an_end(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED).id
    store.set_state(job, JobState.RUNNING)
    store.set_state(job, JobState.REFUSED, Failed("no", code="why"))
    known = store.job(job)
    assert known.finished and known.error and known.error["code"] == "why"
    first = store.events(job)
    assert [event.data["state"] for event in first] == ["running", "refused"]
    assert [event.id for event in store.events(job, after=first[0].id)] == [first[1].id]
