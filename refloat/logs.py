"""The hub's log: lines for people or JSON for collectors, each with the job, step, target or request within
which it was written."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from textwrap import indent
from typing import Any

from refloat.text import safe

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
CHATTY = ("uvicorn", "alembic", "httpx")

_within: ContextVar[dict[str, str]] = ContextVar("_within")


@contextmanager
def within(**what: str) -> Iterator[None]:
    """What is logged inside, in this thread and in the tasks that it starts, says so: `job`, `step`, ..."""
    token = _within.set({**_within.get({}), **what})
    try:
        yield
    finally:
        _within.reset(token)


class TextLines(logging.Formatter):
    """One line an event, but for tracebacks, which are moved in. What others wrote, such as the path of a
    request or the text of an error, makes no line of its own and moves no cursor."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        said = " ".join(f"{name}={value}" for name, value in _within.get({}).items())
        return safe(super().formatMessage(record) + (f" [{said}]" if said else ""))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return indent(safe(super().formatException(ei), keep="\n\t"), "  ", lambda line: True)


class JsonLines(logging.Formatter):
    """One object a line: `at` (UTC), `level`, `logger`, `message`, what it was within, and `error`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_within.get({}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(level: str, form: str) -> None:
    """To the standard error, from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
