"""What a command costs, with every process that it starts."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cost:
    """`cpu` and `wall` in seconds, `memory` (the largest single process) and `written` in bytes."""

    cpu: float
    wall: float
    memory: int
    written: int
    status: int


def measure(argv: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Runs `argv` to its end, its output to the standard error, and adds up what all its processes used.

    A helper that outlives its parent (nbdkit does) is in nobody's account unless somebody inherits it, so
    this process does. It must have no other children. `written` is what processes wrote into the page
    cache or past it, not what the kernel's own threads (a file system's journal) added.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot inherit the orphans of a command")
    started = time.monotonic()
    process = subprocess.Popen(
        list(argv), stdin=subprocess.DEVNULL, stdout=sys.stderr, env={**os.environ, **environment}
    )
    wall, usages = 0.0, []
    while True:
        try:
            pid, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        usages.append(usage)
        if pid == process.pid:
            wall = time.monotonic() - started
            process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(
        cpu=sum(usage.ru_utime + usage.ru_stime for usage in usages),
        wall=wall,
        memory=max(usage.ru_maxrss for usage in usages) * 1024,
        written=sum(usage.ru_oublock for usage in usages) * 512,
        status=process.returncode,
    )
