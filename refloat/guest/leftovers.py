"""What stands on a guest's disks while they are looked at (arrays, volumes, opened containers): taking it
down, also after a run that was killed.

A run records the nodes on which it is about to build. The kernel knows what stands on them: so nothing has
to be listed, and nothing can be forgotten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from refloat.command import run
from refloat.durable import write_durably
from refloat.errors import Failed
from refloat.guest.mounts import clear_devices

_SYS_BLOCK = Path("/sys/class/block")
_RECORDS = Path("/run/refloat/stacks")
_TIMEOUT = 120


def birth(pid: int) -> str:
    """A name for a process that no later process with the same number has; empty if it is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return f"{pid}:{status.rpartition(')')[2].split()[19]}"


class Record:
    """What this process is about to build on. `loops` are the loop devices that it makes for it."""

    def __init__(self) -> None:
        self._path = _RECORDS / f"{os.getpid()}.json"
        self._nodes: list[str] = []
        self._loops: list[str] = []

    def add(self, node: str, *, loop: bool = False) -> None:
        """Before anything is built on `node`."""
        self._nodes.append(node)
        if loop:
            self._loops.append(node)
        _RECORDS.mkdir(parents=True, exist_ok=True)
        content = {"owner": birth(os.getpid()), "nodes": self._nodes, "loops": self._loops}
        write_durably(self._path, json.dumps(content).encode())

    def take_down(self) -> None:
        """Raises Failed if something is still in use; it is tried again at the next start."""
        _take_down(self._nodes, self._loops)
        self._path.unlink(missing_ok=True)


def drop() -> None:
    """Takes down what killed runs left behind: theirs, and their process is gone."""
    for path in sorted(_RECORDS.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
            owner, nodes, loops = content["owner"], content["nodes"], content["loops"]
        except (ValueError, KeyError, TypeError):
            owner, nodes, loops = "", [], []
        if owner and owner == birth(int(owner.partition(":")[0])):
            continue
        standing = {name for node in nodes for name in _above(node)}
        clear_devices(standing.__contains__)
        _take_down(nodes, loops)
        path.unlink(missing_ok=True)


def holders(node: str) -> list[str]:
    """The kernel's names of what stands directly on a device or on its partitions."""
    base = _SYS_BLOCK / os.path.basename(os.path.realpath(node))
    places = [base, *(entry.parent for entry in base.glob("*/partition"))]
    found = []
    for place in places:
        with suppress(OSError):
            found += sorted(os.listdir(place / "holders"))
    return found


def _above(node: str) -> Iterator[str]:
    for name in holders(node):
        yield name
        yield from _above(f"/dev/{name}")


def _take_down(nodes: Sequence[str], loops: Sequence[str]) -> None:
    for node in nodes:
        for name in holders(node):
            _remove(name)
    for loop in loops:
        run(["losetup", "--detach", loop], timeout=_TIMEOUT, check=False)


def _remove(name: str) -> None:
    """One device of the device mapper or an array, after all that stands on it."""
    place = _SYS_BLOCK / name
    for inner in holders(f"/dev/{name}"):
        _remove(inner)
    if not place.exists():
        return  # went with what stood on it
    if (place / "dm").is_dir():
        mapped = (place / "dm/name").read_text().strip()
        argv = ["dmsetup", "remove", "--retry", mapped]
    elif (place / "md").is_dir():
        argv = ["mdadm", "--stop", f"/dev/{name}"]
    else:
        raise Failed(f"/dev/{name} stands on the guest's disks, and it is not known what it is")
    done = run(argv, timeout=_TIMEOUT, check=False)
    if done.returncode != 0 and place.exists():
        message = done.stderr.decode(errors="replace").strip()
        raise Failed(
            f"cannot take down /dev/{name}, which stands on the guest's disks: {message}",
            code="guest_volumes_busy",
            hint=f"see who uses it (fuser -vm /dev/{name}), and try again",
        )
