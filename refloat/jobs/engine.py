"""Durable jobs on DBOS. Nothing else imports it, so that it stays replaceable.

What is kept here: which step comes next, across restarts. What a step does is plain code (steps.py), at
least once; what a job knows is in the store. An abort is a flag in the store that steps look at, never a
cancelled workflow: undo steps could not run in one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, Serializer, SetWorkflowID

from refloat.errors import Aborted, RefloatError
from refloat.failover import COMMIT, OBSERVING, STEPS
from refloat.jobs import steps
from refloat.jobs.states import finish_job, settle
from refloat.model import JobState
from refloat.policy import OnFailure
from refloat.run import Run
from refloat.store.sound import require_sound

# Part of what is stored: change it only together with a migration of the jobs in flight.
APPLICATION_VERSION = "failover-1"
QUEUE = "failovers"
AT_ONCE = 16  # jobs in their active phase; those that wait for the operator do not count
DAY = 86_400.0
ASK_AGAIN = 10.0  # seconds

log = logging.getLogger(__name__)
_dbos_log = logging.getLogger("dbos")

T = TypeVar("T")
_run_of: Callable[[str], Run]


class Json(Serializer):
    """Never pickle: with it, write access to the database would be code execution."""

    def serialize(self, data: Any) -> str:
        return json.dumps(data, default=_describe)

    def deserialize(self, serialized_data: str) -> Any:
        return json.loads(serialized_data)

    def name(self) -> str:
        return "refloat_json"


def _describe(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | set) else repr(value)


def _is_no_cancelled_wait(record: logging.LogRecord) -> bool:
    """Each job that waits is cancelled when the hub stops: that is how it stops."""
    return not record.getMessage().startswith("Asyncio task cancelled")


class Engine:
    """Runs jobs to their end across restarts of the process. One per process, one per data directory."""

    def __init__(self, database: Path | sa.Engine, run_of: Callable[[str], Run]) -> None:
        """`database` is an SQLite file, or connections to PostgreSQL (there in the schema `dbos`)."""
        global _run_of
        _run_of = run_of
        self._database = database if isinstance(database, sa.Engine) else None
        config: DBOSConfig = {
            "name": "refloat",
            "application_version": APPLICATION_VERSION,
            # Recovery takes only this executor's jobs; the hub's lock on its data makes it unique.
            "executor_id": "hub",
            "serializer": Json(),
            "log_level": "WARNING",
            "notification_listener_polling_interval_sec": 1.0,
        }
        if isinstance(database, Path):
            _use_wal(database)
            config["system_database_url"] = f"sqlite:///{database}"
        else:
            # DBOS keeps and prints addresses with their passwords; these connections bring their own.
            config["system_database_url"] = database.url.render_as_string(hide_password=True)
            config["system_database_engine"] = database
        DBOS(config=config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="jobs", daemon=True)

    def launch(self) -> None:
        """Starts, and goes on with every job that a killed hub left unfinished."""
        self._thread.start()
        self._call(self._launch())

    async def _launch(self) -> None:
        # Launched from within our loop, DBOS runs all jobs there, recovered ones too: a thread for the
        # loop instead of one for each waiting job.
        DBOS.launch()
        await DBOS.register_queue_async(QUEUE, worker_concurrency=AT_ONCE, polling_interval_sec=0.2)

    def alive(self) -> bool:
        return self._thread.is_alive() and self._loop.is_running()

    def close(self) -> None:
        """Stops like a kill does: jobs stay as they are and go on at the next launch.

        A step that is acting goes on in its thread; the process should end soon after.
        """
        _dbos_log.addFilter(_is_no_cancelled_wait)
        self._call(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        DBOS.destroy()
        if self._database is not None:
            self._database.dispose()

    def start(self, job_id: str) -> None:
        """Idempotent: a job that was started is not started again. One whose start raised an error may
        start all the same, later."""
        self._call(_start(job_id))

    def keep_starting(self, job_id: str) -> None:
        """Returns at once; the start is tried again until it succeeds."""

        async def act() -> None:
            while True:
                try:
                    return await _start(job_id)
                except Exception:
                    log.exception("job %s cannot be started; tried again in %.0f s", job_id, ASK_AGAIN)
                    await asyncio.sleep(ASK_AGAIN)

        asyncio.run_coroutine_threadsafe(act(), self._loop)

    def tell(self, job_id: str, decision: str, nonce: str) -> None:
        """The operator's word to a waiting job: "commit" or "rollback"; heard once per nonce."""
        self._call(DBOS.send_async(job_id, decision, topic="decision", idempotency_key=f"{job_id}-{nonce}"))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=60)


def forget(database: Path, jobs: Sequence[str]) -> None:
    """These jobs are not taken up again at the next launch. While no engine uses the file."""
    if not jobs or not database.exists():
        return
    client = DBOSClient(system_database_url=f"sqlite:///{database}", serializer=Json())
    try:
        for job in jobs:
            inner = client.list_workflows(parent_workflow_id=job, load_input=False, load_output=False)
            client.cancel_workflows([job, *(one.workflow_id for one in inner)])
    finally:
        client.destroy()


async def _start(job_id: str) -> None:
    with SetWorkflowID(job_id):
        await DBOS.start_workflow_async(failover_job, job_id)


