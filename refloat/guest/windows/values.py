"""Registry values: their types, and how they are read, made and shown."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

NONE, SZ, EXPAND_SZ, BINARY, DWORD, DWORD_BE, LINK, MULTI_SZ = range(8)
QWORD = 11

_TEXTS = (SZ, EXPAND_SZ, LINK)
_END = "\0"


@dataclass(frozen=True)
class Value:
    """A value as the hive has it: `type` is the REG_ number, `data` its bytes.

    A guest may store anything under any type: the readers give None for what is not of their kind.
    """

    type: int
    data: bytes

    @staticmethod
    def dword(number: int) -> Value:
        return Value(DWORD, struct.pack("<I", number))

    @staticmethod
    def qword(number: int) -> Value:
        return Value(QWORD, struct.pack("<Q", number))

    @staticmethod
    def sz(text: str) -> Value:
        return Value(SZ, _encoded(text + _END))

    @staticmethod
    def expand_sz(text: str) -> Value:
        return Value(EXPAND_SZ, _encoded(text + _END))

    @staticmethod
    def multi_sz(texts: Iterable[str] | str) -> Value:
        """A list of texts; a single text is a list of one."""
        texts = (texts,) if isinstance(texts, str) else texts
        return Value(MULTI_SZ, _encoded("".join(text + _END for text in texts) + _END))

    @staticmethod
    def binary(data: bytes) -> Value:
        return Value(BINARY, data)

    @property
    def number(self) -> int | None:
        """A DWORD or QWORD."""
        if self.type == DWORD and len(self.data) == 4:
            return int.from_bytes(self.data, "little")
        if self.type == DWORD_BE and len(self.data) == 4:
            return int.from_bytes(self.data, "big")
        if self.type == QWORD and len(self.data) == 8:
            return int.from_bytes(self.data, "little")
        return None

    @property
    def string(self) -> str | None:
        """A text up to its first NUL: what lies behind it is left over from longer ones."""
        return _decoded(self.data).partition(_END)[0] if self.type in _TEXTS else None

    @property
    def strings(self) -> tuple[str, ...] | None:
        """The texts of a MULTI_SZ; one for a plain text, as old tools store lists of one entry."""
        if self.type in (SZ, EXPAND_SZ):
            return (self.string,) if self.string else ()
        if self.type != MULTI_SZ:
            return None
        texts = _decoded(self.data).split(_END)
        return tuple(texts[: texts.index("")] if "" in texts else texts)

    @property
    def text(self) -> str:
        """As in a .reg file, on one line."""
        if self.type == DWORD and len(self.data) == 4:
            return f"dword:{self.number:08x}"
        if self.type == SZ:
            text = self.string or ""
            if _encoded(text + _END) == self.data and text.isprintable():
                return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        kind = "hex:" if self.type == BINARY else f"hex({self.type:x}):"
        return kind + self.data.hex(",")


def _encoded(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def _decoded(data: bytes) -> str:
    """Lone surrogates stay as they are, an odd last byte is dropped."""
    return data[: len(data) & ~1].decode("utf-16-le", "surrogatepass")
