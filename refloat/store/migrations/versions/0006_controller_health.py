"""Targets keep how their controller was when it was last asked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    with op.batch_alter_table("targets") as targets:
        targets.add_column(sa.Column("health", sa.JSON()))
        targets.add_column(sa.Column("health_state", sa.String(), nullable=False, server_default=""))
