"""Texts of a guest's files before and after an edit: computed by pure functions, written by the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from refloat.errors import Failed
from refloat.guest.journal import Journal

# What is told while it works: the name of the step, and its figures.
Progress = Callable[[str, dict[str, object]], None]


@dataclass(frozen=True)
class Edit:
    """One name replaced: line number from 1, the old name and the new one."""

    line: int
    old: str
    new: str


@dataclass(frozen=True)
class Rewritten:
    """A text after its edits; `problems` say which names could not be mapped, `warnings` are harmless."""

    text: str
    edits: tuple[Edit, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def rewrite(journal: Journal, path: str, old: str, done: Rewritten, reason: str) -> int:
    """Writes a text after its edits; returns their number."""
    if done.problems:
        raise Failed(
            "; ".join(done.problems), code="guest_names", hint="the guest differs from what was inspected"
        )
    if done.edits:
        journal.write_text(path, done.text, reason, expect=old)
    return len(done.edits)
