"""Whether a guest has run since: a mark from its filesystem's superblock that moves when it does.

Every mount for writing moves it (on btrfs: every write).

Read from the device itself, so that looking changes nothing. Sources: Linux fs/ext4/ext4.h
(s_mtime, s_wtime, s_mnt_count, s_lastcheck) and super.c (ext4_setup_super counts each mount for writing, and
at once), fs/xfs/libxfs/xfs_format.h (sb_lsn: the log is written at each unmount),
fs/btrfs/ctree.h (generation: one more with each transaction).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refloat.guest.windows.ntfs import run_mark

# Offset and length in bytes: what the filesystem itself has there.
Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class _Superblock:
    """Where the magic bytes and the fields are, from the start of the filesystem."""

    magic_at: int
    magic: bytes
    fields: tuple[tuple[int, str], ...]


_EXT = _Superblock(1024 + 0x38, b"\x53\xef", ((1024 + 0x2C, "<I"), (1024 + 0x30, "<I"), (1024 + 0x34, "<H")))
_MOUNTS = ((1024 + 0x34, "<H"), (1024 + 0x40, "<I"))  # of ext: s_mnt_count, s_lastcheck
_ROWS = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "xfs": _Superblock(0, b"XFSB", ((240, ">Q"), (0x80, ">Q"), (0x88, ">Q"), (0x90, ">Q"))),
    "btrfs": _Superblock(0x10000 + 0x40, b"_BHRfS_M", ((0x10000 + 0x48, "<Q"),)),
}


def generation(kind: str, read: Read) -> str:
    """The mark of a filesystem of this kind; empty for kinds that keep none (vfat).

    Raises ValueError where there is no such filesystem.
    """
    if kind == "ntfs":
        return run_mark(read)
    row = _ROWS.get(kind)
    if row is None:
        return ""
    _prove(row, kind, read)
    return f"{kind}:{':'.join(map(str, _values(row.fields, read)))}"


def _prove(row: _Superblock, kind: str, read: Read) -> None:
    if read(row.magic_at, len(row.magic)) != row.magic:
        raise ValueError(f"no {kind} superblock")


def _values(fields: Sequence[tuple[int, str]], read: Read) -> list[int]:
    return [struct.unpack(form, read(at, struct.calcsize(form)))[0] for at, form in fields]


def mounts(kind: str, read: Read) -> str:
    """How often a filesystem was mounted for writing since its last check; empty for kinds that do not count.

    Other than the generation it stays as it is while the filesystem is written, so it tells a mount of ours
    that was killed from those of a guest. Raises ValueError where there is no such filesystem.
    """
    if _ROWS.get(kind) is not _EXT:
        return ""
    _prove(_EXT, kind, read)
    count, checked = _values(_MOUNTS, read)
    return f"{count}:{checked}"


def mounted_since(before: str, now: str) -> bool:
    """Whether a filesystem was mounted by others since `before`, when we were about to mount it once."""
    if not before:
        return False
    count, checked = map(int, before.split(":"))
    return now not in (before, f"{(count + 1) % 65536}:{checked}")
