"""The store in a PostgreSQL database: its connections, its one writer at a time, and its one hub.

The rules of SQLite are kept, so that everything above means the same on both: writers come one after another,
from a transaction's first change to its end (events are never seen out of order, an abort never passes a mark
unseen), and one hub alone uses the database.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from psycopg.abc import Buffer
from psycopg.types.string import StrDumperUnknown
from sqlalchemy import Connection, create_engine, event, make_url, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from refloat.errors import Busy, Refused
from refloat.secret import SecretRef

log = logging.getLogger(__name__)

T = TypeVar("T")

# Any numbers, as long as nothing else in this database locks them.
ONE_HUB, ONE_WRITER = 7_230_001, 7_230_002
TAKEN_WITHIN = 3.0  # seconds: the server may not have noticed yet that the last hub was killed
LOOK_EVERY = 2.0  # seconds
_CONNECT = {"connect_timeout": 10, "application_name": "refloat"}
# A machine that vanished holds the lock for 12 s, not for the two hours of TCP's defaults.
_NOTICED_SOON = "-c tcp_keepalives_idle=6 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"


class _AnyText(StrDumperUnknown):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(storable(obj))


def _json(value: Any) -> str:
    return json.dumps(storable(value))


def storable(value: T) -> T:
    """What PostgreSQL can keep of texts, in any depth: no NUL, no half of a surrogate pair."""
    kept: Any = value
    if isinstance(value, str):
        kept = value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    elif isinstance(value, dict):
        kept = {storable(key): storable(inner) for key, inner in value.items()}
    elif isinstance(value, list | tuple):
        kept = [storable(inner) for inner in value]
    return cast(T, kept)


class Server:
    """`url` is like postgresql://refloat@db.example/refloat, without a password: that is read from
    `password_file` at each connection, else libpq finds it (PGPASSFILE, ~/.pgpass, peer)."""

    def __init__(self, url: str, password_file: Path | None = None) -> None:
        self._url = make_url(url).set(drivername="postgresql+psycopg")
        self._password = SecretRef(file=str(password_file)) if password_file else None

    def __str__(self) -> str:
        return self._url.render_as_string(hide_password=True)

    def engine(self, **options: Any) -> Engine:
        """Connections that died with the server are replaced before they are used."""
        arguments = {**_CONNECT, **options.pop("connect_args", {})}
        engine = create_engine(
            self._url, connect_args=arguments, pool_pre_ping=True, json_serializer=_json, **options
        )

        @event.listens_for(engine, "do_connect")
        def _with_password(_dialect: Any, _record: Any, _arguments: Any, wanted: dict[str, Any]) -> None:
            if self._password is not None:
                wanted["password"] = self._password.read()

        @event.listens_for(engine, "connect")
        def _any_text(connection: Any, _record: Any) -> None:
            connection.adapters.register_dumper(str, _AnyText)

        return engine

    def store_engine(self) -> Engine:
        engine = self.engine()

        @event.listens_for(engine, "before_cursor_execute")
        def _one_writer(
            _connection: Any, cursor: Any, _statement: Any, _parameters: Any, context: Any, _many: Any
        ) -> None:
            # A statement of its own: the one that follows sees all that the last writer did.
            if context is not None and (context.isinsert or context.isupdate or context.isdelete):
                cursor.execute(f"SELECT pg_advisory_xact_lock({ONE_WRITER})")

        return engine

    def require_answer(self) -> None:
        """Raises Refused (store_unreachable)."""
        engine = self.engine(poolclass=NullPool)
        try:
            with engine.connect():
                return
        except OperationalError as error:
            raise Refused(
                f"the store {self} cannot be used: {str(error.orig).strip()}",
                code="store_unreachable",
                hint="nothing was changed; see that PostgreSQL runs, and `store` and its password",
            ) from None


class HubLock:
    """That one hub alone uses the database, on whatever machine.

    The server forgets the lock with the connection that took it. All connections end when the server does, so
    a hub gets new ones (`guard`) only after it took the lock again. Where the lock's own connection alone is
    lost, a watch takes it again. Where another hub has the lock meanwhile, `lost` ends this one.
    """

    def __init__(self, server: Server, lost: Callable[[], None] | None = None) -> None:
        self._server = server
        self._engine = server.engine(
            poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args={"options": _NOTICED_SOON}
        )
        self._lost = lost or _end
        self._connection: Connection | None = None
        self._mutex = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hub-lock", daemon=True)

    def take(self) -> None:
        """At the hub's start. Raises Busy (hub_running)."""
        deadline = time.monotonic() + TAKEN_WITHIN
        while True:
            try:
                self.hold()
                break
            except Busy:
                if time.monotonic() > deadline:
                    raise
                self._stopping.wait(0.1)
        self._thread.start()

    def guard(self, engine: Engine) -> None:
        event.listen(engine, "connect", lambda *_: self.hold())

    def hold(self) -> None:
        """Makes sure that the lock is held. Raises Busy (hub_running) where another hub has it,
        OperationalError where the server does not answer."""
        with self._mutex:
            if self._connection is not None and self._answers(self._connection):
                return
            connection = self._engine.connect()
            if not connection.scalar(text(f"SELECT pg_try_advisory_lock({ONE_HUB})")):
                connection.close()
                raise Busy(
                    f"another hub is using {self._server}",
                    code="hub_running",
                    hint="stop it first, or give this one another database",
                )
            self._connection = connection

    def _answers(self, connection: Connection) -> bool:
        try:
            connection.execute(text("SELECT 1"))
            return True
        except DBAPIError:
            connection.invalidate()
            connection.close()
            self._connection = None
            return False

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_EVERY):
            try:
                self.hold()
            except Busy as error:
                log.critical("%s: this one ends", error.message)
                self._lost()
                return
            except DBAPIError as error:
                log.error("the store %s does not answer: %s", self._server, type(error).__name__)

    def close(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        self._engine.dispose()


def _end() -> None:
    """At once, like a kill: the other hub has taken up this one's jobs."""
    logging.shutdown()
    os._exit(1)
