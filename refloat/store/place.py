"""Where the hub's store and the job engine's journal are: two SQLite files, or one PostgreSQL database."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine

from refloat.store.postgres import HubLock, Server
from refloat.store.seal import Keys
from refloat.store.store import Store

STORE_FILE, JOBS_FILE = "refloat.sqlite", "jobs.sqlite"


class Place(Protocol):
    def store(self) -> Store:
        """Opened and brought to the newest schema."""

    def journal(self) -> Path | Engine:
        """What the job engine is given: see jobs/engine.py."""

    def close(self) -> None:
        """Lets go of it: another hub may have it now."""


def _private(file: Path) -> None:
    """For the owner alone, whatever the umask was and whoever may enter the folder: in it are the hashes of
    passwords and tokens. SQLite gives the files beside it (-wal, -shm) the same mode."""
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    for one in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
        if one.exists():
            one.chmod(0o600)


class Files:
    def __init__(self, folder: Path, keys: Keys) -> None:
        self._folder, self._keys = folder, keys
        for name in (STORE_FILE, JOBS_FILE):
            _private(folder / name)

    def store(self) -> Store:
        return Store.open(self._folder / STORE_FILE, self._keys)

    def journal(self) -> Path | Engine:
        return self._folder / JOBS_FILE

    def close(self) -> None:
        """The lock on the folder is the hub's."""


class Database:
    """Raises Refused (store_unreachable), Busy (hub_running)."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server, self._keys = server, keys
        server.require_answer()
        self._lock = HubLock(server)
        self._lock.take()

    def store(self) -> Store:
        engine = self._server.store_engine()
        self._lock.guard(engine)
        return Store.on(engine, self._keys)

    def journal(self) -> Path | Engine:
        engine = self._server.engine(pool_size=20, max_overflow=0)
        self._lock.guard(engine)
        return engine

    def close(self) -> None:
        self._lock.close()


def reading(folder: Path, url: str, password_file: Path | None) -> Engine | None:
    """For looking only, beside a hub that may be using it: nothing is locked or upgraded. None: no store."""
    if url:
        return Server(url, password_file).engine()
    file = folder / STORE_FILE
    return create_engine(f"sqlite:///file:{file}?mode=ro&uri=true") if file.exists() else None


def place(folder: Path, url: str, password_file: Path | None, keys: Keys) -> Place:
    """`url` empty: files in `folder`."""
    return Database(Server(url, password_file), keys) if url else Files(folder, keys)
