"""Copies blocks from one NBD export to another, hashing each touched chunk on the way.

One read serves both: its chunks' hashes, and the parts of it that are sent. Several requests are in flight on
both sides, and threads of their own hash, while the data is on its way; what completes is handled outside of
libnbd's callbacks, which must not call back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import nbd

from refloat.errors import Aborted, Failed
from refloat.sync.hashes import CHUNK, ZERO, ChunkHashes, digest
from refloat.sync.ranges import Ranges, aligned, divided, intersect, normalise, pieces, subtract, total

BLOCK = 64 * 1024  # granularity of what is sent; QEMU's bitmaps and qcow2 clusters have it, too

_READ = 4 * CHUNK  # at most, in one request: fewer of them cost less on both sides
_IN_FLIGHT = 16  # requests
_HASHING = 2  # threads: hashlib works beside the rest, as socket calls do
_LONGEST_ZERO = 256 * 1024 * 1024
_POLL_MS = 500
_ZEROES = bytes(BLOCK)
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


def plan_whole(source_data: Ranges, capacity: int, replica: int) -> Work:
    """Everything, and zeroes from the source's end to that of a larger replica of so many bytes: what is
    left there of an earlier use could be taken for the end of a RAID or a partition table."""
    work = plan_work([(0, capacity)], source_data, capacity)
    return replace(work, zero=[*work.zero, (capacity, replica)] if replica > capacity else work.zero)


def plan_scan(source_data: Ranges, capacity: int) -> Work:
    """Hashes the whole disk and sends nothing."""
    return Work(capacity, [(0, capacity)], aligned(source_data, CHUNK, capacity), [], [])


@dataclass
class _Piece:
    """What one request reads: whole chunks, from byte `start` on. `writes` counts what the target has not
    confirmed yet; `hashes` are those of its chunks, by number, as soon as they are known."""

    start: int
    end: int
    sends: Ranges
    buffer: bytearray
    writes: int = 0
    hashes: dict[int, Future[bytes]] = field(default_factory=dict)

    def view(self, start: int, end: int) -> memoryview:
        return memoryview(self.buffer)[start - self.start : end - self.start]


@dataclass
class _Queues:
    """What callbacks leave behind for the loop."""

    read: deque[tuple[_Piece, int]] = field(default_factory=deque)
    written: deque[tuple[_Piece | None, int]] = field(default_factory=deque)


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
        self._hashing = ThreadPoolExecutor(_HASHING, "hashing")
        self._spare: list[bytearray] = []  # the kernel clears what is new: that costs as much as a copy
        self._busy = 0
        self._done, self._total = 0, work.bytes_read
        self.sent = 0

    def run(self) -> int:
        """Bytes of data that were sent. The target has flushed when this returns.

        Raises Failed (no_space: the target's storage is full) or Aborted.
        """
        self._mark_zero_chunks()
        with self._hashing:
            self._run_all(self._zero_requests(), _WRITING)
            self._run_all(self._read_requests(), _READING)
        if self._target is not None:
            self._flush(self._target)
        return self.sent

    # ------------------------------------------------------------ requests

    def _mark_zero_chunks(self) -> None:
        for start, _ in pieces(subtract(self._work.touched, self._work.read), CHUNK):
            self._hashes[start // CHUNK] = ZERO

    def _zero_requests(self) -> Iterator[Callable[[], None]]:
        for start, end in pieces(self._work.zero, _LONGEST_ZERO):
            yield lambda start=start, end=end: self._zero(start, end, None)  # type: ignore[misc]

    def _read_requests(self) -> Iterator[Callable[[], None]]:
        for (start, end), mine in divided(self._work.data, pieces(self._work.read, _READ)):
            yield lambda start=start, end=end, mine=mine: self._read(start, end, mine)  # type: ignore[misc]

    def _read(self, start: int, end: int, sends: Ranges) -> None:
        piece = _Piece(start, end, sends, self._spare.pop() if self._spare else bytearray(_READ))

        def done(error: ctypes.c_int) -> int:
            self._queues.read.append((piece, error.value))
            return 1

        self._busy += 1
        self._source.aio_pread(nbd.Buffer.from_buffer(piece.view(start, end)), start, done)

    def _zero(self, start: int, end: int, piece: _Piece | None) -> None:
        assert self._target is not None
        if piece is None:
            self._busy += 1
        self._target.aio_zero(end - start, start, self._written(piece))

    def _written(self, piece: _Piece | None) -> Callable[[ctypes.c_int], int]:
        def done(error: ctypes.c_int) -> int:
            self._queues.written.append((piece, error.value))
            return 1

        return done

    # ------------------------------------------------------------ completions

    def _run_all(self, requests: Iterator[Callable[[], None]], what: str) -> None:
        more = True
        while more or self._busy:
            while more and self._busy < _IN_FLIGHT:
                request = next(requests, None)
                if request is None:
                    more = False
                else:
                    with _connection_errors(what):
                        request()
            if self._busy:
                self._wait()
                self._handle_completions()
            if self._cancelled():
                raise Aborted("the sync was aborted", hint="the replica holds the last complete sync point")

    def _handle_completions(self) -> None:
        while self._queues.read:
            piece, error = self._queues.read.popleft()
            _check(error, _READING)
            with _connection_errors(_WRITING):
                self._process(piece)
        while self._queues.written:
            written, error = self._queues.written.popleft()
            _check(error, _WRITING)
            if written is None:
                self._busy -= 1
            else:
                written.writes -= 1
                self._finish(written)

    def _process(self, piece: _Piece) -> None:
        """A piece has been read: hash its chunks, and send the parts of it that are wanted."""
        whole = [(piece.start, piece.end)]
        empty = {at for at, to in pieces(whole, BLOCK) if _is_zero(piece.view(at, to))}
        for at, to in pieces(whole, CHUNK):
            if empty.issuperset(range(at, to, BLOCK)):
                self._hashes[at // CHUNK] = ZERO
            else:
                piece.hashes[at // CHUNK] = self._hashing.submit(digest, piece.view(at, to))
        holes = normalise((at, min(at + BLOCK, piece.end)) for at in empty)
        for at, to in intersect(piece.sends, holes):
            piece.writes += 1
            self._zero(at, to, piece)
        for at, to in subtract(piece.sends, holes):
            assert self._target is not None
            piece.writes += 1
            self.sent += to - at
            self._target.aio_pwrite(piece.view(at, to), at, self._written(piece))
        self._finish(piece)

    def _finish(self, piece: _Piece) -> None:
        if piece.writes == 0:
            for chunk, known in piece.hashes.items():
                self._hashes[chunk] = known.result()
            self._spare.append(piece.buffer)
            self._busy -= 1
            self._done += piece.end - piece.start
            self._progress(self._done, self._total)

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


def _is_zero(block: memoryview) -> bool:
    """Of at most BLOCK bytes. The ends first: comparing views goes byte by byte, copies are compared fast."""
    return not block[0] and not block[-1] and block.tobytes() == _ZEROES[: len(block)]


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
