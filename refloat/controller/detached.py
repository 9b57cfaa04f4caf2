"""A run that outlives the connection that started it, and attaching to it.

The run is a process in a session of its own that holds a lock for as long as it lives, so "is it still
going" is never a guess. It writes its events to a log; whoever attaches reads that log from its start.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from refloat.controller.locks import locked, try_lock
from refloat.controller.paths import Paths
from refloat.errors import Busy, Failed, RefloatError, Refused

Event = dict[str, Any]
Emit = Callable[[Event], None]
Work = Callable[[Path, Emit], Any]

_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_POLL = 0.1  # seconds
_END = 5.0


def run_once(paths: Paths, job: str, work: Work, progress: Emit) -> Any:
    """The result of `work(run_dir, emit)`, which is called at most once at a time, and never again for a
    job that has a result.

    A second call for the same job attaches to the run that is going, or returns its result; a run that
    failed or died is started again in the same `run_dir`. Raises Busy while another job's run is going.
    """
    run_dir = _run_directory(paths, job)
    with locked(f"{paths.adapt_lock}.start", "the start of an adaptation"):
        finished = _result(run_dir)
        if finished is not None:
            return finished["data"]
        log = _attach_or_start(paths, job, run_dir, work)
    return follow(paths, log, progress)


def _attach_or_start(paths: Paths, job: str, run_dir: Path, work: Work) -> Path:
    lock = os.open(paths.adapt_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not try_lock(lock):
            holder = Path(paths.adapt_lock).read_text()
            if holder != job:
                raise Busy(f"an adaptation of job {holder} runs in this controller", hint="wait for its end")
            return _logs(run_dir)[-1]
        log = run_dir / f"run-{len(_logs(run_dir)) + 1:04}.jsonl"
        log.touch(mode=0o600)
        os.ftruncate(lock, 0)
        os.pwrite(lock, job.encode(), 0)
        _start(lock, log, run_dir, work)
        return log
    finally:
        os.close(lock)  # the run has its own copy, and with it the lock


def follow(paths: Paths, log: Path, progress: Emit) -> Any:
    """Passes events on until the run's result or error. Raises Failed (adapt_died) if it ends without."""
    for event in _events(paths, log):
        kind = event.pop("event")
        if kind != "progress":
            _wait_for_end(paths)
        if kind == "result":
            return event["data"]
        if kind == "error":
            raise RefloatError.from_dict(event)
        progress(event)
    raise Failed(
        "the adaptation was ended from outside before it was complete",
        code="adapt_died",
        hint="call it again: it goes on where it stopped",
    )


def _wait_for_end(paths: Paths) -> None:
    """The run has said its last word and is about to let go of its lock: the caller may go on at once."""
    deadline = time.monotonic() + _END
    while _is_alive(paths) and time.monotonic() < deadline:
        time.sleep(_POLL / 10)


def _events(paths: Paths, log: Path) -> Iterator[Event]:
    with log.open() as file:
        rest = ""
        while True:
            # Asked before reading: a run that ended after this has written all that it had.
            alive = _is_alive(paths)
            rest += file.read()
            *lines, rest = rest.split("\n")
            yield from (json.loads(line) for line in lines)
            if not lines and not alive:
                return
            if not lines:
                time.sleep(_POLL)


def _is_alive(paths: Paths) -> bool:
    fd = os.open(paths.adapt_lock, os.O_RDWR)
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)


def _start(lock: int, log: Path, run_dir: Path, work: Work) -> None:
    """Forks twice, so that the run is nobody's child and belongs to no session of SSH."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    status = 1
    try:
        _detach(run_dir, lock)
        fcntl.fcntl(lock, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        status = _work(log, run_dir, work)
    finally:
        os._exit(status)


def _detach(run_dir: Path, lock: int) -> None:
    """Nothing of the command stays open but the lock: neither its connection nor its own locks."""
    null = os.open(os.devnull, os.O_RDONLY)
    errors = os.open(run_dir / "stderr.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd != lock:
            with suppress(OSError):  # the listing's own
                os.close(fd)


def _work(log: Path, run_dir: Path, work: Work) -> int:
    with log.open("a", buffering=1) as file:

        def write(event: Event) -> None:
            file.write(json.dumps(event) + "\n")

        try:
            data = work(run_dir, lambda content: write({"event": "progress", **content}))
        except RefloatError as error:
            write({"event": "error", **error.to_dict()})
            return 1
        except BaseException as error:
            import traceback

            traceback.print_exc()
            failure = Failed(
                f"{type(error).__name__}: {error}", code="internal", hint="please report this defect"
            )
            write({"event": "error", **failure.to_dict()})
            return 1
        write({"event": "result", "data": data})
        os.fsync(file.fileno())
        return 0


def _run_directory(paths: Paths, job: str) -> Path:
    if not _JOB.fullmatch(job):
        raise Refused(f"{job!r} is no job id", code="bad_request")
    directory = Path(paths.jobs, job)
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _logs(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("run-*.jsonl"))


def _result(run_dir: Path) -> Event | None:
    """The result that an earlier run of this job left."""
    logs = _logs(run_dir)
    lines = logs[-1].read_text().splitlines() if logs else []
    try:
        last: Event = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return None  # a power cut in the middle of a line
    return last if last.get("event") == "result" else None
