"""A bare QEMU for controls: boots one disk on virtio-blk and watches its serial console."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

WITHIN = 240.0  # seconds


def boots_to(disk: Path, directory: Path, good: bytes, bad: bytes, more: Sequence[Path] = ()) -> bytes:
    """Which of the two texts its console shows first. Nothing is written to the disks; `more` are
    attached after the first. Raises AssertionError when it shows neither within the deadline."""
    console = directory / "console.log"
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-m", "768", "-M", "q35"]
    argv += ["-nodefaults", "-display", "none", "-serial", f"file:{console}", "-snapshot"]
    for file in (disk, *more):
        argv += ["-drive", f"file={file},format=raw,if=virtio"]
    argv += ["-no-reboot"]
    console.unlink(missing_ok=True)
    machine = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline and machine.poll() is None:
            shown = console.read_bytes() if console.exists() else b""
            for text in (good, bad):
                if text in shown:
                    return text
            time.sleep(0.5)
        raise AssertionError(f"neither text on the console; its end: {shown[-500:]!r}")
    finally:
        machine.kill()
        machine.wait()
