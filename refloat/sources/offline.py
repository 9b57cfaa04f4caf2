"""Disk images of a VM that is off: reading them over NBD, and the state of their bitmaps."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from refloat.command import run
from refloat.errors import Failed

_TIMEOUT = 120.0
_END = 10.0
_PID_FILE = "--pid-file="


@dataclass(frozen=True)
class Image:
    """`bitmaps` are name -> flags; "in-use" means that QEMU did not close it: never trust it."""

    capacity: int
    bitmaps: dict[str, tuple[str, ...]]


def image_info(path: str, image_format: str) -> Image:
    """-U: it is read while another process may hold it; the caller knows that the VM is off."""
    argv = ["qemu-img", "info", "-U", "--output=json", "-f", image_format, path]
    data = json.loads(run(argv, timeout=_TIMEOUT).stdout)
    bitmaps = data.get("format-specific", {}).get("data", {}).get("bitmaps", [])
    return Image(int(data["virtual-size"]), {one["name"]: tuple(one.get("flags", ())) for one in bitmaps})


def bitmap_doubt(image: Image, bitmap: str) -> str:
    """Why this bitmap cannot be trusted, or ""."""
    if bitmap not in image.bitmaps:
        return f"the disk has no bitmap {bitmap}"
    if "in-use" in image.bitmaps[bitmap]:
        return f"the bitmap {bitmap} was not closed: the VM crashed, or its host did"
    return ""


def remove_bitmap(path: str, image_format: str, bitmap: str) -> None:
    run(["qemu-img", "bitmap", "--remove", "-f", image_format, path, bitmap], timeout=_TIMEOUT)


def start_reader(directory: Path, key: str, path: str, image_format: str, bitmap: str | None) -> str:
    """Exports the image read-only at a Unix socket in `directory`; returns the socket's path."""
    socket = directory / f"{key}.sock"
    argv = [
        "qemu-nbd",
        "--fork",
        "--persistent",
        "--read-only",
        "--shared=4",
        f"--socket={socket}",
        f"--export-name={key}",
        f"--format={image_format}",
        f"{_PID_FILE}{directory / key}.pid",
    ]
    run([*argv, *([f"--bitmap={bitmap}"] if bitmap else []), path], timeout=_TIMEOUT)
    return str(socket)


def stop_readers(directory: Path) -> None:
    """Ends every reader with a socket in `directory`, also those that a killed run left; removes sockets.

    They are asked of the kernel, so that a reused pid is never hit. Killed at once: a reader has nothing to
    save, and would wait for clients that hang.
    """
    deadline = time.monotonic() + _END
    while readers := _readers(directory):
        for pid in readers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Failed(
                f"a reader of {directory} does not end",
                code="reader_stuck",
                hint="the storage below it may hang: look for the qemu-nbd process",
            )
        time.sleep(0.01)
    for left in directory.glob("*"):
        left.unlink(missing_ok=True)


def _readers(directory: Path) -> list[int]:
    prefix = f"{_PID_FILE}{directory}/".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if b"qemu-nbd" in words[0] and any(word.startswith(prefix) for word in words):
            found.append(int(pid))
    return found
