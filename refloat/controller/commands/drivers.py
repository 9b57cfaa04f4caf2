"""`drivers`: whether the controller holds the drivers of a choice; takes them over once they were pushed.

Standard input: {"files": [DriverFile, ...], "archive": SHA256 or ""}. The answer: {"folder", "incoming"};
an empty folder means: push an archive named by its hash into `incoming`, then ask again with that name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from refloat.controller.kept_drivers import kept, unpack
from refloat.controller.locks import locked
from refloat.controller.paths import Paths
from refloat.controller.requests import read_drivers_request


def run(paths: Paths, _arguments: list[str], _progress: Callable[[dict[str, Any]], None]) -> dict[str, str]:
    request = read_drivers_request(sys.stdin.buffer)
    with locked(os.path.join(paths.drivers, "lock"), "the arrival of drivers"):
        folder = kept(paths, request.files)
        if not folder and request.archive:
            folder = unpack(paths, request.files, request.archive)
    return {"folder": folder, "incoming": paths.drivers}
