"""What was made for targets through their platforms' API. Every call is one short transaction."""

from __future__ import annotations

from sqlalchemy.orm import Session

from refloat.codec import decode, encode
from refloat.model import Provision
from refloat.store.store import Store
from refloat.store.tables import ProvisionRow


def load_provision(store: Store, target: str) -> Provision | None:
    """None where nothing was ever made for it, or all of that was removed again."""
    with Session(store.engine) as session:
        row = session.get(ProvisionRow, target)
        return None if row is None else decode(Provision, row.data, where=target)


def save_provision(store: Store, target: str, provision: Provision) -> None:
    with Session(store.engine) as session, session.begin():
        session.merge(ProvisionRow(target=target, data=encode(provision)))


def drop_provision(store: Store, target: str) -> None:
    """Idempotent."""
    with Session(store.engine) as session, session.begin():
        row = session.get(ProvisionRow, target)
        if row is not None:
            session.delete(row)
