"""Secrets that the estate names are kept sealed; what a session's forms show follows from its cookie."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(), primary_key=True),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("sealed", "changed", "who")),
    )
    with op.batch_alter_table("sessions") as sessions:
        sessions.drop_column("csrf")
