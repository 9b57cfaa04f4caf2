"""Completes a hive from its transaction logs, as Windows does when it starts after a crash.

A crash-consistent replica has dirty hives: what Windows last changed is only in SYSTEM.LOG1 and .LOG2.
Editing the hive without them would lose it, for Windows drops the logs of a hive that is not dirty any more.

Format: "Windows registry file format specification" by M. Suhanov. Since Windows 8.1 a log holds entries of
pages, each with hashes (`HvLE`); before, one bitmap of dirty sectors and their content (`DIRT`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from refloat.guest.windows import regf
from refloat.guest.windows.regf import BASE, HIVE_LIMIT, Header, HiveDamaged

LOG_LIMIT = 64 * 1024 * 1024  # bytes

_SECTOR = 512
_OLD, _NEW = (1, 2), (6,)  # types of log files
_SEED = 0x82EF4D887A4E55C5
_ENTRY = struct.Struct("<4sIIIIIQQ")
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class _Log:
    """A log whose base block is sound; `content` begins with it."""

    content: bytes
    kind: int
    sequence: int
    written: int
    size: int  # of the hive's bins


@dataclass(frozen=True)
class _Entry:
    sequence: int
    flags: int
    size: int
    pages: tuple[tuple[int, bytes], ...]  # offset from the first bin, content


def replayed(name: str, hive: bytes, logs: Sequence[bytes]) -> bytes:
    """The hive as Windows will see it. One that is not dirty is returned as it is, whatever its logs say.

    Raises HiveDamaged where the hive is dirty and the logs do not complete it for certain.
    """
    head = regf.header(name, hive)
    if not head.dirty:
        return hive
    sound = [log for content in logs if (log := _opened(content)) is not None]
    entries = _chain(name, head, [log for log in sound if log.kind in _NEW])
    if entries:
        base = hive if head.intact else _base_of(hive, sound)
        return _applied(name, base, entries)
    old = [log for log in sound if log.kind in _OLD and (log.written == head.written or not head.intact)]
    if len(old) == 1:
        return _patched(name, hive, old[0])
    raise _incomplete(name, "two logs claim to complete it" if old else "no log completes it")


def _incomplete(name: str, why: str) -> HiveDamaged:
    return HiveDamaged(
        f"the registry hive {name} was being written when the replica was taken, and {why}",
        hint="replicate again, if need be with the source shut down",
    )


def _opened(content: bytes) -> _Log | None:
    """None for a log that was never used or is not valid: Windows passes it over."""
    if len(content) < _SECTOR or content[:4] != b"regf":
        return None
    first, second, written, _, _, kind, _, _, size = struct.unpack_from("<IIQIIIIII", content, 4)
    sound = regf.checksum(content) == struct.unpack_from("<I", content, 508)[0]
    if not sound or first != second or kind not in _OLD + _NEW or size % BASE or size > HIVE_LIMIT:
        return None
    return _Log(content, kind, first, written, size)


def _base_of(hive: bytes, logs: Sequence[_Log]) -> bytes:
    """The hive with the base block that the latest log has a copy of."""
    last = max(logs, key=lambda log: log.sequence)
    base = bytearray(hive)
    base[:_SECTOR] = last.content[:_SECTOR]
    struct.pack_into("<I", base, 28, 0)
    return bytes(base)


# ---------------------------------------------------------------- entries of pages (8.1 and later)


def _chain(name: str, head: Header, logs: Sequence[_Log]) -> list[_Entry]:
    """The entries that the hive still lacks, in their order.

    A log counts if it was begun when the hive was last whole or later; where the hive's own base block is
    torn, the latest log alone counts (as in Windows). The numbers of entries follow each other, from one log
    into the other too: where they do not, Windows would leave out the later log, here nothing is guessed.
    """
    latest = sorted(logs, key=lambda log: log.sequence)
    chain: list[_Entry] = []
    for log in latest if head.intact else latest[-1:]:
        if head.intact and log.sequence < head.sequence[1]:
            continue
        entries = list(_entries(log))
        if chain and entries and entries[0].sequence != chain[-1].sequence + 1:
            raise _incomplete(name, "its logs do not follow each other")
        chain += entries
    return chain


def _entries(log: _Log) -> Iterator[_Entry]:
    """An entry that is torn ends its log: it was being written."""
    at, expected = _SECTOR, log.sequence
    while (found := _entry(log.content, at)) is not None:
        entry, size = found
        if entry.sequence != expected:
            return
        yield entry
        at, expected = at + size, expected + 1


def _entry(content: bytes, at: int) -> tuple[_Entry, int] | None:
    """The entry that begins there, and its length; None where there is none, or it is torn."""
    if at + _ENTRY.size > len(content):
        return None
    signature, size, flags, sequence, bins, count, hash1, hash2 = _ENTRY.unpack_from(content, at)
    if signature != b"HvLE" or size % _SECTOR or not _ENTRY.size + 8 * count <= size <= len(content) - at:
        return None
    if bins % BASE or bins == 0 or bins > HIVE_LIMIT or hash2 != marvin32(content[at : at + 32]):
        return None
    if hash1 != marvin32(content[at + _ENTRY.size : at + size]):
        return None
    pages, data = [], at + _ENTRY.size + 8 * count
    for index in range(count):
        offset, length = struct.unpack_from("<II", content, at + _ENTRY.size + 8 * index)
        if data + length > at + size or offset + length > bins:
            return None
        pages.append((offset, content[data : data + length]))
        data += length
    return _Entry(sequence, flags, bins, tuple(pages)), size


def _applied(name: str, hive: bytes, entries: Sequence[_Entry]) -> bytes:
    content = bytearray(hive)
    for entry in entries:
        if len(content) < BASE + entry.size:
            content += bytes(BASE + entry.size - len(content))
        for offset, page in entry.pages:
            content[BASE + offset : BASE + offset + len(page)] = page
    last = entries[-1]
    struct.pack_into("<I", content, 40, last.size)
    struct.pack_into("<I", content, 144, last.flags)
    return _closed(content, last.sequence)


def _closed(content: bytearray, sequence: int) -> bytes:
    struct.pack_into("<II", content, 4, sequence, sequence)
    struct.pack_into("<I", content, 508, regf.checksum(content))
    return bytes(content)


def marvin32(data: bytes, seed: int = _SEED) -> int:
    """The hash of the log entries, 64 bits: Marvin32 with the seed that the registry uses."""
    low, high = seed & _WORD, seed >> 32
    whole = len(data) & ~3
    tail = data[whole:] + b"\x80" + bytes(3 - len(data) % 4)
    for word in (*struct.unpack_from(f"<{whole // 4}I", data), int.from_bytes(tail, "little"), 0):
        low = (low + word) & _WORD
        high ^= low
        low = ((low << 20 | low >> 12) + high) & _WORD
        high = (high << 9 | high >> 23) & _WORD ^ low
        low = ((low << 27 | low >> 5) + high) & _WORD
        high = (high << 19 | high >> 13) & _WORD
    return high << 32 | low


# ---------------------------------------------------------------- a bitmap of sectors (before 8.1)


def _patched(name: str, hive: bytes, log: _Log) -> bytes:
    """The sectors that the log's bitmap names, in their order, over the hive's."""
    bits = log.size // _SECTOR
    bitmap_at = _SECTOR + 4
    pages_at = -(-(bitmap_at + -(-bits // 8)) // _SECTOR) * _SECTOR
    bitmap = log.content[bitmap_at : bitmap_at + -(-bits // 8)]
    if log.content[_SECTOR:bitmap_at] != b"DIRT":
        raise _incomplete(name, "its log has no list of what is dirty")
    dirty = [bit for bit in range(bits) if bit // 8 < len(bitmap) and bitmap[bit // 8] >> bit % 8 & 1]
    if pages_at + _SECTOR * len(dirty) > len(log.content):
        raise _incomplete(name, "its log is too short")
    content = bytearray(hive)
    content[:_SECTOR] = log.content[:_SECTOR]
    struct.pack_into("<I", content, 28, 0)
    if len(content) < BASE + log.size:
        content += bytes(BASE + log.size - len(content))
    for index, bit in enumerate(dirty):
        page = log.content[pages_at + _SECTOR * index : pages_at + _SECTOR * (index + 1)]
        content[BASE + _SECTOR * bit : BASE + _SECTOR * (bit + 1)] = page
    return _closed(content, log.sequence)
