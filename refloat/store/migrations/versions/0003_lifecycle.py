"""Targets can be paused, sync by schedule, and keep the source's hardware and their readiness."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("targets") as targets:
        targets.add_column(sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.false()))
        targets.add_column(sa.Column("sync_started", sa.String(), nullable=False, server_default=""))
        targets.add_column(sa.Column("inventory", sa.JSON()))
        targets.add_column(sa.Column("readiness", sa.JSON()))
