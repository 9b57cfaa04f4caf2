"""`health`: is the controller up, which code runs, what does it hold. No process is started."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from refloat import __version__
from refloat.controller.exports import running_exports
from refloat.controller.locks import is_held
from refloat.controller.paths import Paths
from refloat.controller.state import load_state


def run(paths: Paths, _arguments: list[str], _progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    state = load_state(paths)
    locks = {"sync": paths.sync_lock, "adapt": paths.adapt_lock}
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return {
        "version": __version__,
        "code": os.path.basename(sys.argv[0]).partition(".")[0],
        "uptime": uptime,
        "clock": time.time(),
        "free": paths.free(),
        "kernel": os.uname().release,
        "merged_point": state["merged"],
        "exports": sorted(running_exports(paths)),
        "running": [name for name, lock in locks.items() if is_held(lock)],
    }
