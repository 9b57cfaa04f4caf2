"""`adapt`: runs the guest engine on the replica disks, detached; a second call attaches.

Standard input: {"request": AdaptRequest, "facts": GuestFacts}; the answer is an Adaptation. The secrets
in the request stay in memory and in the guest: a run that starts again is given them again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refloat.codec import encode
from refloat.controller.detached import run_once
from refloat.controller.devices import find_disk
from refloat.controller.exports import running_exports
from refloat.controller.paths import Paths
from refloat.controller.requests import read_adapt_request, use_system_modules
from refloat.controller.state import load_state
from refloat.errors import Busy


def run(paths: Paths, _arguments: list[str], progress: Callable[[dict[str, Any]], None]) -> Any:
    request, facts = read_adapt_request(sys.stdin.buffer)
    if load_state(paths)["attempt"] or running_exports(paths):
        raise Busy("a sync is open in this controller", hint="end it with `sync stop` before adapting")
    devices = {disk.key: find_disk(paths, disk.serial)[0] for disk in request.disks}

    def work(run_dir: Path, emit: Callable[[dict[str, Any]], None]) -> Any:
        use_system_modules()
        from refloat.guest.adapt import adapt

        def say(what: str, content: dict[str, object]) -> None:
            emit({"phase": what, **content})

        return encode(adapt(request, devices, facts, run_dir, say))

    return run_once(paths, request.job, work, progress)
