"""Which rows are sealed, and that all of them are: with the newest key, since the hub's start."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from refloat.errors import Refused
from refloat.model import FINAL
from refloat.store.seal import FORM, Keys, Seal, is_sealed
from refloat.store.tables import InboxRow, JobRow, RecordRow, SecretRow

log = logging.getLogger(__name__)

RECORDS = frozenset({"secrets"})  # of a job: what its guest proves itself with


def record_place(job: str, name: str) -> str:
    return f"{name} of job {job}"


def line_place(job: str, sequence: int) -> str:
    return f"report {sequence} of job {job}"


def secret_place(name: str) -> str:
    return f"secret {name}"


def sealed_record(seal: Seal, job: str, name: str, value: Any) -> dict[str, str]:
    return {"sealed": seal.close(record_place(job, name), json.dumps(value).encode())}


def opened_record(seal: Seal, row: RecordRow) -> Any:
    return json.loads(seal.open(record_place(row.job, row.name), row.data["sealed"]))


def take_seal(engine: Engine, keys: Keys) -> Seal:
    """The store's seal, made where nothing was sealed yet. What is not sealed with the newest key is now.

    Raises Refused (seal_key): the keys are gone, and with them every secret of this store.
    """
    with Session(engine) as session, session.begin():
        rows = list(_rows(session))
        seal = keys.read()
        if seal is None:
            if any(is_sealed(row.text) for row in rows):
                raise Refused(
                    f"the key {keys.file} is not there, and this store has secrets that it sealed",
                    code="seal_key",
                    hint="put it back; if it is lost for good: refloat secret new-key, then set them anew",
                )
            seal = keys.make()
        for row in rows:
            _reseal(row, seal)
    return seal


def unreadable(engine: Engine, seal: Seal | None) -> list[str]:
    """What is sealed and cannot be opened with these keys."""
    with Session(engine) as session:
        return [row.where for row in _rows(session) if is_sealed(row.text) and not _opens(row, seal)]


def _opens(row: _Row, seal: Seal | None) -> bool:
    try:
        return seal is not None and bool(seal.open(row.where, row.text))
    except Refused:
        return False


@dataclass(frozen=True)
class _Row:
    """One sealed text, or one from before there were seals."""

    where: str
    text: str
    put: Callable[[str], None]


def _rows(session: Session) -> Iterator[_Row]:
    for record in session.scalars(select(RecordRow).where(RecordRow.name.in_(RECORDS))):
        yield _Row(
            record_place(record.job, record.name),
            record.data.get("sealed") or json.dumps(record.data["value"]),
            lambda text, row=record: setattr(row, "data", {"sealed": text}),  # type: ignore[misc]
        )
    waiting = select(JobRow.id).where(JobRow.state.not_in(FINAL))  # the lines of others are of no use
    for line in session.scalars(select(InboxRow).where(InboxRow.job.in_(waiting))):
        yield _Row(
            line_place(line.job, line.sequence),
            line.line.decode("utf-8", "surrogateescape"),
            lambda text, row=line: setattr(row, "line", text.encode()),  # type: ignore[misc]
        )
    for secret in session.scalars(select(SecretRow).where(SecretRow.sealed.startswith(FORM))):
        yield _Row(
            secret_place(secret.name),
            secret.sealed,
            lambda text, row=secret: setattr(row, "sealed", text),  # type: ignore[misc]
        )


def _reseal(row: _Row, seal: Seal) -> None:
    if seal.is_current(row.text):
        return
    try:
        known = is_sealed(row.text)
        content = seal.open(row.where, row.text) if known else row.text.encode("utf-8", "surrogateescape")
    except Refused as error:
        log.warning("%s", error.message)  # what needs it will be refused, and the hub starts
        return
    row.put(seal.close(row.where, content))
