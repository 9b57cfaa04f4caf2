"""Whether a SQLite file may be opened for writing: a damaged one is left as it is."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from refloat.errors import Refused

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def require_sound(file: Path, wait: float = 30.0) -> None:
    """Raises Refused (store_damaged) for a file that is no database, or a damaged one. It is only read. What
    else keeps SQLite from reading it within `wait` seconds (a lock) is left to whoever opens it."""
    if not file.exists():
        return
    try:
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=wait)
        try:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        # The low byte is the error, the rest says more about it: https://sqlite.org/rescode.html
        if error.sqlite_errorcode & 0xFF not in DAMAGED:
            return
        found = str(error)
    if found != "ok":
        raise Refused(
            f"the hub's store {file} is damaged: {found}",
            code="store_damaged",
            hint="nothing was changed; keep it with its -wal and -shm, and put a backup in its place",
        )
