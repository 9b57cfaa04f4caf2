from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    create_engine,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import Engine

from refloat.errors import Busy, Failed, NotFound, Refused
from refloat.model import JobState, Mode, SyncPoint, TargetState
from refloat.store.inbox import lines_after
from refloat.store.migrate import scripts, upgrade
from refloat.store.place import Files
from refloat.store.postgres import Server
from refloat.store.seal import Keys
from refloat.store.sound import require_sound
from refloat.store.store import Store
from refloat.store.tables import Base
from tests.postgres import Cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> Server | None:
    """A database of a real PostgreSQL server; None: a file."""
    if request.param == "sqlite":
        return None
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.server(cluster.database())


@pytest.fixture
def reopen(tmp_path: Path, server: Server | None) -> Callable[[], Store]:
    """Opens the same store each time."""
    if server is None:
        return lambda: Store.open(tmp_path / "refloat.sqlite")
    return lambda: Store.on(server.store_engine(), Keys(tmp_path / "seal.key"))


@pytest.fixture
def empty(tmp_path: Path, server: Server | None) -> Iterator[Engine]:
    """Where `reopen` finds its store."""
    file = tmp_path / "refloat.sqlite"
    engine = server.store_engine() if server else create_engine(f"sqlite:///{file}")
    yield engine
    engine.dispose()


@pytest.fixture
def store(reopen: Callable[[], Store]) -> Iterator[Store]:
    opened = reopen()
    opened.ensure_target("web")
    yield opened
    opened.engine.dispose()


def test_migrations_make_exactly_the_tables(store: Store) -> None:
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_opening_again_keeps_everything(store: Store, reopen: Callable[[], Store]) -> None:
    store.create_job("web", Mode.PLANNED)
    again = reopen()
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


def test_a_failed_step_may_be_tried_again_and_every_attempt_is_kept(
    store: Store, reopen: Callable[[], Store]
) -> None:
    job = store.create_job("web", Mode.PLANNED).id
    store.mark(job, "preflight", "do")
    store.mark(job, "snapshot-disks", "undo")
    store.finish(
        job, "snapshot-disks", "undo", Failed("the pool is away", code="pool_inactive", hint="start it")
    )
    store.mark(job, "snapshot-disks", "undo")  # the hub is killed in this one
    assert store.mark(job, "snapshot-disks", "undo")
    store.finish(job, "snapshot-disks", "undo")
    store.finish(job, "preflight", "do")
    again = reopen()
    preflight, undone = again.steps(job)
    again.engine.dispose()
    assert (preflight.step, preflight.attempts, len(preflight.history)) == ("preflight", 1, 1)
    assert (undone.attempts, undone.error) == (3, None)
    first, killed, last = undone.history
    assert first.error is not None and first.error["hint"] == "start it" and first.finished
    assert (killed.finished, killed.error) == ("", None)
    assert last.finished == undone.finished and undone.started == first.started
    assert [attempt.number for attempt in undone.history] == [1, 2, 3]


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


def test_a_state_is_entered_only_from_the_one_that_is_named(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED).id
    store.set_state(job, JobState.RUNNING)
    assert not store.set_state(
        job, JobState.REFUSED, Failed("no"), release=TargetState.READY, before=JobState.QUEUED
    )
    known = store.job(job)
    assert (known.state, known.error, known.finished) == (JobState.RUNNING, None, "")
    assert store.target("web").holder == job and len(store.events(job)) == 1
    with pytest.raises(NotFound):
        store.set_state("x", JobState.REFUSED)


def test_no_state_is_entered_over_an_abort(store: Store) -> None:
    job = store.create_job("web", Mode.PLANNED).id
    store.set_state(job, JobState.RUNNING, unless_aborted=True)
    assert store.request_abort(job, (JobState.RUNNING,))
    assert not store.set_state(job, JobState.AWAITING_COMMIT, unless_aborted=True)
    assert store.set_state(job, JobState.ROLLING_BACK)
    assert not store.request_abort(job, (JobState.RUNNING,)) and not store.request_abort("x")


def test_an_abort_and_a_mark_never_miss_each_other(store: Store, reopen: Callable[[], Store]) -> None:
    """Whoever is first: an abort that did not know of the mark is seen by a look after the mark."""
    second = reopen()
    for number in range(20):
        job = store.create_job("web", Mode.PLANNED).id
        start = threading.Barrier(2)
        said: list[bool] = []

        def ask(job: str = job, start: threading.Barrier = start, said: list[bool] = said) -> None:
            start.wait()
            said.append(second.request_abort(job, unless_begun="start-vm"))

        asking = threading.Thread(target=ask)
        asking.start()
        start.wait()
        time.sleep(0.001 * (number % 5))
        store.mark(job, "start-vm", "do")
        seen = store.job(job).abort_requested
        asking.join()
        assert said == [seen]
        store.release_target("web", job, TargetState.READY)
    second.engine.dispose()


