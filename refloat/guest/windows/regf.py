"""Reads a registry hive, once all of it was checked.

A hive is hostile until proven otherwise, and hivex, which writes hives, is C code. So `opened` looks at every
bin, every cell and every record that can be reached from the root, in one pass over each: it either raises
HiveDamaged or gives a Regf in which no offset leads out of its cell, no record is used twice (so there are no
cycles either), and every count fits the cell that holds the list.

Nothing is sampled: a look at each cell costs some 1.5 s for 100 MB, less than an argument why less is safe.

Format: "Windows registry file format specification" by M. Suhanov. Offsets are relative to the first bin,
which begins 4096 bytes into the file.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from refloat.errors import Refused
from refloat.guest.windows.values import Value

BASE = 4096
NIL: Final = 0xFFFFFFFF
HIVE_LIMIT = 256 * 1024 * 1024  # bytes; four times as much is needed in memory to edit one
SEGMENT = 16344  # bytes of a value in one cell; longer ones are split since version 1.4

_DEPTH = 512  # levels of keys; Windows' own limit
_SYMLINK, _PREDEFINED, _ASCII_KEY, _ASCII_VALUE = 0x10, 0x40, 0x20, 0x01
_INLINE = 0x80000000

# Of a key, from its flags on: flags, parent, subkeys, list of subkeys, values, list of values, security,
# class, length of the name, length of the class.
_KEY = struct.Struct("<H8x4xII4xI4xIIII20xHH")
# Of a value, from the length of its name on: that, size of the data, its offset, type, flags.
_VALUE = struct.Struct("<HIIIH")
_KEY_NAME, _VALUE_NAME = 80, 24  # where names begin in the cell


class HiveDamaged(Refused):
    """A hive is not what Windows writes; it was left alone."""

    default_code = "hive_damaged"


def damaged(name: str, why: str) -> HiveDamaged:
    return HiveDamaged(
        f"the registry hive {name} is damaged: {why}",
        hint="start the source once so that Windows repairs it (or run chkdsk there), then replicate again",
    )


@dataclass(frozen=True)
class Header:
    """The base block. `sequence` are the two numbers that differ while a hive is dirty."""

    sequence: tuple[int, int]
    written: int
    minor: int
    root: int
    size: int  # of all bins, in bytes
    intact: bool  # the checksum is right

    @property
    def dirty(self) -> bool:
        return not self.intact or self.sequence[0] != self.sequence[1]


def header(name: str, content: bytes) -> Header:
    """Raises HiveDamaged for what is no hive at all."""
    if len(content) < 2 * BASE or content[:4] != b"regf":
        raise damaged(name, "it does not begin as a hive does")
    first, second, written, major, minor, kind, form, root, size = struct.unpack_from(
        "<IIQIIIIII", content, 4
    )
    if major != 1 or not 3 <= minor <= 6 or kind != 0 or form != 1:
        raise damaged(name, f"version {major}.{minor}, type {kind}, format {form} are not known")
    intact = checksum(content) == struct.unpack_from("<I", content, 508)[0]
    return Header((first, second), written, minor, root, size, intact)


def checksum(content: bytes | bytearray) -> int:
    """Of the base block: XOR of its first 127 words, which is never 0 or all ones."""
    total = 0
    for word in struct.unpack_from("<127I", content):
        total ^= word
    return {0: 1, NIL: NIL - 1}.get(total, total)


def fold(name: str) -> str:
    """The name as Windows compares it."""
    if name.isascii():
        return name.upper()
    return "".join(up if len(up := letter.upper()) == 1 else letter for letter in name)


_sound: deque[bytes] = deque(maxlen=32)


def opened(name: str, content: bytes) -> Regf:
    """Raises HiveDamaged unless every part of the hive is sound. `content` has its logs replayed."""
    head = header(name, content)
    if head.dirty:
        raise damaged(name, "it was not closed in order, and its logs were not replayed")
    if head.size % BASE or head.size == 0 or head.size > len(content) - BASE:
        raise damaged(name, f"its bins should have {head.size} bytes, the file has {len(content)}")
    # A guest is looked at several times before it is changed, and its hives may have 100 MiB: one that was
    # found sound is known again by its hash, in a twentieth of the time.
    digest = hashlib.sha256(content).digest()
    if digest not in _sound:
        check = _Check(name, content, head)
        check.cells()
        check.keys()
        _sound.append(digest)
    return Regf(content, head)


class Regf:
    """A hive that was checked. Keys are known by the offset of their cell."""

    def __init__(self, content: bytes, head: Header) -> None:
        self.content = content
        self.header = head
        self.root = head.root

    def name(self, key: int) -> str:
        flags, *_, length, _ = _KEY.unpack_from(self.content, BASE + key + 6)
        return _name(self.content, BASE + key + _KEY_NAME, length, flags & _ASCII_KEY)

    def is_link(self, key: int) -> bool:
        return bool(_KEY.unpack_from(self.content, BASE + key + 6)[0] & _SYMLINK)

    def subkeys(self, key: int) -> list[int]:
        return [child for leaf in self.leaves(key) for child in self.leaf(leaf)]

    def leaves(self, key: int) -> list[int]:
        """The lists that name the key's subkeys; several where there are many."""
        _, _, count, where, *_ = _KEY.unpack_from(self.content, BASE + key + 6)
        if not count:
            return []
        if self.content[BASE + where + 4 : BASE + where + 6] == b"ri":
            return list(_offsets(self.content, where, 4))
        return [where]

    def leaf(self, leaf: int) -> list[int]:
        return list(_offsets(self.content, leaf, self.step(leaf)))

    def step(self, leaf: int) -> int:
        """Bytes of one entry of a list."""
        return 4 if self.content[BASE + leaf + 4 : BASE + leaf + 6] == b"li" else 8

    def values(self, key: int) -> list[tuple[str, Value]]:
        """In their order. A value's name is "" where it is the key's default."""
        return [self._value(cell) for cell in self.value_cells(key)]

    def value_cells(self, key: int) -> tuple[int, ...]:
        flags, _, _, _, count, where, *_ = _KEY.unpack_from(self.content, BASE + key + 6)
        if not count or flags & _PREDEFINED:
            return ()
        return struct.unpack_from(f"<{count}I", self.content, BASE + where + 4)

    def _value(self, cell: int) -> tuple[str, Value]:
        length, size, where, kind, flags = _VALUE.unpack_from(self.content, BASE + cell + 6)
        name = _name(self.content, BASE + cell + _VALUE_NAME, length, flags & _ASCII_VALUE)
        return name, Value(kind, self._data(cell, size, where))

    def _data(self, cell: int, size: int, where: int) -> bytes:
        if size & _INLINE:
            begin = BASE + cell + 12
            return self.content[begin : begin + (size & ~_INLINE)]
        if not size:
            return b""
        if size > self._room(where):
            count, parts = struct.unpack_from("<HI", self.content, BASE + where + 6)
            cells = struct.unpack_from(f"<{count}I", self.content, BASE + parts + 4)
            whole = b"".join(self.content[BASE + part + 4 : BASE + part + 4 + SEGMENT] for part in cells)
            return whole[:size]
        return self.content[BASE + where + 4 : BASE + where + 4 + size]

    def _room(self, cell: int) -> int:
        return -int(struct.unpack_from("<i", self.content, BASE + cell)[0]) - 4


