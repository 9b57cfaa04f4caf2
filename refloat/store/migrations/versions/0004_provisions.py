"""Targets whose controller was made through the platform's API: the wish, and what became of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "provisions",
        sa.Column("target", sa.String(), primary_key=True),
        sa.Column("data", sa.JSON(), nullable=False),
    )
