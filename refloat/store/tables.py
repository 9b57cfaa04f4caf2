"""The hub's tables. What a job decided and did is kept as records, so that a restart loses nothing."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON, bytes: LargeBinary}  # noqa: RUF012 (SQLAlchemy's form)


class TargetRow(Base):
    __tablename__ = "targets"

    name: Mapped[str] = mapped_column(String, primary_key=True)
    state: Mapped[str]
    holder: Mapped[str] = mapped_column(default="")  # the job or sync that the target is busy with
    message: Mapped[str] = mapped_column(default="")
    sync_point: Mapped[dict[str, Any] | None]
    progress: Mapped[dict[str, Any] | None]
    paused: Mapped[bool] = mapped_column(default=False)
    sync_started: Mapped[str] = mapped_column(default="")  # of the last attempt, complete or not
    inventory: Mapped[dict[str, Any] | None]  # the protected VM's hardware at the last sync
    readiness: Mapped[dict[str, Any] | None]
    health: Mapped[dict[str, Any] | None]  # of its controller, when it was last asked
    health_state: Mapped[str] = mapped_column(default="")


class JobRow(Base):
    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String, primary_key=True)
    target: Mapped[str] = mapped_column(index=True)
    mode: Mapped[str]
    state: Mapped[str]
    created: Mapped[str]
    finished: Mapped[str] = mapped_column(default="")
    abort_requested: Mapped[bool] = mapped_column(default=False)
    error: Mapped[dict[str, Any] | None]

    __table_args__ = (Index("ix_jobs_created", "created", "id"),)


class RecordRow(Base):
    __tablename__ = "job_records"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[dict[str, Any]]


class AttemptRow(Base):
    """One attempt at one phase of a step. It is written before the step acts, so one without `finished` may
    have acted; if a later attempt follows it, the hub died in it."""

    __tablename__ = "job_attempts"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    step: Mapped[str]
    phase: Mapped[str]  # "do", "undo" or "commit"
    number: Mapped[int]  # from 1
    started: Mapped[str]
    finished: Mapped[str] = mapped_column(default="")
    error: Mapped[dict[str, Any] | None]

    __table_args__ = (UniqueConstraint("job", "step", "phase", "number", name="uq_job_attempts"),)


class EventRow(Base):
    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[str]
    at: Mapped[str]
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]

    __table_args__ = (Index("ix_events_job_id", "job", "id"),)


class UserRow(Base):
    """A person. Without `password` (an Argon2 hash) only tokens let them in."""

    __tablename__ = "users"

    name: Mapped[str] = mapped_column(String, primary_key=True)
    role: Mapped[str]
    password: Mapped[str] = mapped_column(default="")
    disabled: Mapped[bool] = mapped_column(default=False)
    created: Mapped[str]


class TokenRow(Base):
    """An API token. `secret` is its SHA-256: what was given out has 256 random bits."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String, primary_key=True)
    owner: Mapped[str] = mapped_column(ForeignKey("users.name"))
    label: Mapped[str]
    role: Mapped[str]
    scopes: Mapped[str] = mapped_column(default="")  # words with a space between; empty: all of the role
    secret: Mapped[str]
    created: Mapped[str]
    expires: Mapped[str]
    used: Mapped[str] = mapped_column(default="")
    revoked: Mapped[str] = mapped_column(default="")


class SessionRow(Base):
    """Somebody who logged in on the page. `id` is the SHA-256 of the cookie."""

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String, primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("users.name"))
    created: Mapped[str]
    seen: Mapped[str]


class AuditRow(Base):
    """Append-only: triggers refuse every change. `sha256` is over the one before and this row."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[str]
    who: Mapped[str]
    origin: Mapped[str]  # the network address that it came from; empty for the hub itself
    what: Mapped[str]
    subject: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str]
    data: Mapped[dict[str, Any]]
    sha256: Mapped[str]


class ApprovalRow(Base):
    """The first person's word, where a decision needs two."""

    __tablename__ = "approvals"

    subject: Mapped[str] = mapped_column(String, primary_key=True)  # a job, or a target before there is one
    what: Mapped[str] = mapped_column(String, primary_key=True)
    who: Mapped[str]
    at: Mapped[str]
    reason: Mapped[str]


class StartRow(Base):
    """A start that was asked for with a key of the client's own: asked again, it is the same job."""

    __tablename__ = "starts"

    who: Mapped[str] = mapped_column(String, primary_key=True)
    key: Mapped[str] = mapped_column(String, primary_key=True)
    asked: Mapped[str]  # SHA-256 of what was asked for
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    at: Mapped[str]


class InboxRow(Base):
    """A report that came by HTTPS: sealed, for its guest's token is in it."""

    __tablename__ = "report_inbox"

    job: Mapped[str] = mapped_column(String, primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    line: Mapped[bytes]


class SecretRow(Base):
    """A secret that the estate names: sealed, see seal.py."""

    __tablename__ = "secrets"

    name: Mapped[str] = mapped_column(String, primary_key=True)
    sealed: Mapped[str]
    changed: Mapped[str]
    who: Mapped[str]


class EstateRow(Base):
    """An estate that was applied, as it was written."""

    __tablename__ = "estates"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str]
    sha256: Mapped[str]
    at: Mapped[str]
    who: Mapped[str]
    reason: Mapped[str]


class ProvisionRow(Base):
    """What was made for a target through its platform's API."""

    __tablename__ = "provisions"

    target: Mapped[str] = mapped_column(String, primary_key=True)
    data: Mapped[dict[str, Any]]


class OutboxRow(Base):
    """A notice for one channel. It is written together with what it tells of: see outbox.py."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    channel: Mapped[str]
    notice: Mapped[dict[str, Any]]
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    next_try: Mapped[str]
    created: Mapped[str]
    error: Mapped[str] = mapped_column(default="")  # of the last attempt
    ended: Mapped[str] = mapped_column(default="")  # when it was delivered, or given up

    __table_args__ = (Index("ix_outbox_due", "channel", "state", "next_try"),)


class AlarmRow(Base):
    """What is wrong with a target and has been told; it goes when that is over."""

    __tablename__ = "alarms"

    target: Mapped[str] = mapped_column(String, primary_key=True)
    alarm: Mapped[str] = mapped_column(String, primary_key=True)
    since: Mapped[str]
