"""Notices wait in the store until they are delivered; what is wrong with a target is told once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("notice", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("next_try", "created", "error", "ended")),
    )
    op.create_index("ix_outbox_due", "outbox", ["channel", "state", "next_try"])
    op.create_table(
        "alarms",
        sa.Column("target", sa.String(), primary_key=True),
        sa.Column("alarm", sa.String(), primary_key=True),
        sa.Column("since", sa.String(), nullable=False),
    )
