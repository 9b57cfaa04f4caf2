"""Every estate that was applied: the text as it was written, by whom, when and why. None is ever changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from refloat.clock import now
from refloat.errors import NotFound
from refloat.store.postgres import storable
from refloat.store.tables import EstateRow


@dataclass(frozen=True)
class Applied:
    """`number` counts from 1; `sha256` is of the text, in UTF-8."""

    number: int
    sha256: str
    at: str
    who: str
    reason: str


class EstateVersions:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def newest(self) -> Applied | None:
        found = self.versions(limit=1)
        return found[0] if found else None

    def versions(self, before: int = 0, limit: int = 50) -> Sequence[Applied]:
        """Newest first, those older than the version `before` (0: from the newest)."""
        columns = (EstateRow.number, EstateRow.sha256, EstateRow.at, EstateRow.who, EstateRow.reason)
        wanted = select(*columns).order_by(EstateRow.number.desc()).limit(limit)
        if before:
            wanted = wanted.where(EstateRow.number < before)
        with Session(self._engine) as session:
            return [Applied(*row) for row in session.execute(wanted)]

    def read(self, number: int) -> tuple[Applied, str]:
        """The version and its text. Raises NotFound (unknown_version)."""
        with Session(self._engine) as session:
            row = session.get(EstateRow, number)
            if row is None:
                raise NotFound(
                    f"there is no version {number} of the estate",
                    code="unknown_version",
                    hint="list them with `refloat estate versions`",
                )
            return Applied(row.number, row.sha256, row.at, row.who, row.reason), row.text

    def add(self, number: int, text: str, who: str, reason: str) -> Applied:
        """`number` is one more than the newest has."""
        made = Applied(number, digest(text), now(), storable(who), storable(reason))
        with Session(self._engine) as session, session.begin():
            session.add(EstateRow(text=text, **vars(made)))
        return made


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
