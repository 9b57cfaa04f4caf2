"""`sync open|complete|close|stop|status`: attempts.py by command line, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refloat.controller import attempts
from refloat.controller.locks import locked
from refloat.controller.paths import Paths
from refloat.errors import Refused

_USAGE = (
    "sync open POINT --direct|--delta SERIAL=BYTES..., sync complete POINT, sync close, sync stop SERIAL..., "
    "sync status"
)


def run(paths: Paths, arguments: list[str], progress: Callable[[dict[str, Any]], None]) -> Any:
    match arguments:
        case ["status"]:
            return attempts.status(paths)
        case ["open", point, mode, *disks] if mode in ("--direct", "--delta") and disks:
            with locked(paths.sync_lock, "another sync command"):
                return attempts.open_attempt(paths, point, mode[2:], _sizes(disks), progress)
        case ["complete", point]:
            with locked(paths.sync_lock, "another sync command"):
                attempts.complete_attempt(paths, point, progress)
        case ["close"]:
            with locked(paths.sync_lock, "another sync command"):
                attempts.close_attempt(paths, progress)
        case ["stop", *serials]:
            with locked(paths.sync_lock, "another sync command"):
                attempts.close_attempt(paths, progress)
                attempts.prove_closed(paths, serials)
        case _:
            raise Refused(f"cannot read: sync {' '.join(arguments)}", code="usage", hint=_USAGE)
    return attempts.status(paths)


def _sizes(disks: list[str]) -> dict[str, int]:
    sizes = {}
    for one in disks:
        serial, _, size = one.rpartition("=")
        if not serial or not size.isdigit() or "/" in serial:
            raise Refused(f"cannot read the disk {one!r}", code="usage", hint=_USAGE)
        sizes[serial] = int(size)
    return sizes
