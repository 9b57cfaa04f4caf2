"""Secrets at rest: sealed with a key that is kept apart, so that a copy of the store tells none of them.

AES-256-GCM with a random nonce of 96 bits (NIST SP 800-38D: good for 2^32 seals under one key). The name of
the row is authenticated with it: a sealed text that is moved to another row does not open there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from refloat.errors import Refused

ENVIRONMENT = "REFLOAT_SEAL_KEY"
FORM = "sealed1"
_KEY, _NONCE, _LONGEST = 32, 12, 4096  # bytes


class Seal:
    """The first key seals; every key opens what it sealed."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {_id(key): AESGCM(key) for key in keys}
        self._first = _id(keys[0])

    def close(self, where: str, content: bytes) -> str:
        """ASCII text, another one at each call."""
        nonce = os.urandom(_NONCE)
        sealed = nonce + self._keys[self._first].encrypt(nonce, content, where.encode())
        return f"{FORM}:{self._first}:{base64.b64encode(sealed).decode()}"

    def open(self, where: str, text: str) -> bytes:
        """Raises Refused (sealed): by another key, for another row, or damaged."""
        form, _, rest = text.partition(":")
        name, _, sealed = rest.partition(":")
        key = self._keys.get(name)
        if form != FORM or key is None:
            raise _unreadable(where, f"it was sealed with the key {name[:16]!r}, which is not here")
        try:
            content = base64.b64decode(sealed, validate=True)
            return key.decrypt(content[:_NONCE], content[_NONCE:], where.encode())
        except (InvalidTag, binascii.Error, ValueError):
            raise _unreadable(where, "it is damaged, or was another row's") from None

    def is_current(self, text: str) -> bool:
        return text.startswith(f"{FORM}:{self._first}:")


def is_sealed(text: str) -> bool:
    return text.startswith(f"{FORM}:")


@dataclass(frozen=True)
class Keys:
    """Where the keys are: the environment variable, else `file`. One a line (base64 of 32 bytes), the newest
    first."""

    file: Path
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def read(self) -> Seal | None:
        """None: there is no key yet. Raises Refused (seal_key); no error quotes any of it."""
        text = self.environ.get(ENVIRONMENT) or self._text()
        return None if text is None else Seal([self._key(line) for line in text.split()] or [self._key("")])

    def make(self) -> Seal:
        """A new key before those that there are; the file is the hub's alone."""
        if self.environ.get(ENVIRONMENT):
            raise self._bad(f"the keys are in {ENVIRONMENT}", "put the new one before them there")
        known = (self._text() or "").split()
        lines = [base64.b64encode(os.urandom(_KEY)).decode(), *known]
        made = Seal([self._key(line) for line in lines])
        fresh = self.file.with_name(f"{self.file.name}.new")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w") as opened:
            opened.write("".join(f"{line}\n" for line in lines))
            opened.flush()
            os.fsync(handle)
        fresh.rename(self.file)
        folder = os.open(self.file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return made

    def _text(self) -> str | None:
        try:
            found = self.file.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > _LONGEST:
                raise self._bad("it is no file with keys", "put back the file that the hub made")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise self._bad("others can read it", f"chmod 600 {self.file}")
            return self.file.read_text("ascii")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise self._bad(f"{type(error).__name__}", "make it readable for the hub alone") from None

    def _key(self, line: str) -> bytes:
        try:
            key = base64.b64decode(line, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _KEY:
            raise self._bad("a line is not the base64 of 32 bytes", "put back the file that the hub made")
        return key

    def _bad(self, why: str, hint: str) -> Refused:
        return Refused(f"the key that seals secrets, {self.file}: {why}", code="seal_key", hint=hint)


def _id(key: bytes) -> str:
    """Tells keys apart and tells nothing of them."""
    return hashlib.sha256(b"refloat seal" + key).hexdigest()[:8]


def _unreadable(where: str, why: str) -> Refused:
    return Refused(
        f"the secret {where} cannot be opened: {why}",
        code="sealed",
        hint="put the key back that was there (docs/secrets.md), or set the secret anew",
    )
