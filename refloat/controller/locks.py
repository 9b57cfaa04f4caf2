"""Locks between the controller's commands: held by the kernel, so that a killed holder leaves none."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from refloat.errors import Busy

_PATIENCE = 900.0


@contextmanager
def locked(path: str, what: str, patience: float = _PATIENCE) -> Iterator[int]:
    """Holds the lock, after waiting up to `patience` seconds for another command to end. Raises Busy."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + patience
        while not try_lock(fd):
            if time.monotonic() > deadline:
                raise Busy(
                    f"{what} is under way in this controller", hint="wait for it to end, then try again"
                )
            time.sleep(0.1)
        yield fd
    finally:
        os.close(fd)


def try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_held(path: str) -> bool:
    """Whether a living process holds this lock now."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)
