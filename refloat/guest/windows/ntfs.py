"""What an NTFS volume says of itself, read from its own device: nothing is mounted, nothing is changed.

Whether Windows closed it (the log's restart pages), whether it wants to be checked (the flags of $Volume),
and a mark that moves whenever Windows mounts it. Sources: ntfs-3g's include/ntfs-3g/layout.h and logfile.h;
for BitLocker's signature libbde's documentation of its format.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from refloat.errors import Refused

# Offset and length in bytes: what the volume has there.
Read = Callable[[int, int], bytes]

BITLOCKER = b"-FVE-FS-"

_MFT, _LOGFILE, _VOLUME = 0, 2, 3  # numbers of records
_VOLUME_INFORMATION, _DATA = 0x70, 0x80  # types of attributes
_DIRTY = 0x0001  # of $Volume
_CLEAN = 0x0002  # of a restart area
_NO_CLIENT = 0xFFFF
_PAGE = 4096  # of the log: restart pages are at 0 and one page further
_SECTOR = 512  # what a fix-up is for, whatever the disk's sectors are
_SECTORS = 1 << 50
_RECORD_LIMIT = 64 * 1024


class NtfsDamaged(Refused):
    """The volume is not what NTFS should be, or not NTFS at all."""

    default_code = "guest_filesystem"


@dataclass(frozen=True)
class NtfsState:
    """`marked`: it is to be checked at the next start. `unclean`: its log holds changes that are not in the
    files yet; `cached`: as 8 and later leave it while they run, or keep a session (Fast Startup)."""

    marked: bool = False
    unclean: bool = False
    cached: bool = False

    @property
    def dirty(self) -> bool:
        return self.marked or self.unclean

    def describe(self) -> str:
        reasons = {
            "it was not closed by Windows, its log holds changes": self.unclean,
            "it is marked to be checked": self.marked,
        }
        return " and ".join(reason for reason, holds in reasons.items() if holds) or "it is clean"


@dataclass(frozen=True)
class _Volume:
    device: Read
    size: int  # bytes
    cluster: int  # bytes
    mft: int  # bytes from the volume's start
    record: int  # bytes

    def read(self, offset: int, length: int) -> bytes:
        """All of it, or NtfsDamaged."""
        content = self.device(offset, length) if 0 <= offset <= self.size - length else b""
        if len(content) != length:
            raise _damaged("something of its own lies outside of it")
        return content


def is_bitlocker(read: Read) -> bool:
    return read(3, len(BITLOCKER)) == BITLOCKER


def ntfs_state(read: Read) -> NtfsState:
    """Raises NtfsDamaged."""
    volume = _volume(read)
    information = _resident(_record(volume, _VOLUME), _VOLUME_INFORMATION)
    if len(information) < 12:
        raise _damaged("its own record says nothing of its state")
    marked = bool(struct.unpack_from("<H", information, 10)[0] & _DIRTY)
    return _log_state(_log_start(volume), marked)


def run_mark(read: Read) -> str:
    """Moves whenever Windows mounts the volume: it writes the log's first pages then, and its own record.

    ntfs-3g leaves an empty log, which Windows fills anew. Raises ValueError where there is no NTFS.
    """
    try:
        volume = _volume(read)
        parts = (_log_start(volume), *(_raw(volume, number) for number in (_MFT, _LOGFILE, _VOLUME)))
    except NtfsDamaged as error:
        raise ValueError(error.message) from error
    return f"ntfs:{hashlib.sha256(b''.join(parts)).hexdigest()[:32]}"


# ---------------------------------------------------------------- records


def _volume(read: Read) -> _Volume:
    boot = read(0, _SECTOR)
    if len(boot) < _SECTOR or boot[3:11] != b"NTFS    ":
        raise _damaged("it has no boot sector of NTFS")
    sector, per_cluster = struct.unpack_from("<HB", boot, 11)
    sectors = struct.unpack_from("<Q", boot, 40)[0]
    mft, per_record = struct.unpack_from("<Q", boot, 48)[0], struct.unpack_from("<b", boot, 64)[0]
    # From 0xF4 on it is a power of two, negated: clusters of 128 KiB and more.
    cluster = sector << (256 - per_cluster) if per_cluster >= 0xF4 else sector * per_cluster
    record = cluster * per_record if per_record > 0 else 1 << -per_record
    if sector not in (512, 1024, 2048, 4096) or not 0 < cluster <= 2 * 1024 * 1024 or sectors > _SECTORS:
        raise _damaged("its boot sector has impossible sizes")
    if not _SECTOR <= record <= _RECORD_LIMIT or record % _SECTOR:
        raise _damaged("its boot sector has an impossible size of records")
    return _Volume(read, sectors * sector, cluster, mft * cluster, record)


def _raw(volume: _Volume, number: int) -> bytes:
    """One of the first records, which always lie together."""
    return volume.read(volume.mft + number * volume.record, volume.record)


def _record(volume: _Volume, number: int) -> bytes:
    return _fixed(_raw(volume, number), b"FILE", f"record {number}")


def _fixed(raw: bytes, magic: bytes, what: str) -> bytes:
    """With the last bytes of each sector put back, which tell whether all of them were written."""
    if len(raw) < _SECTOR or raw[:4] != magic:
        raise _damaged(f"{what} is not what it should be")
    offset, count = struct.unpack_from("<HH", raw, 4)
    if count < 1 or (count - 1) * _SECTOR > len(raw) or offset + 2 * count > _SECTOR:
        raise _damaged(f"{what} has an impossible fix-up")
    content = bytearray(raw)
    for index in range(1, count):
        end = index * _SECTOR
        if content[end - 2 : end] != raw[offset : offset + 2]:
            raise _damaged(f"{what} was only half written")
        content[end - 2 : end] = raw[offset + 2 * index : offset + 2 * index + 2]
    return bytes(content)


def _attributes(record: bytes) -> Iterator[tuple[int, bytes]]:
    at = struct.unpack_from("<H", record, 20)[0]
    while at + 8 <= len(record):
        kind, length = struct.unpack_from("<II", record, at)
        if kind == 0xFFFFFFFF:
            return
        if length < 24 or at + length > len(record):
            raise _damaged("a record of it has impossible attributes")
        yield kind, record[at : at + length]
        at += length


def _attribute(record: bytes, wanted: int, resident: bool) -> bytes:
    for kind, attribute in _attributes(record):
        unnamed = attribute[9] == 0
        if kind == wanted and unnamed and bool(attribute[8]) != resident:
            return attribute
    raise _damaged("one of its own files lacks what it must have")


def _resident(record: bytes, wanted: int) -> bytes:
    attribute = _attribute(record, wanted, resident=True)
    length, offset = struct.unpack_from("<IH", attribute, 16)
    return attribute[offset : offset + length]


# ---------------------------------------------------------------- the log


def log_place(read: Read) -> int:
    """Where the log begins, in bytes from the volume's start. Raises NtfsDamaged."""
    volume = _volume(read)
    return _first_run(_attribute(_record(volume, _LOGFILE), _DATA, resident=False)) * volume.cluster


