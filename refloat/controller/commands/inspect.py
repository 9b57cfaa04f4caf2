"""`inspect`: the guest's facts, seen through copy-on-write views of the replica disks.

Standard input: an InspectRequest; the answer is a GuestFacts.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from refloat.codec import encode
from refloat.controller.devices import find_disk
from refloat.controller.locks import locked
from refloat.controller.paths import Paths
from refloat.controller.requests import read_inspect_request, use_system_modules


def run(paths: Paths, _arguments: list[str], progress: Callable[[dict[str, Any]], None]) -> Any:
    request = read_inspect_request(sys.stdin.buffer)
    use_system_modules()
    from refloat.guest.cow import cow_views
    from refloat.guest.inspect import inspect

    # Held against syncs, which would move the replica under the views.
    with locked(paths.sync_lock, "a sync"), ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=paths.scratch)))
        progress({"phase": "inspecting", "message": f"opening views of {len(request.disks)} disks"})
        devices = {disk.key: find_disk(paths, disk.serial)[0] for disk in request.disks}
        views = stack.enter_context(cow_views(devices, scratch / "views"))
        os.environ["TMPDIR"] = str(scratch)
        order = tuple(disk.key for disk in request.disks)
        return encode(inspect(views, order, request.bus, request.nic, request.luks_keys))
