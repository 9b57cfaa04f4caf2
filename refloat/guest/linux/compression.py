"""The segments of an initramfs: a chain of archives, each compressed in its own way or not at all.

The kernel unpacks them one after the other, later files winning. A segment's end is found from its own
framing, so that what follows it is found, too (the kernel's lib/decompress*.c are the reference).
Everything is streamed and bounded: a guest's file may be made to unpack without end.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Generator
from typing import IO, Any, BinaryIO

from refloat.command import environment, run
from refloat.errors import Failed

_CHUNK = 256 * 1024
# Blocks of a segment, which are 128 KiB and more: empty ones could go on for the whole file.
_STEPS_LIMIT = 1_000_000
# xz -9 needs 65 MiB to unpack; a made-up header could ask for gigabytes.
_DICTIONARY_LIMIT = 256 * 1024 * 1024

_MAGIC = (
    (b"070701", "cpio"),
    (b"070702", "cpio"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x89LZO\x00\r\n\x1a\n", "lzo"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_PROGRAMS = {"zstd": ("zstd", "-dcq"), "lz4": ("lz4", "-dcq"), "lzo": ("lzop", "-dcq")}


class BrokenInitramfs(Failed):
    """The file is no initramfs that this reader understands; the message says where it stopped."""

    default_code = "initramfs_format"


class UnknownFormat(BrokenInitramfs):
    """Nothing can be appended: no kernel would look for another archive behind this one."""


# A stream of unpacked chunks whose return value is the offset behind the segment.
Chunks = Generator[bytes, None, int]


def kind_at(handle: BinaryIO, offset: int) -> str:
    """The compression of the segment at `offset` ("cpio": none); empty if no kernel knows it."""
    handle.seek(offset)
    head = handle.read(16)
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")


def skip_padding(handle: BinaryIO, offset: int, size: int) -> int:
    """The offset of the next byte that is not zero: archives are padded to 4 or 512 bytes."""
    handle.seek(offset)
    while offset < size:
        chunk = handle.read(_CHUNK)
        stripped = chunk.lstrip(b"\0")
        if stripped or not chunk:
            return offset + len(chunk) - len(stripped)
        offset += len(chunk)
    return size


def unpack(handle: BinaryIO, kind: str, offset: int, size: int) -> Chunks:
    """The unpacked bytes of the segment at `offset` in a file of `size` bytes."""
    if kind == "cpio":
        return _plain(handle, offset)
    if kind in _PROGRAMS:
        return _by_program(handle, kind, offset, size)
    return _by_module(handle, kind, offset)


def pack_lz4(data: bytes) -> bytes:
    """A legacy lz4 stream, the only form that a kernel takes behind another one."""
    return run(["lz4", "-lcq", "-9"], input=data, timeout=120).stdout


class Stream:
    """Reads exact amounts from chunks, within a budget of unpacked bytes."""

    def __init__(self, chunks: Chunks, budget: int) -> None:
        self._chunks = chunks
        self._pending = memoryview(b"")
        self._budget = budget
        self.position = 0
        self.end = -1  # known once the stream has been read to its end

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes, fewer only at the end."""
        out = bytearray()
        while len(out) < count and self._fill():
            part = self._pending[: count - len(out)]
            self._pending = self._pending[len(part) :]
            out += part
        self.position += len(out)
        return bytes(out)

    def skip(self, count: int) -> None:
        while count and self._fill():
            step = min(count, len(self._pending))
            self._pending = self._pending[step:]
            self.position += step
            count -= step

    def peek(self, count: int) -> bytes:
        """Up to `count` of the next bytes, which stay to be read; none only at the end."""
        return bytes(self._pending[:count]) if self._fill() else b""

    def close(self) -> None:
        """Ends the program behind the stream, if there is one."""
        self._chunks.close()

    def _fill(self) -> bool:
        if self._pending:
            return True
        try:
            chunk = next(self._chunks)
        except StopIteration as stop:
            self.end = self.end if stop.value is None else stop.value
            return False
        self._budget -= len(chunk)
        if self._budget < 0:
            raise BrokenInitramfs("it unpacks to more than any machine could hold")
        self._pending = memoryview(chunk)
        return True


def _plain(handle: BinaryIO, offset: int) -> Chunks:
    handle.seek(offset)
    while chunk := handle.read(_CHUNK):
        offset += len(chunk)
        yield chunk
        handle.seek(offset)
    return offset


def _by_module(handle: BinaryIO, kind: str, offset: int) -> Chunks:
    codec = _codec(kind)
    position, data = offset, b""
    while not codec.eof:
        hungry = getattr(codec, "needs_input", not data)
        if hungry:
            handle.seek(position)
            data = handle.read(_CHUNK)
            position += len(data)
        fed = data
        try:
            out = codec.decompress(fed, _CHUNK)
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise BrokenInitramfs(f"the {kind} segment at byte {offset} is broken: {error}") from error
        data = getattr(codec, "unconsumed_tail", b"")
        if out:
            yield out
        elif hungry and not fed and not codec.eof:
            raise BrokenInitramfs(f"the {kind} segment at byte {offset} is cut short")
    return position - len(codec.unused_data)


def _codec(kind: str) -> Any:
    """An object with decompress(data, max_length), eof and unused_data, as the three modules have."""
    if kind == "gzip":
        return zlib.decompressobj(wbits=31)
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    form = lzma.FORMAT_XZ if kind == "xz" else lzma.FORMAT_ALONE
    return lzma.LZMADecompressor(form, memlimit=_DICTIONARY_LIMIT)


