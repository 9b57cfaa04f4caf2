"""Reports that came by HTTPS, until the reporting step reads them. Every call is one short transaction."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from refloat.store.sealed import line_place
from refloat.store.store import Store
from refloat.store.tables import InboxRow


def put_line(store: Store, job: str, sequence: int, line: bytes) -> None:
    """Durable when it returns. A sequence number is kept once, its first line."""
    with Session(store.engine) as session, session.begin():
        if session.get(InboxRow, (job, sequence)) is None:
            sealed = store.seal.close(line_place(job, sequence), line)
            session.add(InboxRow(job=job, sequence=sequence, line=sealed.encode()))


def lines_after(store: Store, job: str, sequence: int) -> list[tuple[int, bytes]]:
    """(sequence, line), rising."""
    with Session(store.engine) as session:
        rows = session.scalars(
            select(InboxRow)
            .where(InboxRow.job == job, InboxRow.sequence > sequence)
            .order_by(InboxRow.sequence)
        )
        return [
            (row.sequence, store.seal.open(line_place(job, row.sequence), row.line.decode("ascii")))
            for row in rows
        ]


def count_lines(store: Store, job: str) -> tuple[int, int]:
    """How many lines there are, and the highest sequence number (0 for none)."""
    with Session(store.engine) as session:
        count, highest = session.execute(
            select(func.count(), func.max(InboxRow.sequence)).where(InboxRow.job == job)
        ).one()
        return count, highest or 0
