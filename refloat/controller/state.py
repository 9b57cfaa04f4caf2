"""What the controller remembers of syncs: which point its replica holds, and the attempt under way.

    merged   the id of the sync point that every replica disk holds, or None
    attempt  None, or {"point", "mode": "direct"|"delta", "complete": bool, "disks": [{"serial", "device",
             "size", "port"}]}
    serials  the replica disks of the last attempt

`complete` is the marker: from then on the attempt is merged, however often that is interrupted;
before it, an attempt is discarded.
"""

from __future__ import annotations

import json
import os
from typing import Any

from refloat.controller.paths import Paths
from refloat.durable import write_durably

State = dict[str, Any]


def load_state(paths: Paths) -> State:
    try:
        with open(_file(paths)) as file:
            return {"serials": [], **json.load(file)}
    except FileNotFoundError:
        return {"merged": None, "attempt": None, "serials": []}


def save_state(paths: Paths, state: State) -> None:
    write_durably(_file(paths), json.dumps(state).encode())


def delta_file(paths: Paths, serial: str) -> str:
    return os.path.join(paths.sync, f"delta-{serial}.qcow2")


def _file(paths: Paths) -> str:
    return os.path.join(paths.sync, "state.json")