def _by_program(handle: BinaryIO, kind: str, offset: int, size: int) -> Chunks:
    end = _ENDS[kind](handle, offset, size)
    argv = _PROGRAMS[kind]
    with _slice(handle, offset, end, size) as source, tempfile.TemporaryFile() as complaints:
        try:
            program = subprocess.Popen(
                argv, stdin=source, stdout=subprocess.PIPE, stderr=complaints, env=environment()
            )
        except FileNotFoundError as error:
            raise Failed(f"program not found: {argv[0]}", code="program_missing") from error
        try:
            assert program.stdout is not None
            with program.stdout as output:
                while chunk := output.read(_CHUNK):
                    yield chunk
            status = program.wait()
        finally:
            program.kill()
            program.wait()
        if status != 0:
            complaints.seek(0)
            message = complaints.read(400).decode(errors="replace").strip()
            raise BrokenInitramfs(f"the {kind} segment at byte {offset} is broken: {message}")
    return end


def _slice(handle: BinaryIO, start: int, end: int, size: int) -> IO[bytes]:
    """A file of its own with the bytes from `start` to `end`: no program can read beyond them."""
    if end == size:
        # Opened anew for an offset of its own.
        source: IO[bytes] = open(f"/proc/self/fd/{handle.fileno()}", "rb", buffering=0)  # noqa: SIM115
        source.seek(start)
        return source
    copy = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    handle.seek(start)
    left = end - start
    while left and (chunk := handle.read(min(left, _CHUNK))):
        copy.write(chunk)
        left -= len(chunk)
    copy.seek(0)
    return copy


# ---------------------------------------------------------------- where a segment ends


class _Cursor:
    """Walks over a segment's framing without unpacking it."""

    def __init__(self, handle: BinaryIO, offset: int, size: int, kind: str) -> None:
        self._handle, self._start, self._size, self._kind = handle, offset, size, kind
        self.offset = offset
        self._steps = _STEPS_LIMIT

    def take(self, count: int) -> bytes:
        self._steps -= 1
        if self._steps < 0:
            raise self.broken("has more blocks than any compressor makes")
        self._handle.seek(self.offset)
        data = self._handle.read(count)
        if len(data) != count:
            raise self.broken("is cut short")
        self.offset += count
        return data

    def skip(self, count: int) -> None:
        self.offset += count
        if self.offset > self._size:
            raise self.broken("is cut short")

    def broken(self, what: str) -> BrokenInitramfs:
        return BrokenInitramfs(f"the {self._kind} segment at byte {self._start} {what}")

    @property
    def left(self) -> int:
        return self._size - self.offset


def _zstd_end(handle: BinaryIO, offset: int, size: int) -> int:
    """RFC 8878: frame header, blocks up to the one marked last, an optional checksum."""
    cursor = _Cursor(handle, offset, size, "zstd")
    descriptor = cursor.take(5)[4]
    single, content_size = descriptor >> 5 & 1, descriptor >> 6
    cursor.skip(0 if single else 1)  # window
    cursor.skip((0, 1, 2, 4)[descriptor & 3])  # dictionary
    cursor.skip(1 << content_size if content_size else single)
    last = False
    while not last:
        header = int.from_bytes(cursor.take(3), "little")
        last, kind, length = bool(header & 1), header >> 1 & 3, header >> 3
        if kind == 3:
            raise cursor.broken("has a block of no known type")
        cursor.skip(1 if kind == 1 else length)
    cursor.skip(4 if descriptor & 4 else 0)
    return cursor.offset


def _lz4_end(handle: BinaryIO, offset: int, size: int) -> int:
    """Legacy lz4 has no end mark: a kernel takes all that follows as blocks, or as one more stream."""
    cursor = _Cursor(handle, offset, size, "lz4")
    while cursor.left:
        (length,) = struct.unpack("<I", cursor.take(4))
        if length != _LZ4_MAGIC:
            cursor.skip(length)
    return size


def _lzo_end(handle: BinaryIO, offset: int, size: int) -> int:
    """lzop's container, as the kernel's decompress_unlzo.c reads it: header, blocks, a length of zero."""
    cursor = _Cursor(handle, offset, size, "lzo")
    version = struct.unpack(">9xH", cursor.take(11))[0]
    modern = version >= 0x0940
    cursor.skip(4 if modern else 2)  # library version, version needed
    cursor.skip(2 if modern else 1)  # method, level
    (flags,) = struct.unpack(">I", cursor.take(4))
    cursor.skip(4 if flags & 0x800 else 0)  # filter
    cursor.skip(12 if modern else 8)  # mode, time
    cursor.skip(cursor.take(1)[0] + 4)  # name, checksum
    sums_unpacked = 4 * bool(flags & 0x1) + 4 * bool(flags & 0x100)
    sums_packed = 4 * bool(flags & 0x2) + 4 * bool(flags & 0x200)
    while True:
        (unpacked,) = struct.unpack(">I", cursor.take(4))
        if not unpacked:
            return cursor.offset
        (packed,) = struct.unpack(">I", cursor.take(4))
        cursor.skip(sums_unpacked + (sums_packed if packed < unpacked else 0) + packed)


_LZ4_MAGIC = 0x184C2102
_ENDS: dict[str, Callable[[BinaryIO, int, int], int]] = {
    "zstd": _zstd_end,
    "lz4": _lz4_end,
    "lzo": _lzo_end,
}
