"""Every attempt at a step is kept: until now a step had one row, and a new attempt cleared the last error.

What the earlier attempts came to is read back from the events. Where those do not tell, only the last attempt
is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_STEPS = sa.table(
    "job_steps",
    sa.column("id"),
    sa.column("job"),
    sa.column("step"),
    sa.column("phase"),
    sa.column("started"),
    sa.column("finished"),
    sa.column("attempts"),
    sa.column("error", sa.JSON),
)
_EVENTS = sa.table(
    "events",
    sa.column("id"),
    sa.column("job"),
    sa.column("at"),
    sa.column("kind"),
    sa.column("data", sa.JSON),
)


def upgrade() -> None:
    attempts = op.create_table(
        "job_attempts",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("job", sa.String(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started", sa.String(), nullable=False),
        sa.Column("finished", sa.String(), nullable=False),
        sa.Column("error", sa.JSON()),
        sa.UniqueConstraint("job", "step", "phase", "number", name="uq_job_attempts"),
    )
    connection = op.get_bind()
    told = _told(connection)
    for row in connection.execute(sa.select(_STEPS).order_by(_STEPS.c.id)).mappings().all():
        place = {name: row[name] for name in ("job", "step", "phase")}
        for attempt in _attempts(row, told[row["job"], row["step"], row["phase"]]):
            connection.execute(sa.insert(attempts).values(**place, **attempt))
    op.drop_table("job_steps")


def _told(connection: sa.Connection) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """By job, step and phase: the attempts as the events tell them."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    query = sa.select(_EVENTS).where(_EVENTS.c.kind.in_(("step", "step_done"))).order_by(_EVENTS.c.id)
    for event in connection.execute(query).mappings():
        data = event["data"]
        attempts = found[event["job"], str(data.get("step")), str(data.get("phase"))]
        if event["kind"] == "step":
            attempts.append({"started": event["at"], "finished": "", "error": None})
        elif attempts:
            attempts[-1].update(finished=event["at"], error=data.get("error"))
    return found


def _attempts(row: sa.RowMapping, told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The row itself is right about the first attempt's start and the last one's outcome."""
    outcome = {"finished": row["finished"], "error": row["error"] or None}
    if len(told) != row["attempts"]:
        return [{"number": row["attempts"], "started": row["started"], **outcome}]
    attempts = [{"number": number, **attempt} for number, attempt in enumerate(told, 1)]
    attempts[0]["started"] = row["started"]
    attempts[-1].update(outcome)
    return attempts
