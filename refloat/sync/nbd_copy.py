"""Copies blocks from one NBD export to another, hashing each touched chunk on the way.

One read per chunk serves both: its hash, and the parts of it that are sent. Several requests are in
flight on both sides; what completes is handled outside of libnbd's callbacks, which must not call back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import nbd

from refloat.errors import Aborted, Failed
from refloat.sync.hashes import CHUNK, ZERO, ChunkHashes, digest
from refloat.sync.ranges import Range, Ranges, aligned, intersect, pieces, subtract, total

BLOCK = 64 * 1024  # granularity of what is sent; QEMU's bitmaps and qcow2 clusters have it, too

_IN_FLIGHT = 16  # chunks
_LONGEST_ZERO = 256 * 1024 * 1024
_POLL_MS = 500
_ZEROES = bytes(CHUNK)
_AGAIN = "the replica holds the last complete sync point: try the sync again"
_READING, _WRITING = "reading the source", "writing to the controller"

Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]


@dataclass(frozen=True)
class Work:
    """What to do for one disk. `touched` and `read` are whole chunks: the hash of every touched chunk is
    set, and those that are not read hold only zeroes. `data` and `zero` are sent, and do not overlap."""

    capacity: int
    touched: Ranges
    read: Ranges
    data: Ranges
    zero: Ranges

    @property
    def bytes_read(self) -> int:
        return total(self.read)

    @property
    def bytes_sent(self) -> int:
        """At most: blocks that turn out to be zeroes are not sent as data."""
        return total(self.data)


def plan_work(wanted: Ranges, source_data: Ranges, capacity: int) -> Work:
    """`wanted` must end up on the other side; outside of `source_data` the source reads as zeroes."""
    wanted = aligned(wanted, BLOCK, capacity)
    data = intersect(wanted, aligned(source_data, BLOCK, capacity))
    touched = aligned(wanted, CHUNK, capacity)
    # A chunk is read as soon as the source has data anywhere in it: its hash covers all of it.
    read = intersect(touched, aligned(source_data, CHUNK, capacity))
    return Work(capacity, touched, read, data, subtract(wanted, data))


def plan_scan(source_data: Ranges, capacity: int) -> Work:
    """Hashes the whole disk and sends nothing."""
    return Work(capacity, [(0, capacity)], aligned(source_data, CHUNK, capacity), [], [])


@dataclass
class _Chunk:
    """One chunk in flight. `writes` counts what the target has not confirmed yet."""

    index: int
    buffer: bytearray
    sends: Ranges
    writes: int = 0


@dataclass
class _Queues:
    """What callbacks leave behind for the loop."""

    read: deque[tuple[_Chunk, int]] = field(default_factory=deque)
    written: deque[tuple[_Chunk | int, int]] = field(default_factory=deque)


class Copier:
    """Runs one Work. `target` is None for a scan; `hashes` gets the digest of every touched chunk."""

    def __init__(
        self,
        source: nbd.NBD,
        target: nbd.NBD | None,
        work: Work,
        hashes: ChunkHashes,
        progress: Progress = lambda _done, _total: None,
        cancelled: Cancelled = lambda: False,
    ) -> None:
        self._source, self._target, self._work, self._hashes = source, target, work, hashes
        self._progress, self._cancelled = progress, cancelled
        self._queues = _Queues()
        self._busy = 0
        self._done = 0
        self.sent = 0

    def run(self) -> int:
        """Bytes of data that were sent. The target has flushed when this returns.

        Raises Failed (no_space: the target's storage is full) or Aborted.
        """
        self._mark_zero_chunks()
        self._run_all(self._zero_requests())
        self._run_all(self._read_requests())
        if self._target is not None:
            self._flush(self._target)
        return self.sent

    # ------------------------------------------------------------ requests

    def _mark_zero_chunks(self) -> None:
        for start, _ in pieces(subtract(self._work.touched, self._work.read), CHUNK):
            self._hashes[start // CHUNK] = ZERO

    def _zero_requests(self) -> Iterator[Callable[[], None]]:
        for start, end in pieces(self._work.zero, _LONGEST_ZERO):
            yield lambda start=start, end=end: self._zero(start, end, end - start)  # type: ignore[misc]

    def _read_requests(self) -> Iterator[Callable[[], None]]:
        sends = _by_chunk(self._work.data)
        pending = next(sends, None)
        for start, end in pieces(self._work.read, CHUNK):
            mine: Ranges = []
            while pending and pending[0] < end:
                mine.append(pending)
                pending = next(sends, None)
            chunk = _Chunk(start // CHUNK, bytearray(end - start), mine)
            yield lambda chunk=chunk: self._read(chunk)  # type: ignore[misc]

    def _read(self, chunk: _Chunk) -> None:
        def done(error: ctypes.c_int) -> int:
            self._queues.read.append((chunk, error.value))
            return 1

        self._busy += 1
        self._source.aio_pread(nbd.Buffer.from_buffer(chunk.buffer), chunk.index * CHUNK, done)

    def _zero(self, start: int, end: int, ticket: _Chunk | int) -> None:
        assert self._target is not None
        if isinstance(ticket, int):
            self._busy += 1
        self._target.aio_zero(end - start, start, self._written(ticket))

    def _written(self, ticket: _Chunk | int) -> Callable[[ctypes.c_int], int]:
        def done(error: ctypes.c_int) -> int:
            self._queues.written.append((ticket, error.value))
            return 1

        return done

    # ------------------------------------------------------------ completions

    def _run_all(self, requests: Iterator[Callable[[], None]]) -> None:
        more = True
        while more or self._busy:
            while more and self._busy < _IN_FLIGHT:
                request = next(requests, None)
                if request is None:
                    more = False
                else:
                    self._asked(request)
            if self._busy:
                self._wait()
                self._handle_completions()
            if self._cancelled():
                raise Aborted("the sync was aborted", hint="the replica holds the last complete sync point")

    def _asked(self, request: Callable[[], None]) -> None:
        with _connection_errors("NBD"):
            request()

    def _handle_completions(self) -> None:
        while self._queues.read:
            chunk, error = self._queues.read.popleft()
            _check(error, _READING)
            self._asked(lambda chunk=chunk: self._process(chunk))  # type: ignore[misc]
        while self._queues.written:
            ticket, error = self._queues.written.popleft()
            _check(error, _WRITING)
            if isinstance(ticket, int):
                self._busy -= 1
            else:
                ticket.writes -= 1
                self._finish(ticket)

    def _process(self, chunk: _Chunk) -> None:
        """A chunk has been read: hash it, and send the parts of it that are wanted."""
        empty = chunk.buffer == _ZEROES[: len(chunk.buffer)]
        self._hashes[chunk.index] = ZERO if empty else digest(chunk.buffer)
        base = chunk.index * CHUNK
        view = memoryview(chunk.buffer)
        for start, end in pieces(chunk.sends, BLOCK):
            assert self._target is not None
            part = view[start - base : end - base]
            chunk.writes += 1
            if empty or part == _ZEROES[: len(part)]:
                self._zero(start, end, chunk)
            else:
                self.sent += len(part)
                self._target.aio_pwrite(part, start, self._written(chunk))
        self._finish(chunk)

    def _finish(self, chunk: _Chunk) -> None:
        if chunk.writes == 0:
            self._busy -= 1
            self._done += len(chunk.buffer)
            self._progress(self._done, self._work.bytes_read)

    # ------------------------------------------------------------ waiting

    def _wait(self) -> None:
        """Returns when something completed, or after half a second."""
        poll = select.poll()
        handles = {}
        for handle, what in ((self._source, _READING), (self._target, _WRITING)):
            if handle is not None:
                with _connection_errors(what):
                    fd, direction = handle.aio_get_fd(), handle.aio_get_direction()
                events = select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0
                poll.register(fd, events | (select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE else 0))
                handles[fd] = handle, what
        for fd, events in poll.poll(_POLL_MS):
            handle, what = handles[fd]
            with _connection_errors(what):
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    handle.aio_notify_read()
                elif events & select.POLLOUT:
                    handle.aio_notify_write()

    @staticmethod
    def _flush(target: nbd.NBD) -> None:
        try:
            if target.can_flush():
                target.flush()
        except nbd.Error as error:
            _check(error.errnum or errno.EIO, "flushing the controller's disk")


def _by_chunk(ranges: Ranges) -> Iterator[Range]:
    """The same bytes, cut at chunk boundaries."""
    for start, end in ranges:
        at = start
        while at < end:
            cut = min(end, (at // CHUNK + 1) * CHUNK)
            yield at, cut
            at = cut


@contextmanager
def _connection_errors(what: str) -> Iterator[None]:
    try:
        yield
    except nbd.Error as error:
        raise Failed(f"{what}: {error.string}", code="nbd", hint=_AGAIN) from error


def _check(error: int, what: str) -> None:
    if error == errno.ENOSPC:
        raise Failed(
            f"{what}: no space left",
            code="no_space",
            hint="give the controller's own disk (or the pool of the replica volumes) more room; sync again",
        )
    if error:
        raise Failed(f"{what}: {os.strerror(error)}", code="nbd", hint=_AGAIN)
