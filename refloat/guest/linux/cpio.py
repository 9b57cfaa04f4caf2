"""cpio archives in the "newc" form, as a kernel unpacks them: a bounded reader and a writer."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from refloat.guest.linux import compression
from refloat.guest.linux.compression import BrokenInitramfs, Stream, UnknownFormat

UNPACKED_LIMIT = 1024 * 1024 * 1024
_MEMBERS_LIMIT = 200_000
_NAME_LIMIT = 4096
_NAMES_LIMIT = 64 * 1024 * 1024
_SEGMENTS_LIMIT = 64
_HEADER = 110
_TRAILER = "TRAILER!!!"
_DIGITS = re.compile(rb"[0-9A-Fa-f]+")


@dataclass(frozen=True)
class Member:
    """One entry. `content` is there only for those that were asked for; a symlink's is its target.

    A file with several names has `links` > 1; they share the `inode`, and the last one has the content.
    """

    name: str
    mode: int
    size: int
    content: bytes | None = None
    inode: int = 0
    links: int = 1

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


@dataclass(frozen=True)
class Segment:
    kind: str
    start: int
    end: int


def read(
    handle: BinaryIO, size: int, want: Callable[[Member], bool], *, start: int = 0
) -> Iterator[Member | Segment]:
    """Every member of every segment of an initramfs, each segment's record after its members.

    `want` chooses the members whose content is read. Raises BrokenInitramfs for what a kernel would
    not unpack either, and for what unpacks to more than 1 GiB.
    """
    if size > UNPACKED_LIMIT:
        raise BrokenInitramfs(f"it has {size} bytes")
    offset, budget = compression.skip_padding(handle, start, size), UNPACKED_LIMIT
    members, names, segments = 0, 0, 0
    while offset < size:
        segments += 1
        if segments > _SEGMENTS_LIMIT:
            raise BrokenInitramfs(f"it has more than {_SEGMENTS_LIMIT} parts")
        kind = compression.kind_at(handle, offset)
        if not kind:
            raise UnknownFormat(f"what begins at byte {offset} is no archive in a known format")
        if kind == "cpio" and offset % 4:
            raise BrokenInitramfs(f"the archive at byte {offset} is not aligned to 4 bytes")
        stream = Stream(compression.unpack(handle, kind, offset, size), budget)
        try:
            for member in _members(stream, want, plain=kind == "cpio"):
                members += 1
                names += len(member.name) + (len(member.content or b"") if member.is_symlink else 0)
                if members > _MEMBERS_LIMIT or names > _NAMES_LIMIT:
                    raise BrokenInitramfs(f"it has more than {_MEMBERS_LIMIT} files, or endless names")
                yield member
            end = offset + stream.position if kind == "cpio" else stream.end
        finally:
            stream.close()
        budget -= stream.position
        yield Segment(kind, offset, end)
        offset = compression.skip_padding(handle, end, size)


def _members(stream: Stream, want: Callable[[Member], bool], *, plain: bool) -> Iterator[Member]:
    """The members up to the trailer; of a compressed segment up to its end, archive after archive."""
    while True:
        member = _member(stream, want)
        if member is not None:
            yield member
            continue
        if plain or not _to_next_archive(stream):
            return


def _member(stream: Stream, want: Callable[[Member], bool]) -> Member | None:
    header = stream.read(_HEADER)
    if len(header) < _HEADER or header[:6] not in (b"070701", b"070702"):
        raise BrokenInitramfs(f"the archive has no header at byte {stream.position - len(header)}")
    if not _DIGITS.fullmatch(header, 6):  # int() takes signs and blanks, too
        raise BrokenInitramfs(f"the archive's header at byte {stream.position} is broken")
    fields = [int(header[at : at + 8], 16) for at in range(6, _HEADER, 8)]
    inode, mode, links, size, name_size = fields[0], fields[1], fields[4], fields[6], fields[11]
    if not 1 <= name_size <= _NAME_LIMIT:
        raise BrokenInitramfs(f"the archive has a name of {name_size} bytes")
    name = stream.read(name_size).partition(b"\0")[0].decode("utf-8", "surrogateescape")
    stream.skip(-stream.position % 4)
    if name == _TRAILER:
        return None
    member = Member(_normal(name), mode, size, None, inode, links)
    if want(member) or member.is_symlink:
        if member.is_symlink and size > _NAME_LIMIT:
            raise BrokenInitramfs(f"the symlink {name} has a target of {size} bytes")
        content = stream.read(size)
        if len(content) != size:
            raise BrokenInitramfs(f"the archive ends within {name}")
        member = replace(member, content=content)
    else:
        stream.skip(size)
    stream.skip(-stream.position % 4)
    return member


def _normal(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _to_next_archive(stream: Stream) -> bool:
    """Skips the zeros behind a trailer; whether another archive follows in the same segment."""
    while word := stream.peek(4):
        if word.strip(b"\0"):
            return True
        stream.skip(len(word))
    return False


# ---------------------------------------------------------------- writing


def write(members: list[Member]) -> bytes:
    """An archive of these members, in this order; the same input gives the same bytes."""
    out = bytearray()
    for number, member in enumerate(members, 1):
        content = member.content or b""
        _append(out, number, member.name, member.mode, 2 if member.is_directory else 1, content)
    _append(out, 0, _TRAILER, 0, 1, b"")
    return bytes(out)


def _append(out: bytearray, inode: int, name: str, mode: int, links: int, content: bytes) -> None:
    encoded = name.encode("utf-8", "surrogateescape") + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device, special device, length of the name, checksum
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    out += bytes(-len(out) % 4)
    out += content
    out += bytes(-len(out) % 4)
