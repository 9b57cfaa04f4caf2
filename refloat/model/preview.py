"""What a failover would do, worked out beforehand and kept with its age."""

from __future__ import annotations

from dataclasses import dataclass

from refloat.model.guest import ChangeKind
from refloat.model.job import Plan


@dataclass(frozen=True)
class IntendedChange:
    """A file that an adaptation would change, in a line. Of a registry hive `values` are those inside it,
    as "KEY: NAME". `size` is what the file would have, in bytes."""

    path: str
    kind: ChangeKind
    new: bool
    size: int
    reason: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Intended:
    """The changes of an adaptation that was made on views which were thrown away; `more` are not listed."""

    changes: tuple[IntendedChange, ...] = ()
    more: int = 0


@dataclass(frozen=True)
class Preview:
    """`plan` is that of a planned failover of the sync point `point`. `intended` was worked out at
    `intended_at`, from what `basis` (a hash) stands for; None: nothing would be changed, or `trouble` is why
    it is not known."""

    at: str
    point: str
    plan: Plan
    intended: Intended | None = None
    intended_at: str = ""
    basis: str = ""
    trouble: str = ""
