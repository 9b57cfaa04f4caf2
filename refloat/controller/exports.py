"""NBD exports of replica disks: one qemu-nbd per disk, on the loopback only.

Which exports exist is asked of the kernel, not remembered: a qemu-nbd is ours if its command line
names a pid file in our directory. So neither a killed command nor a reused pid confuses it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from refloat.controller.paths import Paths
from refloat.errors import Failed

_PID_FILE = "--pid-file="
_GRACE = 15.0  # seconds for a flush on the way out; what matters was flushed by the hub before


def start_export(paths: Paths, serial: str, port: int, image: str, image_format: str) -> None:
    """Returns when the port listens. A raw device bypasses the page cache: a controller's memory is small."""
    from refloat.command import run

    cache = "none" if image.startswith("/dev/") else "writeback"
    run(
        [
            "qemu-nbd",
            "--fork",
            "--persistent",
            "--shared=2",
            "--bind=127.0.0.1",
            f"--port={port}",
            f"--export-name={serial}",
            f"--format={image_format}",
            f"--cache={cache}",
            "--discard=unmap",
            f"{_PID_FILE}{_pid_file(paths, serial)}",
            image,
        ],
        timeout=120,
    )


def running_exports(paths: Paths) -> dict[str, int]:
    """Serial -> pid of every export of ours that lives."""
    prefix = f"{_PID_FILE}{os.path.join(paths.sync, 'export-')}".encode()
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if b"qemu-nbd" not in words[0]:
            continue
        for word in words:
            if word.startswith(prefix):
                found[word[len(prefix) :].decode().removesuffix(".pid")] = int(pid)
    return found


def stop_exports(paths: Paths) -> None:
    """Ends all exports, and returns when none is left. qemu-nbd flushes when it is asked to end.

    Raises Failed if one does not end even when killed.
    """
    for last_resort in (signal.SIGTERM, signal.SIGKILL):
        for pid in running_exports(paths).values():
            _signal(pid, last_resort)
        deadline = time.monotonic() + _GRACE
        while running_exports(paths):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return
    raise Failed(
        f"an export does not end: {running_exports(paths)}",
        code="export_stuck",
        hint="the controller's disk may hang; look at its kernel log, or restart the controller",
    )


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _pid_file(paths: Paths, serial: str) -> str:
    return os.path.join(paths.sync, f"export-{serial}.pid")
