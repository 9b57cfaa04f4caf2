"""The log of every decision: by whom, when, why. It only grows, and each entry seals all before it.

Whoever changes, removes or adds an entry in the middle changes every hash after it. Who can write the whole
database can write a new log: note the newest hash elsewhere from time to time, `verify` compares with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from refloat.clock import now
from refloat.errors import Refused
from refloat.store.postgres import storable
from refloat.store.tables import AuditRow

# The network address that the request under way came from; empty for what the hub does by itself.
ORIGIN: ContextVar[str] = ContextVar("origin", default="")

_START = "refloat-audit"
_AT_ONCE = 1000  # entries in memory while the log is verified


@dataclass(frozen=True)
class AuditRecord:
    id: int
    at: str
    who: str
    origin: str
    what: str
    subject: str
    reason: str
    data: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class Verified:
    """`head` is the newest hash: it seals the whole log up to here."""

    entries: int
    head: str


class Audit:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, who: str, what: str, subject: str, reason: str = "", **data: Any) -> None:
        """Appends one entry. The writers come one after another, so that the chain has no forks. What is
        sealed is what every database gives back as it was."""
        with Session(self._engine) as session, session.begin():
            self._alone(session)
            before = session.scalars(select(AuditRow).order_by(AuditRow.id.desc()).limit(1)).first()
            row = AuditRow(
                id=before.id + 1 if before else 1,
                at=now(),
                who=storable(who),
                origin=ORIGIN.get(),
                what=what,
                subject=storable(subject),
                reason=storable(reason),
                data=storable(data),
            )
            row.sha256 = _sealed(before.sha256 if before else _START, row)
            session.add(row)

    def _alone(self, session: Session) -> None:
        sqlite = self._engine.dialect.name == "sqlite"
        session.execute(text("BEGIN IMMEDIATE" if sqlite else "LOCK TABLE audit IN EXCLUSIVE MODE"))

    def entries(self, before: int = 0, limit: int = 50, subject: str = "") -> Sequence[AuditRecord]:
        """Newest first, those older than the entry `before` (0: from the newest)."""
        wanted = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if before:
            wanted = wanted.where(AuditRow.id < before)
        if subject:
            wanted = wanted.where(AuditRow.subject == subject)
        with Session(self._engine) as session:
            return [_record(row) for row in session.scalars(wanted)]

    def verify(self, known_head: str = "") -> Verified:
        """Raises Refused (audit_changed) naming the first entry that is not what was written, or where an
        earlier noted `known_head` is nowhere in the log: then its end was cut off or rewritten."""
        before, last, seen = _START, 0, not known_head
        with Session(self._engine) as session:
            while rows := session.scalars(
                select(AuditRow).where(AuditRow.id > last).order_by(AuditRow.id).limit(_AT_ONCE)
            ).all():
                for row in rows:
                    if row.id != last + 1:
                        raise _changed(f"entry {last + 1} is missing")
                    if row.sha256 != _sealed(before, row):
                        raise _changed(f"entry {row.id} ({row.what} by {row.who}) is not what was written")
                    before, last = row.sha256, row.id
                    seen = seen or before == known_head
                session.expunge_all()
        if not seen:
            raise _changed(f"the hash {known_head[:16]} that was noted is in none of its {last} entries")
        return Verified(last, before)

    def __len__(self) -> int:
        with Session(self._engine) as session:
            return session.scalar(select(func.count()).select_from(AuditRow)) or 0


def _sealed(before: str, row: AuditRow) -> str:
    fields = [row.id, row.at, row.who, row.origin, row.what, row.subject, row.reason, row.data]
    return hashlib.sha256(json.dumps([before, *fields], sort_keys=True).encode()).hexdigest()


def _record(row: AuditRow) -> AuditRecord:
    return AuditRecord(
        row.id, row.at, row.who, row.origin, row.what, row.subject, row.reason, row.data, row.sha256
    )


def _changed(how: str) -> Refused:
    return Refused(
        f"the audit log was changed: {how}",
        code="audit_changed",
        hint="compare with a backup of the hub's store, and find out who could write to it",
    )
