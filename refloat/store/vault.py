"""Secrets that the estate names with `sealed`: set by an administrator, opened by the hub alone."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from refloat.clock import now
from refloat.errors import NotFound, Refused
from refloat.store.seal import Seal
from refloat.store.sealed import secret_place
from refloat.store.tables import SecretRow

LONGEST = 64 * 1024  # characters


@dataclass(frozen=True)
class SecretInfo:
    """All that is shown of a secret."""

    name: str
    changed: str
    who: str


class Vault:
    def __init__(self, engine: Engine, seal: Seal) -> None:
        self._engine, self._seal = engine, seal

    def put(self, name: str, value: str, who: str) -> SecretInfo:
        """Sets it, or sets it anew. Who uses it reads the new one when they next log in."""
        if not value or len(value) > LONGEST:
            raise Refused(
                f"the secret {name} is empty or longer than {LONGEST} characters",
                code="bad_secret",
                hint="nothing was changed; give it on standard input",
            )
        sealed = self._seal.close(secret_place(name), value.encode())
        with Session(self._engine) as session, session.begin():
            row = session.merge(SecretRow(name=name, sealed=sealed, changed=now(), who=who))
            return _info(row)

    def all(self) -> list[SecretInfo]:
        with Session(self._engine) as session:
            return [_info(row) for row in session.scalars(select(SecretRow).order_by(SecretRow.name))]

    def remove(self, name: str) -> SecretInfo:
        with Session(self._engine) as session, session.begin():
            row = self._known(session, name)
            session.delete(row)
            return _info(row)

    def read(self, name: str) -> str:
        """Raises NotFound, Refused (sealed)."""
        with Session(self._engine) as session:
            return self._seal.open(secret_place(name), self._known(session, name).sealed).decode()

    @staticmethod
    def _known(session: Session, name: str) -> SecretRow:
        row = session.get(SecretRow, name)
        if row is None:
            raise NotFound(
                f"there is no sealed secret {name}", code="unknown_secret", hint=f"refloat secret set {name}"
            )
        return row


def _info(row: SecretRow) -> SecretInfo:
    return SecretInfo(row.name, row.changed, row.who)
