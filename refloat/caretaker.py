"""What the hub does by itself as time goes by: syncs by schedule, the ends of tests, reminders, and a watch
on sources that ought to be off. What is due is decided by pure functions over what the store knows."""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from refloat.clock import seconds_between
from refloat.errors import RefloatError
from refloat.model import JobState
from refloat.policy import CommitThen, Policy
from refloat.store.store import Job, TargetStatus
from refloat.syncs import SYNCABLE

log = logging.getLogger(__name__)

TICK = 2.0  # seconds between two looks
SHARE = 0.05  # of the time, at most, goes into looking: with much to look at the looks are further apart
JITTER = 0.1  # of the interval: targets of one policy do not all sync at once
RETRY = 60  # seconds after a sync that failed, at least


class Due(StrEnum):
    NOTHING = "nothing"
    REMIND = "remind"
    ROLLBACK = "rollback"
    COMMIT = "commit"


@dataclass(frozen=True)
class Replication:
    """How fresh a replica is: `age` of its last complete sync point in seconds, against the policy's aim."""

    age: float | None
    rpo: int | None
    next_sync: float | None  # seconds from now; 0 when it is due, None without a schedule

    @property
    def late(self) -> bool:
        return self.rpo is not None and (self.age is None or self.age > self.rpo)


def replication(target: TargetStatus, policy: Policy, at: str) -> Replication:
    age = seconds_between(target.sync_point.taken, at) if target.sync_point else None
    if policy.sync_every is None or target.paused:
        return Replication(age, policy.rpo, None)
    interval = policy.sync_every * (1 + JITTER * _share(target.name))
    if target.message:
        interval = max(interval, RETRY)
    waited = seconds_between(target.sync_started, at) if target.sync_started else interval
    return Replication(age, policy.rpo, max(0.0, interval - waited))


def _share(name: str) -> float:
    """Between -1 and 1, always the same for one target."""
    return zlib.crc32(name.encode()) / 2**31 - 1


def sync_due(target: TargetStatus, policy: Policy, at: str) -> bool:
    free = not target.holder and target.state in SYNCABLE
    return free and replication(target, policy, at).next_sync == 0


def decision_due(job: Job, settled: str, policy: Policy, at: str, reminded: bool) -> Due:
    """What nobody decided in time. `settled` is when the job came to wait for the operator."""
    waited = seconds_between(settled, at)
    if job.state is JobState.TEST_ACTIVE:
        over = policy.test_duration is not None and waited >= policy.test_duration
        return Due.ROLLBACK if over else Due.NOTHING
    if job.state is not JobState.AWAITING_COMMIT or policy.commit_deadline is None:
        return Due.NOTHING
    if waited < policy.commit_deadline:
        return Due.NOTHING
    if policy.commit_then is CommitThen.REMIND:
        return Due.NOTHING if reminded else Due.REMIND
    return Due(policy.commit_then)


# ---------------------------------------------------------------- the thread


class Estate(Protocol):
    """What the caretaker asks of the hub."""

    def due_syncs(self) -> Sequence[str]: ...
    def start_sync(self, name: str) -> None: ...
    def waiting_jobs(self) -> Sequence[str]: ...
    def take_care(self, job_id: str) -> None: ...
    def jobs_to_forget(self) -> Sequence[str]: ...
    def forget_job(self, job_id: str) -> None: ...


class Caretaker:
    """Looks every few seconds. What goes wrong with one target or job is logged, and tried again."""

    def __init__(self, estate: Estate, tick: float = TICK) -> None:
        self._estate = estate
        self._tick = tick
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caretaker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = self._tick
        while not self._stop.wait(pause):
            begun = time.monotonic()
            self._each("syncs", self._estate.due_syncs, self._estate.start_sync)
            self._each("jobs", self._estate.waiting_jobs, self._estate.take_care)
            self._each("old jobs", self._estate.jobs_to_forget, self._estate.forget_job)
            pause = max(self._tick, (time.monotonic() - begun) / SHARE)

    def _each(self, what: str, names: Callable[[], Sequence[str]], act: Callable[[str], None]) -> None:
        try:
            found = names()
        except Exception:
            log.exception("cannot look for %s that are due", what)
            return
        for name in found:
            if self._stop.is_set():
                return
            try:
                act(name)
            except RefloatError as error:
                log.info("%s of %s: %s", what, name, error)
            except Exception:
                log.exception("%s of %s", what, name)