# ---------------------------------------------------------------- migrations


def first_release(engine: Engine) -> None:
    """A store of the first schema: a failed job whose undo was tried again, and one without any event."""
    upgrade(engine, "0001")
    error = '{"kind": "failed", "code": "sabotage", "message": "the pool is away", "hint": "start it"}'
    with engine.begin() as connection:

        def insert(statement: str, row: Sequence[Any] = ()) -> None:
            named = {f"p{number}": value for number, value in enumerate(row)}
            for name in named:
                statement = statement.replace("?", f":{name}", 1)
            connection.execute(text(statement), named)

        insert("INSERT INTO targets VALUES ('web', 'failover', 'web-1', '', NULL, NULL)")
        for job in ("web-1", "web-0"):
            row = (job, "web", "planned", "blocked", "t0", "", False, error)
            insert("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        insert("INSERT INTO job_records VALUES ('web-1', 'mac', '{\"value\": \"x\"}')")
        for step in (
            ("web-1", "preflight", "do", "t1", "t2", 1, "null"),
            ("web-1", "snapshot-disks", "do", "t3", "t8", 3, "null"),
            ("web-1", "snapshot-disks", "undo", "t9", "", 1, None),
            ("web-0", "preflight", "do", "t1", "t2", 2, error),
        ):
            insert(
                "INSERT INTO job_steps (job, step, phase, started, finished, attempts, error)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                step,
            )
        place = '"step": "snapshot-disks", "phase": "do"'
        for at, kind, data in (
            ("t3", "step", f"{{{place}}}"),
            ("t4", "step_done", f'{{{place}, "error": {error}}}'),
            ("t5", "progress", '{"message": "x"}'),
            ("t6", "step", f"{{{place}}}"),
            ("t7", "step", f"{{{place}}}"),
            ("t8", "step_done", f'{{{place}, "error": null}}'),
        ):
            insert("INSERT INTO events (job, at, kind, data) VALUES ('web-1', ?, ?, ?)", (at, kind, data))


def test_a_store_of_the_first_release_is_upgraded_with_its_attempts(
    empty: Engine, reopen: Callable[[], Store]
) -> None:
    first_release(empty)
    store = reopen()
    done = {(step.step, step.phase): step for step in store.steps("web-1")}
    assert list(done) == [("preflight", "do"), ("snapshot-disks", "do"), ("snapshot-disks", "undo")]
    history = done["snapshot-disks", "do"].history
    assert [(one.number, one.started, one.finished) for one in history] == [
        (1, "t3", "t4"),
        (2, "t6", ""),
        (3, "t7", "t8"),
    ]
    assert history[0].error is not None and history[0].error["message"] == "the pool is away"
    assert history[1].error is None and history[2].error is None
    assert done["snapshot-disks", "undo"].finished == ""
    # Of an attempt that nothing tells of, its number is all that is known.
    (old,) = store.steps("web-0")
    assert (old.attempts, len(old.history)) == (2, 1) and old.error is not None
    assert store.load("web-1", "mac", str) == "x" and store.target("web").holder == "web-1"
    # The job goes on: what is done is not done again, what was begun is.
    assert not store.mark("web-1", "snapshot-disks", "do")
    assert store.mark("web-1", "snapshot-disks", "undo")
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    store.engine.dispose()


REVISIONS = tuple(reversed([one.revision for one in scripts().walk_revisions()]))


# Columns that a later revision does without, and says why.
DROPPED: dict[str, set[str]] = {"sessions": {"csrf"}}


def test_the_revisions_form_one_line_from_the_first_release_on() -> None:
    assert REVISIONS[0] == "0001" and len(REVISIONS) >= 5 and len(scripts().get_heads()) == 1


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_store_of_every_revision_is_upgraded_and_loses_nothing(
    empty: Engine, reopen: Callable[[], Store], revision: str
) -> None:
    """Each has what its tables take: a row in each, a value in each column."""
    first_release(empty)
    upgrade(empty, revision)
    put = fill(empty)
    store = reopen()
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        kept = reflected(store.engine)
        for table, row in put.items():
            if table not in kept.tables:
                assert table == "job_steps", "a revision that drops a table says where its content went"
                continue
            columns = kept.tables[table].c
            found = [dict(one) for one in connection.execute(select(kept.tables[table])).mappings()]
            went = DROPPED.get(table, set())
            assert set(row) - set(columns.keys()) <= went, table
            wanted = {name: value for name, value in row.items() if name not in went}
            if table == "report_inbox":  # sealed since: it is read as the hub reads it
                assert lines_after(store, row["job"], 0) == [(row["sequence"], row["line"])]
                continue
            assert wanted in [{name: one[name] for name in wanted} for one in found], table
    assert {job.id for job in store.jobs()} >= {"web-1", "web-0"} and len(store.steps("web-1")) == 3
    store.engine.dispose()


def reflected(engine: Engine) -> MetaData:
    known = MetaData()
    known.reflect(engine)
    return known


def fill(engine: Engine) -> dict[str, dict[str, Any]]:
    """One more row in each table; by table, what was put."""
    put: dict[str, dict[str, Any]] = {}
    with engine.begin() as connection:
        for table in reflected(engine).sorted_tables:
            if table.name == "alembic_version":
                continue
            row = {column.name: value(column) for column in table.columns}
            connection.execute(table.insert().values(row))
            put[table.name] = row
    return put


def value(column: Column[Any]) -> Any:
    """Like what the hub writes there; what points elsewhere points to the row that `fill` put there."""
    match column.type:
        case JSON():
            return {"a": [1, "\u00e4"]}
        case Boolean():
            return True
        case Integer():
            return 4711
        case LargeBinary():
            return b"line"
    states = {"jobs.state": "blocked", "jobs.mode": "test", "targets.state": "ready"}
    return states.get(f"{column.table.name}.{column.name}", "mail")


@pytest.mark.parametrize("damage", ["no database", "a page", "the header"])
def test_a_damaged_store_is_refused_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "refloat.sqlite"
    opened = Store.open(file)
    opened.ensure_target("web")
    opened.engine.dispose()
    content = bytearray(file.read_bytes())
    if damage == "no database":
        content[:] = b"this is a text file that somebody put there\n" * 100
    elif damage == "a page":
        content[4096:8192] = b"\xff" * 4096
    else:
        content[:16] = b"\0" * 16
    file.write_bytes(content)
    with pytest.raises(Refused, match="damaged") as caught:
        Store.open(file)
    assert caught.value.code == "store_damaged" and caught.value.hint
    assert file.read_bytes() == content


def test_a_store_in_use_or_left_by_a_kill_is_no_damaged_one(tmp_path: Path) -> None:
    file = tmp_path / "refloat.sqlite"
    killed = (
        "import os, signal, sqlite3, sys\n"
        "store = sqlite3.connect(sys.argv[1])\n"
        "store.execute('PRAGMA journal_mode=WAL')\n"
        "store.execute('CREATE TABLE kept (n INTEGER)')\n"
        "store.execute('INSERT INTO kept VALUES (7)')\n"
        "store.commit()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", killed, str(file)], check=False)
    assert file.with_name(f"{file.name}-wal").stat().st_size > 0
    file.with_name(f"{file.name}-shm").unlink()
    require_sound(file)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (7,)
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        require_sound(file, wait=0.0)


def test_an_upgrade_that_dies_in_the_middle_has_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "refloat.sqlite"
    engine = create_engine(f"sqlite:///{file}")
    first_release(engine)
    engine.dispose()

    def die(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr("alembic.op.drop_table", die)
    with pytest.raises(SystemExit):
        Store.open(file)
    monkeypatch.undo()
    engine = create_engine(f"sqlite:///{file}")
    assert {"job_steps", "job_attempts"} & set(inspect(engine).get_table_names()) == {"job_steps"}
    engine.dispose()
    store = Store.open(file)
    assert len(store.steps("web-1")) == 3
    store.engine.dispose()


def test_the_files_are_the_owners_alone(tmp_path: Path) -> None:
    """Also of a hub from before, and in a folder that others may enter."""
    tmp_path.chmod(0o755)
    (tmp_path / "jobs.sqlite").touch(mode=0o644)
    place = Files(tmp_path, Keys(tmp_path / "seal.key"))
    store = place.store()
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.glob("*.sqlite*")}
    store.engine.dispose()
    assert {"refloat.sqlite", "refloat.sqlite-wal", "jobs.sqlite"} <= set(modes)
    assert set(modes.values()) == {0o600}
