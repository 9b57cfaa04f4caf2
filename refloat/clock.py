"""The one way to say when: ISO 8601, UTC, milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def before(at: str, seconds: float) -> str:
    """The instant so many seconds earlier."""
    moment = datetime.fromisoformat(at) - timedelta(seconds=seconds)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
