"""A hub whose store is PostgreSQL: the hub is killed, the server is killed, another hub wants it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from refloat.access import Audit
from refloat.config import Config
from refloat.doctor import State, examine
from refloat.errors import Busy, Refused
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.model import (
    Facet,
    FacetState,
    JobState,
    Mode,
    Observer,
    PowerState,
    Proof,
    TargetState,
    Verdict,
    Word,
)
from refloat.run import KILL_AT
from refloat.simulated.world import World, estate
from refloat.store.inbox import lines_after, put_line
from refloat.store.postgres import HubLock
from refloat.store.seal import Keys
from refloat.store.store import Job, Store
from refloat.store.summaries import Summaries
from refloat.store.tables import EventRow
from refloat.verdict import verdict
from tests.crash.hub_process import ONE, POLICY
from tests.postgres import Cluster
from tests.unit.simulated.rig import until

WITHIN = 120.0  # seconds


class Rig:
    def __init__(self, directory: Path, cluster: Cluster) -> None:
        self.directory, self.cluster = directory, cluster
        self.database = cluster.database()
        self.server = cluster.server(self.database)
        self.world = World(directory / "world")
        self.world.protect(ONE)

    def hub(self, what: str, kill_at: str = "") -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            KILL_AT: kill_at,
            "REFLOAT_STORE": self.cluster.url(self.database),
            "REFLOAT_STORE_PASSWORD_FILE": str(self.cluster.password_file),
        }
        argv = [sys.executable, "-m", "tests.crash.hub_process", str(self.directory), what]
        return subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE)

    def job(self) -> tuple[Job, Verdict | None]:
        store = Store(self.server.store_engine())
        try:
            (job,) = store.jobs()
            return job, store.load(job.id, "verdict", Verdict)
        finally:
            store.engine.dispose()

    def begun(self, step: str) -> bool:
        """Whether a hub has marked this step; False too while there is no job, or no schema."""
        engine = self.server.engine(poolclass=NullPool)
        with engine.connect() as connection:
            if not connection.scalar(text("SELECT to_regclass('job_attempts') IS NOT NULL")):
                return False
            asked = text("SELECT count(*) FROM job_attempts WHERE step = :step")
            return bool(connection.scalar(asked, {"step": step}))

    def replicas(self) -> list[bytes]:
        folder = self.world.destination.volumes.directory
        return [(folder / f"{ONE.name}-{key}.raw").read_bytes() for key in ONE.disk_keys()]

    def sources(self) -> list[bytes]:
        return [self.world.source.content(ONE.name, key) for key in ONE.disk_keys()]


@pytest.fixture
def rig(tmp_path: Path, cluster: Cluster) -> Iterator[Rig]:
    made = Rig(tmp_path, cluster)
    yield made
    made.world.controller(ONE.controller).stopped()


def ended(hub: subprocess.Popen[bytes]) -> str:
    _, said = hub.communicate(timeout=WITHIN)
    return said.decode(errors="replace")


@pytest.mark.timeout(300)
def test_hub_and_server_are_killed_in_the_middle_of_a_job(rig: Rig) -> None:
    marks = "snapshot-disks:before,reorder-disks:inside,start-vm:after-do"
    for _ in marks.split(","):
        hub = rig.hub("planned", marks)
        said = ended(hub)
        assert hub.returncode == -9, said[-3000:]

    # The fourth goes to the end.
    hub = rig.hub("planned")
    said = ended(hub)
    assert hub.returncode == 0, said[-3000:]
    job, found = rig.job()
    assert job.state is JobState.AWAITING_COMMIT, job
    assert found and found.word is Word.SUCCEEDED, found
    before = rig.sources()
    assert rig.world.source.power_state(ONE.name) is PowerState.OFF

    # Now the server: killed once the rollback acts, back two seconds later; the hub lives through it.
    hub = rig.hub("rollback")
    until(lambda: undoing(rig), "the rollback begins")
    rig.cluster.kill()
    assert hub.poll() is None
    rig.cluster.start()
    said = ended(hub)
    assert hub.returncode == 0, said[-3000:]
    job, _ = rig.job()
    assert job.state is JobState.ROLLED_BACK, (job, said[-3000:])
    assert rig.replicas() == before
    assert rig.world.source.power_state(ONE.name) is PowerState.RUNNING
    assert rig.cluster.password not in said


def undoing(rig: Rig) -> bool:
    engine = rig.server.engine(poolclass=NullPool)
    with engine.connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM job_attempts WHERE phase = 'undo'")))


@pytest.mark.timeout(300)
def test_the_server_is_killed_on_the_way_forward(rig: Rig) -> None:
    """What a step was told by its dead store is no reason to roll back: it is done again."""
    hub = rig.hub("planned")
    until(lambda: rig.begun("final-sync"), "the failover begins")
    rig.cluster.kill()
    rig.cluster.start()
    said = ended(hub)
    assert hub.returncode == 0, said[-3000:]
    job, found = rig.job()
    assert job.state is JobState.AWAITING_COMMIT, (job, said[-3000:])
    assert found and found.word is Word.SUCCEEDED, found


def test_one_hub_on_whatever_machine(rig: Rig, tmp_path: Path) -> None:
    form = Estate.model_validate(estate(rig.world.directory, [ONE], POLICY))

    def config(name: str) -> Config:
        url, password = rig.cluster.url(rig.database), rig.cluster.password_file
        return Config(data_dir=tmp_path / name, store=url, store_password_file=password)

    first = Hub(config("first"), form)
    first.open()
    try:
        with pytest.raises(Busy, match="another hub is using") as caught:
            Hub(config("second"), form)
        assert caught.value.code == "hub_running"
        said = json.dumps(caught.value.to_dict())
        assert rig.cluster.password not in said
        assert first.troubles() == []
    finally:
        first.close()
    third = Hub(config("third"), form)
    third.open()
    assert third.troubles() == []
    third.close()


def test_a_hub_that_lost_its_lock_to_another_ends(rig: Rig) -> None:
    ended = threading.Event()
    first, second = HubLock(rig.server, lost=ended.set), HubLock(rig.server)
    engine = rig.server.store_engine()
    first.take()
    first.guard(engine)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        # The lock's connection alone is gone, as by a firewall that forgot it.
        killed = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        connection.execute(text(killed))
    second.take()
    engine.dispose()
    with pytest.raises(Busy), engine.connect():
        pass
    assert ended.wait(WITHIN)
    second.close()
    first.close()


def test_the_lock_is_taken_again_after_the_server_was_killed(rig: Rig) -> None:
    lock, other = HubLock(rig.server), HubLock(rig.server)
    lock.take()
    engine = rig.server.store_engine()
    lock.guard(engine)
    rig.cluster.kill()
    rig.cluster.start()
    with engine.connect() as connection:  # before the watch has looked
        connection.execute(text("SELECT 1"))
    with pytest.raises(Busy):
        other.hold()
    lock.close()
    other.hold()
    other.close()
    engine.dispose()


def test_what_lists_and_the_audit_log_ask_is_the_same_there(rig: Rig) -> None:
    store = Store.on(rig.server.store_engine(), Keys(rig.directory / "seal.key"))
    store.ensure_target("web")
    job = store.create_job("web", Mode.TEST).id
    hostile = Proof(Observer.GUEST, True, "a\0b\ud800\u2028")
    store.save(job, "verdict", verdict((Facet("boot", FacetState.VERIFIED, True, (hostile,)),)))
    summaries, audit = Summaries(store.engine), Audit(store.engine)
    word = summaries.verdict_words([job])[job]
    assert summaries.jobs_by_verdict() == {word: 1} and word in tuple(Word)
    writers = [threading.Thread(target=audit.record, args=("anna", "commit", job)) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert audit.verify().entries == 8
    for statement in ("DELETE FROM audit", "UPDATE audit SET who = 'eve'", "TRUNCATE audit"):
        with pytest.raises(DBAPIError, match="only grows"), store.engine.begin() as connection:
            connection.execute(text(statement))
    put_line(store, job, 2**40, b"line\0")
    assert lines_after(store, job, 0) == [(2**40, b"line\0")]
    store.engine.dispose()


def test_writers_come_one_after_another(rig: Rig) -> None:
    """So events are never seen out of order (a stream goes on after the last number that it saw), and an
    abort never passes a mark unseen."""
    store = Store.on(rig.server.store_engine(), Keys(rig.directory / "seal.key"))
    second = threading.Thread(target=store.emit, args=("web-1", "second", {}))
    with Session(store.engine) as session, session.begin():
        session.add(EventRow(job="web-1", at="t", kind="first", data={}))
        session.flush()
        second.start()
        until(lambda: waiting(rig) or not second.is_alive(), "the second writer is there")
        assert waiting(rig) and not store.events("web-1")
    second.join()
    assert [one.kind for one in store.events("web-1")] == ["first", "second"]
    store.engine.dispose()


def waiting(rig: Rig) -> bool:
    engine = rig.server.engine(poolclass=NullPool)
    with engine.connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_text_that_postgresql_cannot_keep_is_kept_readable(rig: Rig) -> None:
    """A guest's or a platform's words may hold anything; SQLite takes it all."""
    store = Store.on(rig.server.store_engine(), Keys(rig.directory / "seal.key"))
    store.ensure_target("web")
    store.release_target("web", "", TargetState.ERROR, "a\0b\ud800c")
    assert store.target("web").message == "a\ufffdb\ufffdc"
    store.emit("web-1", "log", {"a\0": ["b\0", {"c": "\ud800 \\u0000 \u00e4"}]})
    assert store.events("web-1")[0].data == {"a\ufffd": ["b\ufffd", {"c": "\ufffd \\u0000 \u00e4"}]}
    audit = Audit(store.engine)
    audit.record("anna", "commit", "web-1", "be\0cause", note="\0")
    assert audit.verify().entries == 1
    store.engine.dispose()


def test_the_doctor_asks_the_database(rig: Rig, tmp_path: Path) -> None:
    def config(database: str) -> Config:
        url, password = rig.cluster.url(database), rig.cluster.password_file
        none = tmp_path / "none.yaml"
        return Config(data_dir=tmp_path, estate=none, store=url, store_password_file=password)

    well = {one.subject: one for one in examine(config(rig.database))}["store"]
    assert well.state is State.OK and "answers" in well.found
    ill = {one.subject: one for one in examine(config("nowhere"))}["store"]
    assert ill.state is State.TROUBLE and "nowhere" in ill.found and ill.hint
    assert rig.cluster.password not in well.found + ill.found
    rig.cluster.password_file.chmod(0o644)
    try:
        seen = {one.subject: one for one in examine(config(rig.database))}["store"]
    finally:
        rig.cluster.password_file.chmod(0o600)
    assert seen.state is State.TROUBLE and seen.hint.startswith("chmod 600")


def test_a_server_that_is_away_or_does_not_let_in_is_said_so(rig: Rig, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-password\n")
    form = Estate.model_validate(estate(rig.world.directory, [ONE], POLICY))
    for url, password in (
        (rig.cluster.url(rig.database), wrong),
        (f"postgresql://refloat@/x?host={tmp_path}", rig.cluster.password_file),
    ):
        started = time.monotonic()
        with pytest.raises(Refused) as caught:
            Hub(Config(data_dir=tmp_path / "hub", store=url, store_password_file=password), form)
        assert caught.value.code == "store_unreachable" and caught.value.hint
        said = str(caught.value.to_dict())
        assert "not-the-password" not in said and rig.cluster.password not in said
        assert time.monotonic() - started < 30
