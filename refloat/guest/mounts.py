"""What is mounted on this machine, and unmounting what Refloat mounted.

Source of the format of /proc/self/mountinfo: proc(5); the kernel writes blanks, tabs, newlines and
backslashes in names as three octal digits (seq_escape).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refloat.command import run
from refloat.errors import Failed

_TABLE = Path("/proc/self/mountinfo")
_TIMEOUT = 120
_PATIENCE = 5.0
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mounted:
    """One mount: its place, the filesystem's kind, its source (often a device) and the filesystem's options.

    `options` are as the kernel shows them, one after the other with commas between them.
    """

    place: str
    kind: str
    source: str
    options: str

    @property
    def device(self) -> str:
        """The kernel's name of the source: dm-0 for /dev/mapper/vg-root."""
        return os.path.basename(os.path.realpath(self.source))

    def is_within(self, path: str) -> bool:
        return self.place == path or self.place.startswith(f"{path.rstrip('/')}/")


def table() -> list[Mounted]:
    """Every mount that this process sees, in the order in which they were made."""
    return [_parsed(line) for line in _TABLE.read_bytes().split(b"\n") if line]


def _parsed(line: bytes) -> Mounted:
    left, _, right = line.partition(b" - ")
    kind, source, options = right.split(b" ")[:3]
    return Mounted(*map(_decoded, (left.split(b" ")[4], kind, source, options)))


def _decoded(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))


def unmount(mountpoint: str | Path) -> None:
    """Unmounts what was mounted last at a place.

    Raises Failed for a mount that stays busy for some seconds; never a lazy unmount: writes could come later.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        done = run(["umount", str(mountpoint)], timeout=_TIMEOUT, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise Failed(
                f"cannot unmount {mountpoint}: {done.stderr.decode(errors='replace').strip()}",
                code="guest_unmount",
                hint=f"see who uses it (fuser -vm {mountpoint}), unmount it and try again",
            )
        time.sleep(0.1)


def clear(mountpoint: Path) -> None:
    """Unmounts everything at and below `mountpoint`, the innermost first. Raises Failed as unmount()."""
    # Of a FUSE mount whose server was killed even stat fails, and realpath does not mind.
    root = os.path.realpath(mountpoint)
    _unmount_within([root])


def clear_devices(is_one: Callable[[str], bool]) -> None:
    """Unmounts what is mounted from devices whose kernel's name `is_one` knows, with all that is mounted
    below it, the innermost first. Raises Failed as unmount()."""
    _unmount_within([mount.place for mount in table() if is_one(mount.device)])


def _unmount_within(roots: list[str]) -> None:
    for mount in reversed(table()):
        if any(mount.is_within(root) for root in roots):
            unmount(mount.place)
