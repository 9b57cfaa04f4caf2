"""Errors that tell the operator what is wrong, where, and what to do next.

Two families, because the difference decides what happens next: *refused* means that nothing was
changed; *failed* means that something may have been, and a rollback has to follow.
"""

from __future__ import annotations

from typing import Any


class RefloatError(Exception):
    """Base of all errors that an operator may see.

    `code` is stable and machine-readable, `message` says what is wrong and where, `hint` what to do next.
    """

    default_code = "error"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind(), "code": self.code, "message": self.message, "hint": self.hint}

    @classmethod
    def kind(cls) -> str:
        return "refused" if issubclass(cls, Refused) else "failed"

    @staticmethod
    def from_dict(data: dict[str, Any]) -> RefloatError:
        """The error that `to_dict` described: how errors cross SSH, the journal and the API."""
        family = Refused if data.get("kind") == "refused" else Failed
        return family(
            str(data.get("message", "unknown error")),
            code=str(data.get("code", "error")),
            hint=str(data.get("hint", "")),
        )


class Refused(RefloatError):
    """A check said no. Nothing was changed."""

    default_code = "refused"


class NotFound(Refused):
    default_code = "not_found"


class Busy(Refused):
    default_code = "busy"


class Failed(RefloatError):
    """An action did not succeed. Something may have been changed."""

    default_code = "failed"


class Unreachable(Failed):
    """The other side did not answer: nothing is known about its state."""

    default_code = "unreachable"


class InvariantViolated(Failed):
    """A safety invariant does not hold; the step that would have relied on it was not run."""

    default_code = "invariant"


class Aborted(Failed):
    """The operator asked for the abort."""

    default_code = "aborted"
