"""`plan`: the adaptation as it would be, made on copy-on-write views of the replica disks and thrown away.

Standard input as for `adapt`; the answer is an Intended: what would be changed, in a line each.
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
from refloat.controller.requests import read_adapt_request, use_system_modules


def run(paths: Paths, _arguments: list[str], progress: Callable[[dict[str, Any]], None]) -> Any:
    request, facts = read_adapt_request(sys.stdin.buffer)
    use_system_modules()
    from refloat.guest.adapt import adapt
    from refloat.guest.cow import cow_views
    from refloat.guest.intended import intended

    def say(what: str, content: dict[str, object]) -> None:
        progress({"phase": what, **content})

    # Held against syncs, which would move the replica under the views.
    with locked(paths.sync_lock, "a sync"), ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=paths.scratch)))
        devices = {disk.key: find_disk(paths, disk.serial)[0] for disk in request.disks}
        views = stack.enter_context(cow_views(devices, scratch / "views"))
        os.environ["TMPDIR"] = str(scratch)
        run_dir = scratch / "run"
        run_dir.mkdir()
        return encode(intended(adapt(request, views, facts, run_dir, say).changes))
