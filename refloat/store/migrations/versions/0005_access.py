"""Users, tokens, sessions, the audit log that only grows, and starts with a key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_REFUSE = "RAISE(ABORT, 'the audit log only grows')"


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("role", sa.String(), nullable=False),
        _text("password"),
        sa.Column("disabled", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("created", sa.String(), nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("owner", sa.String(), sa.ForeignKey("users.name"), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("label", "role")),
        _text("scopes"),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("secret", "created", "expires")),
        _text("used"),
        _text("revoked"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("user", sa.String(), sa.ForeignKey("users.name"), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("csrf", "created", "seen")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        *(
            sa.Column(name, sa.String(), nullable=False)
            for name in ("at", "who", "origin", "what", "subject", "reason")
        ),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
    )
    op.create_index("ix_audit_subject", "audit", ["subject"])
    op.create_table(
        "approvals",
        sa.Column("subject", sa.String(), primary_key=True),
        sa.Column("what", sa.String(), primary_key=True),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("who", "at", "reason")),
    )
    op.create_table(
        "starts",
        sa.Column("who", sa.String(), primary_key=True),
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("asked", sa.String(), nullable=False),
        sa.Column("job", sa.String(), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("at", sa.String(), nullable=False),
    )
    op.create_index("ix_jobs_created", "jobs", ["created", "id"])
    _only_grows()


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, server_default="")


def _only_grows() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{action.lower()} BEFORE {action} ON audit "
                f"BEGIN SELECT {_REFUSE}; END"
            )
        return
    op.execute(
        "CREATE FUNCTION audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log only grows'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_only_grows()"
    )
