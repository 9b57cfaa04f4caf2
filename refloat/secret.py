"""Secrets that the estate only names: a file, an environment variable, or one that the hub keeps sealed.

Read when needed, never shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from refloat.errors import Refused

_LONGEST = 64 * 1024


Opened = Callable[[str], str]  # a sealed secret by its name; raises NotFound, Refused


def none_sealed(name: str) -> str:
    """Where there is no hub's store to look in."""
    raise Refused(
        f"the sealed secret {name} is the hub's", code="secret", hint="name a file or a variable here"
    )


@dataclass(frozen=True)
class SecretRef:
    """Exactly one of the three is set."""

    file: str = ""
    env: str = ""
    sealed: str = ""
    opened: Opened = field(default=none_sealed, repr=False, compare=False)

    def __str__(self) -> str:
        if self.sealed:
            return f"the sealed secret {self.sealed}"
        return f"the file {self.file}" if self.file else f"the environment variable {self.env}"

    def read(self) -> str:
        """The secret, without the newline at its end. Raises Refused (secret); no error quotes any of it."""
        if self.sealed:
            return self.opened(self.sealed)
        try:
            text = self._file() if self.file else os.environ.get(self.env, "")
        except OSError as error:
            raise self._missing(error.strerror or type(error).__name__) from None
        except UnicodeDecodeError:
            raise self._missing("it is not UTF-8 text") from None
        if not text:
            raise self._missing("it is empty or not set")
        return text

    def _file(self) -> str:
        path = Path(self.file)
        if path.exists() and not path.is_file():  # to open a pipe would wait for its writer
            raise self._missing("it is not a plain file")
        with path.open("rb") as opened:
            content = opened.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise self._missing("it is too large")
        return content.decode().removesuffix("\n").removesuffix("\r")

    def _missing(self, why: str) -> Refused:
        return Refused(
            f"no secret in {self}: {why}",
            code="secret",
            hint="put it there, readable for the hub and for nobody else",
        )
