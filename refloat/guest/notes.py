"""What an inspection notes on its way, beside the facts."""

from __future__ import annotations

from dataclasses import dataclass, field

from refloat.guest.linux.edits import Rewritten


@dataclass
class Notes:
    """`problems` say why the guest cannot be adapted, `unstable` which names follow the disk bus."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unstable: list[str] = field(default_factory=list)

    def take(self, path: str, done: Rewritten) -> None:
        self.problems += done.problems
        self.warnings += done.warnings
        self.unstable += [f"{path}:{edit.line} {edit.old}" for edit in done.edits]
