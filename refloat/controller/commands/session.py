"""`session`: answers one request after another, so that Python and its imports are paid for once.

Standard input: a line of JSON for each request, {"argv": [...], "content": TEXT}. Each is done in a fork
and answered as by a command of its own, followed by {"event": "end", "status"}. Ends with its input.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from refloat.controller.paths import Paths
from refloat.controller.requests import use_system_modules

# What the long commands need, imported here once: two seconds of every inspection under emulation.
_HEAVY = (
    "refloat.controller.commands.sync",
    "refloat.controller.commands.inspect",
    "refloat.controller.commands.adapt",
    "refloat.controller.commands.plan",
    "refloat.guest.cow",
    "refloat.guest.inspect",
    "refloat.guest.adapt",
)


def run(_paths: Paths, _arguments: list[str], _progress: Callable[[dict[str, Any]], None]) -> None:
    use_system_modules()
    for name in _HEAVY:
        import_module(name)
    for line in iter(sys.stdin.buffer.readline, b""):
        request = json.loads(line)
        status = _in_fork([str(word) for word in request["argv"]], str(request["content"]))
        print(json.dumps({"event": "end", "status": status}), flush=True)


def _in_fork(argv: list[str], content: str) -> int:
    """The exit status of the command, run in a process of its own: it cannot spoil the next one."""
    from refloat.controller.main import main

    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        sys.stdin = io.TextIOWrapper(io.BytesIO(content.encode()))
        status = main(argv)
        sys.stdout.flush()
    finally:
        os._exit(status)
