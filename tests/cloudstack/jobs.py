"""Async jobs on a virtual clock: one at a time per VM, status 0 pending, 1 succeeded, 2 failed.

A job's work is a generator: what is before a `yield SECONDS` happens when its turn comes, what follows
happens
that many virtual seconds later, what it returns is the jobresult. Time moves only by requests (one second
each)
and by Clock.advance, so that a run is the same each time.
"""

import contextlib
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from tests.cloudstack.errors import INTERNAL, ApiError
from tests.cloudstack.model import new_id

Work = Generator[float, None, dict[str, Any]]
CANCEL_AFTER = 3600.0  # job.cancel.threshold.minutes = 60 (AsyncJobManagerImpl)
PENDING, SUCCEEDED, FAILED = 0, 1, 2


class Cancelled(Exception):
    """Thrown into a job's work: the work puts back what it must and ends."""


@dataclass
class Clock:
    now: float = 0.0

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Started:
    """What a command that starts a job hands over: `queue` names what jobs must not run at once (the VM)."""

    work: Work
    queue: str | None
    kind: str  # jobinstancetype
    instance: str
    extra: dict[str, Any] = field(default_factory=dict)
    check: Callable[[], None] = lambda: None  # what is looked at when the job is taken, before it queues


@dataclass
class Job:
    command: str
    started: Started
    account: str
    created: float
    id: str = field(default_factory=new_id)
    status: int = PENDING
    code: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    due: float | None = None  # None: waits for its turn
    held: bool = False

    @property
    def open(self) -> bool:
        return self.status == PENDING


class Jobs:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.RLock()  # the server's as well: tests and requests come from several threads
        self.all: dict[str, Job] = {}
        self.lost: set[str] = set()
        self.holding: set[str] = set()
        self.factor = 1.0
        self.failing: list[tuple[str, ApiError]] = []

    def submit(self, command: str, started: Started, account: str) -> Job:
        job = Job(command, started, account, self.clock.now, held=command in self.holding)
        self.all[job.id] = job
        try:
            started.check()
        except ApiError as error:
            self._close(job, FAILED, error.code, {"errorcode": error.code, "errortext": error.text})
        self.step()
        return job

    def hold(self, command: str) -> None:
        """Jobs of this command submitted from now on run no further than their start, until release."""
        self.holding.add(command)

    def release(self, command: str) -> None:
        with self.lock:
            self.holding.discard(command)
            for job in self.all.values():
                if job.command == command:
                    job.held = False
            self.step()

    def fail_next(self, command: str, code: int, text: str) -> None:
        """The next job of this command fails at its end, with its effect undone as CloudStack's work undoes
        it."""
        self.failing.append((command, ApiError(code, text)))

    def pending(self, queue: str | None = None) -> list[Job]:
        return [
            job for job in self.all.values() if job.open and (queue is None or job.started.queue == queue)
        ]

    def step(self) -> None:
        """Run everything that is due now, in the order of submission."""
        moved = True
        while moved:
            moved = False
            for job in self.pending():
                if self.clock.now - job.created >= CANCEL_AFTER:
                    self.cancel(job, "Job is cancelled as it has been blocking others for too long")
                    moved = True
                elif self._ready(job):
                    self._run(job)
                    moved = True

    def finish(self) -> None:
        """Move the clock until no job is pending that is not held."""
        with self.lock:
            while waiting := [job for job in self.pending() if not job.held]:
                known = [job.due for job in waiting if job.due is not None]
                if not known:
                    return
                self.clock.now = max(self.clock.now, min(known))
                self.step()

    def cancel(self, job: Job, text: str) -> None:
        if job.due is not None:
            with contextlib.suppress(Cancelled, StopIteration):
                job.started.work.throw(Cancelled())
        self._close(job, FAILED, INTERNAL, {"errorcode": INTERNAL, "errortext": text})

    def _ready(self, job: Job) -> bool:
        if job.due is not None:
            return not job.held and self.clock.now >= job.due
        queue = job.started.queue
        before = [other for other in self.pending(queue) if other is not job and other.due is not None]
        return queue is None or not before

    def _run(self, job: Job) -> None:
        try:
            failure = next((item for item in self.failing if item[0] == job.command), None)
            if job.due is not None and failure is not None:
                self.failing.remove(failure)
                seconds = job.started.work.throw(failure[1])
            else:
                seconds = next(job.started.work)
            job.due = self.clock.now + seconds * self.factor
        except StopIteration as end:
            self._close(job, SUCCEEDED, 0, end.value)
        except ApiError as error:
            self._close(job, FAILED, error.code, {"errorcode": error.code, "errortext": error.text})

    def _close(self, job: Job, status: int, code: int, result: dict[str, Any]) -> None:
        job.status, job.code, job.result = status, code, result