def _name(content: bytes, begin: int, length: int, ascii_name: int) -> str:
    raw = content[begin : begin + length]
    return raw.decode("latin-1") if ascii_name else raw.decode("utf-16-le", "surrogatepass")


def _offsets(content: bytes, where: int, step: int) -> Iterator[int]:
    """The offsets in a list of subkeys; each is followed by a hash where `step` is 8."""
    count = struct.unpack_from("<H", content, BASE + where + 6)[0]
    words = struct.unpack_from(f"<{count * step // 4}I", content, BASE + where + 8)
    return iter(words[:: step // 4])


# ---------------------------------------------------------------- the check

_USED, _SEEN, _SECURITY = 1, 2, 3


class _Check:
    """`_state` has a byte for each 8 bytes of the bins: where a cell in use begins, whether it was met."""

    def __init__(self, name: str, content: bytes, head: Header) -> None:
        self._name = name
        self._content = content
        self._head = head
        self._state = bytearray(head.size // 8)
        self._securities: set[int] = set()

    def _bad(self, why: str, where: int) -> HiveDamaged:
        return damaged(self._name, f"{why} at {where:#x}")

    def cells(self) -> None:
        """Marks the cells in use. Bins follow each other without a gap, and so do the cells in them."""
        content, end, at = self._content, self._head.size, 0
        sizes = memoryview(content)[BASE : BASE + end].cast("i")
        while at < end:
            signature, offset, size = struct.unpack_from("<4sII", content, BASE + at)
            if signature != b"hbin" or offset != at or size == 0 or size % BASE or size > end - at:
                raise self._bad("there is no sound bin", at)
            self._cells_of(sizes, at + 32, at + size)
            at += size

    def _cells_of(self, sizes: memoryview[int], at: int, end: int) -> None:
        state = self._state
        while at < end:
            size = sizes[at >> 2]
            if size < 0:
                size = -size
                state[at >> 3] = _USED
            if size == 0 or size & 7 or size > end - at:
                raise self._bad("a cell has a wrong size", at)
            at += size

    def keys(self) -> None:
        """Walks all keys from the root."""
        waiting = [(self._head.root, NIL, 0)]
        while waiting:
            key, parent, depth = waiting.pop()
            if depth > _DEPTH:
                raise self._bad("keys are nested too deep", key)
            for child in self._key(key, parent):
                waiting.append((child, key, depth + 1))
        for cell in self._securities:
            self._security(cell)

    def _take(self, cell: int, need: int, what: str) -> int:
        """The bytes that a cell has for its record. Each belongs to one place only."""
        if cell & 7 or cell >= self._head.size or self._state[cell >> 3] != _USED:
            raise self._bad(f"{what} is not a cell of its own", cell)
        self._state[cell >> 3] = _SEEN
        room = -struct.unpack_from("<i", self._content, BASE + cell)[0] - 4
        if room < need:
            raise self._bad(f"{what} is larger than its cell", cell)
        return int(room)

    def _signature(self, cell: int) -> bytes:
        return self._content[BASE + cell + 4 : BASE + cell + 6]

    def _key(self, key: int, parent: int) -> list[int]:
        room = self._take(key, _KEY_NAME - 4, "a key")
        if self._signature(key) != b"nk":
            raise self._bad("there is no key", key)
        flags, above, subkeys, where, values, values_at, security, class_at, length, class_length = (
            _KEY.unpack_from(self._content, BASE + key + 6)
        )
        if length > room + 4 - _KEY_NAME or not (flags & _ASCII_KEY or length % 2 == 0):
            raise self._bad("a key's name is larger than its cell", key)
        if parent not in (NIL, above):
            raise self._bad("a key belongs to another one", key)
        if parent != NIL and (
            not length or "\\" in _name(self._content, BASE + key + _KEY_NAME, length, flags & _ASCII_KEY)
        ):
            raise self._bad("a key has no name that a path can have", key)
        if class_at != NIL and class_length:
            self._take(class_at, class_length, "a class name")
        if security != NIL:
            self._securities.add(security)
        if values and not flags & _PREDEFINED:
            self._values(values, values_at)
        return self._subkeys(subkeys, where) if subkeys else []

    def _subkeys(self, count: int, where: int) -> list[int]:
        room = self._take(where, 4, "a list of subkeys")
        if self._signature(where) == b"ri":
            children = []
            for leaf in self._list(where, room, 4):
                children += self._leaf(leaf, self._take(leaf, 4, "a list of subkeys"))
        else:
            children = self._leaf(where, room)
        if len(children) != count:
            raise self._bad(f"{count} subkeys should be listed, not {len(children)},", where)
        return children

    def _leaf(self, leaf: int, room: int) -> list[int]:
        step = {b"li": 4, b"lf": 8, b"lh": 8}.get(self._signature(leaf))
        if step is None:
            raise self._bad("there is no list of subkeys", leaf)
        return self._list(leaf, room, step)

    def _list(self, where: int, room: int, step: int) -> list[int]:
        count = struct.unpack_from("<H", self._content, BASE + where + 6)[0]
        if 4 + count * step > room:
            raise self._bad("a list of subkeys is larger than its cell", where)
        return list(_offsets(self._content, where, step))

    def _values(self, count: int, where: int) -> None:
        self._take(where, 4 * count, "a list of values")
        content = self._content
        for cell in struct.unpack_from(f"<{count}I", content, BASE + where + 4):
            room = self._take(cell, _VALUE_NAME - 4, "a value")
            if self._signature(cell) != b"vk":
                raise self._bad("there is no value", cell)
            length, size, data, _, flags = _VALUE.unpack_from(content, BASE + cell + 6)
            if length > room + 4 - _VALUE_NAME or not (flags & _ASCII_VALUE or length % 2 == 0):
                raise self._bad("a value's name is larger than its cell", cell)
            if size & _INLINE:
                if size & ~_INLINE > 4:
                    raise self._bad("a value's data is larger than its place", cell)
            elif size:
                self._data(size, data)

    def _data(self, size: int, data: int) -> None:
        room = self._take(data, 0, "a value's data")
        if room >= size:
            return
        if self._signature(data) != b"db" or room < 8:
            raise self._bad("a value's data is larger than its cell", data)
        count, parts = struct.unpack_from("<HI", self._content, BASE + data + 6)
        if count * SEGMENT < size:
            raise self._bad("a long value lacks a part", data)
        self._take(parts, 4 * count, "a list of parts")
        left = size
        for part in struct.unpack_from(f"<{count}I", self._content, BASE + parts + 4):
            self._take(part, min(left, SEGMENT), "a part of a value")
            left -= min(left, SEGMENT)

    def _security(self, cell: int) -> None:
        """Security cells are shared, and form a ring. How many keys use one, Windows counts anew."""
        self._is_security(cell)
        forward, back, _, size = struct.unpack_from("<IIII", self._content, BASE + cell + 8)
        room = -struct.unpack_from("<i", self._content, BASE + cell)[0] - 4
        if size > room - 20:
            raise self._bad("a security descriptor is larger than its cell", cell)
        self._is_security(forward)
        self._is_security(back)

    def _is_security(self, cell: int) -> None:
        if cell & 7 or cell >= self._head.size or self._state[cell >> 3] not in (_USED, _SECURITY):
            raise self._bad("a security descriptor is not a cell of its own", cell)
        if self._state[cell >> 3] == _USED:
            self._take(cell, 20, "a security descriptor")
            self._state[cell >> 3] = _SECURITY
        if self._signature(cell) != b"sk":
            raise self._bad("there is no security descriptor", cell)