async def _cancel_all() -> None:
    """Cancelled here, in its own loop, a workflow leaves no outcome behind: it stays to be recovered."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _use_wal(database: Path) -> None:
    """Before DBOS opens it: later it can fail with "database is locked". Without it a step costs 4 times
    more."""
    require_sound(database)
    database.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(f"sqlite:///{database}")
    with engine.connect() as connection:
        connection.execute(sa.text("PRAGMA journal_mode=WAL"))
    engine.dispose()


# ---------------------------------------------------------------- workflows


@DBOS.workflow(max_recovery_attempts=None)
async def failover_job(job_id: str) -> str:
    """A job's life: the active phase, then waiting for the operator for as long as it takes."""
    handle = await DBOS.enqueue_workflow_async(QUEUE, go_forward, job_id)
    state = JobState(await handle.get_result())
    while state in (JobState.TEST_ACTIVE, JobState.AWAITING_COMMIT, JobState.BLOCKED):
        decision = await DBOS.recv_async("decision", timeout_seconds=DAY)
        if decision == "commit":
            state = await go_commit(job_id)
        elif decision == "rollback":
            state = await go_back(job_id, None)
    return state


@DBOS.workflow(max_recovery_attempts=None)
async def go_forward(job_id: str) -> str:
    """Steps 1 to 14. What fails before the recovered VM runs is undone, or held for a person by policy."""
    if await set_state(job_id, JobState.RUNNING, None) != JobState.RUNNING:
        return JobState.REFUSED  # its start was reported as failed, and the target given back
    for step in STEPS:
        error = await do_step(job_id, step.name)
        if error is None or step.name in OBSERVING:
            continue
        if step.name == STEPS[0].name:
            return await set_state(job_id, JobState.REFUSED, error)
        aborted = error["code"] == Aborted.default_code
        held = not aborted and await policy_on_failure(job_id) == OnFailure.HOLD
        if held and await set_state(job_id, JobState.BLOCKED, error) == JobState.BLOCKED:
            return JobState.BLOCKED
        return await go_back(job_id, error)
    if await was_aborted(job_id):
        return await go_back(job_id, None)
    state = await set_outcome(job_id)
    return await go_back(job_id, None) if state == JobState.RUNNING else state


async def go_back(job_id: str, error: dict[str, Any] | None) -> JobState:
    """Undoes in reverse order. After an undo that failed, only those that are safe without it go on."""
    await set_state(job_id, JobState.ROLLING_BACK, error)
    failure: dict[str, Any] | None = None
    for step in reversed(STEPS):
        if failure is None or step.undo_when_blocked:
            failure = await undo_step(job_id, step.name) or failure
    state = JobState.ROLLED_BACK if failure is None else JobState.BLOCKED
    await set_state(job_id, state, failure)
    return state


async def go_commit(job_id: str) -> JobState:
    await set_state(job_id, JobState.COMMITTING, None)
    for step in COMMIT:
        error = await commit_step(job_id, step.name)
        if error is not None:
            await set_state(job_id, JobState.BLOCKED, error)
            return JobState.BLOCKED
    await set_state(job_id, JobState.COMMITTED, None)
    return JobState.COMMITTED


# ---------------------------------------------------------------- durable steps


async def _patiently(act: Callable[[], T]) -> T:
    """What a step itself runs into comes back as data. An exception here is the hub's own trouble (its disk
    is full, its database locked, a target gone from the estate): the engine would record the job as failed
    for ever, so it is asked again until somebody has mended it."""
    while True:
        try:
            return await asyncio.to_thread(act)
        except Exception:
            log.exception("a job cannot go on; it is tried again in %.0f s", ASK_AGAIN)
            await asyncio.sleep(ASK_AGAIN)


@DBOS.step()
async def do_step(job_id: str, name: str) -> dict[str, Any] | None:
    return _data(await _patiently(lambda: steps.perform(_run_of(job_id), name)))


@DBOS.step()
async def undo_step(job_id: str, name: str) -> dict[str, Any] | None:
    return _data(await _patiently(lambda: steps.undo(_run_of(job_id), name)))


@DBOS.step()
async def commit_step(job_id: str, name: str) -> dict[str, Any] | None:
    return _data(await _patiently(lambda: steps.commit(_run_of(job_id), name)))


@DBOS.step()
async def set_state(job_id: str, state: str, error: dict[str, Any] | None) -> str:
    """The state in which the job is now: see finish_job."""

    def act() -> JobState:
        cause = RefloatError.from_dict(error) if error else None
        return finish_job(_run_of(job_id), JobState(state), cause)

    return await _patiently(act)


@DBOS.step()
async def set_outcome(job_id: str) -> str:
    return await _patiently(lambda: settle(_run_of(job_id)))


@DBOS.step()
async def was_aborted(job_id: str) -> bool:
    return await _patiently(lambda: _run_of(job_id).abort_requested())


@DBOS.step()
async def policy_on_failure(job_id: str) -> str:
    return await _patiently(lambda: _run_of(job_id).policy.on_failure)


def _data(error: RefloatError | None) -> dict[str, Any] | None:
    return error.to_dict() if error else None