def _log_start(volume: _Volume) -> bytes:
    """The two pages with the restart areas. The log is made in one piece, and never moved."""
    attribute = _attribute(_record(volume, _LOGFILE), _DATA, resident=False)
    return volume.read(_first_run(attribute) * volume.cluster, 2 * _PAGE)


def _first_run(attribute: bytes) -> int:
    """The number of the first cluster: a byte with two sizes, a length and a place of these sizes."""
    if len(attribute) < 64:
        raise _damaged("its log has no place")
    at = struct.unpack_from("<H", attribute, 32)[0]
    sizes = attribute[at : at + 1]
    length, place = (sizes[0] & 15, sizes[0] >> 4) if sizes else (0, 0)
    if not 1 <= length <= 8 or not 1 <= place <= 8 or at + 1 + length + place > len(attribute):
        raise _damaged("its log has no place")
    number = int.from_bytes(attribute[at + 1 + length : at + 1 + length + place], "little", signed=True)
    if number <= 0:
        raise _damaged("its log has an impossible place")
    return number


def _log_state(start: bytes, marked: bool) -> NtfsState:
    if start == b"\xff" * len(start):
        return NtfsState(marked)  # emptied, as only a clean one is
    pages = [page for page in (start[:_PAGE], start[_PAGE:]) if page[:4] in (b"RSTR", b"CHKD")]
    areas = [area for page in pages if (area := _restart_area(page))]
    if not areas:
        return NtfsState(marked, unclean=True)
    newest = max(areas, key=lambda area: area.lsn)
    # Windows 8 and later turn the log back to version 1 when they close the volume.
    cached = newest.version >= 2
    open_now = newest.client != _NO_CLIENT and not newest.flags & _CLEAN
    return NtfsState(marked, unclean=open_now or cached, cached=cached)


@dataclass(frozen=True)
class _RestartArea:
    lsn: int
    client: int
    flags: int
    version: int


def _restart_area(page: bytes) -> _RestartArea | None:
    """None for a page that was only half written: there are two of them for that."""
    at, version = struct.unpack_from("<HxxH", page, 24)
    try:
        content = _fixed(page, page[:4], "a page of the log")
    except NtfsDamaged:
        return None
    if not 32 <= at <= _SECTOR - 16:
        return None
    lsn, client, flags = struct.unpack_from("<QxxxxHH", content, at)
    return _RestartArea(lsn, client, flags, version)


def _damaged(why: str) -> NtfsDamaged:
    return NtfsDamaged(
        f"the NTFS volume cannot be used: {why}",
        hint="let Windows check it (chkdsk /f) and shut it down fully",
    )
