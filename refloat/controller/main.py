"""`refloat-controller COMMAND ...`: JSON lines on standard output.

Any number of {"event": "progress", ...}, then exactly one {"event": "result", "data": ...} or
{"event": "error", "kind", "code", "message", "hint"}. Each command is a module that is imported only
when it is called, because imports are what a call costs under emulation.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from refloat.controller.paths import Paths
from refloat.errors import Failed, RefloatError, Refused

Progress = Callable[[dict[str, Any]], None]

COMMANDS = ("health", "disks", "sync", "inspect", "drivers", "plan", "adapt", "session")
EXIT_ERROR = 1


def emit(event: str, content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"event": event, **content}) + "\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Runs one command; the exit status is 0 when the last line is a result."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if not arguments or arguments[0] not in COMMANDS:
            raise Refused(
                f"unknown command: {' '.join(arguments) or 'none'}",
                code="usage",
                hint=f"refloat-controller {'|'.join(COMMANDS)}",
            )
        module = import_module(f"refloat.controller.commands.{arguments[0]}")
        data = module.run(Paths.from_environment(), arguments[1:], lambda content: emit("progress", content))
    except RefloatError as error:
        emit("error", error.to_dict())
        return EXIT_ERROR
    except BrokenPipeError:
        os._exit(EXIT_ERROR)  # nobody listens any more
    except Exception as error:
        import traceback

        traceback.print_exc()
        emit("error", _explained(error).to_dict())
        return EXIT_ERROR
    emit("result", {"data": data})
    return 0


def _explained(error: Exception) -> Failed:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Failed(
            "the controller's own disk is full", code="no_space", hint="give it more room, then try again"
        )
    return Failed(
        f"{type(error).__name__}: {error}", code="internal", hint="this is a defect: please report it"
    )
