"""The changes of an adaptation in a line each, bounded: for those who look before it is made."""

from __future__ import annotations

from collections.abc import Sequence

from refloat.model import Change, Intended, IntendedChange, ValueChange

MOST = 200  # changes that are listed
MOST_VALUES = 40  # registry values for each
LONGEST = 300  # characters of a line; names and reasons hold what the guest's files say


def intended(changes: Sequence[Change]) -> Intended:
    """Without contents: no byte of a file and no registry value leaves the guest."""
    return Intended(tuple(_line(one) for one in changes[:MOST]), max(0, len(changes) - MOST))


def _line(change: Change) -> IntendedChange:
    values = tuple(_value(one) for one in change.values[:MOST_VALUES])
    if len(change.values) > MOST_VALUES:
        values = (*values, f"and {len(change.values) - MOST_VALUES} more")
    new, size = change.before is None, change.after.size
    return IntendedChange(_short(change.path), change.kind, new, size, _short(change.reason), values)


def _value(value: ValueChange) -> str:
    if value.name is None:
        what = "key removed" if value.after is None else "new key"
        return _short(f"{value.key}: {what}")
    return _short(f"{value.key}: {value.name or '(default)'}")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
