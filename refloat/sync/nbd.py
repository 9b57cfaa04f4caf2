"""Connections to NBD exports, and what they say of a disk's blocks."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

import nbd

from refloat.errors import Failed, Unreachable
from refloat.sync.ranges import Ranges, normalise

ALLOCATION = "base:allocation"

_READS_ZERO = 2  # flag of base:allocation
_DIRTY = 1  # flag of qemu:dirty-bitmap
_LONGEST = 2**32 - 64 * 1024  # of one request


def unix_uri(socket: str, export: str) -> str:
    return f"nbd+unix:///{quote(export, safe='')}?socket={quote(socket)}"


@contextmanager
def connected(uri: str, *contexts: str) -> Iterator[nbd.NBD]:
    """Raises Unreachable if nobody answers, Failed if the server does not offer one of the contexts."""
    handle = nbd.NBD()
    for context in contexts:
        handle.add_meta_context(context)
    try:
        handle.connect_uri(uri)
    except nbd.Error as error:
        raise Unreachable(
            f"cannot connect to {uri}: {error.string}", hint="the export may have ended: try again"
        )
    try:
        for context in contexts:
            if not handle.can_meta_context(context):
                raise Failed(f"{uri} does not offer {context}", code="nbd_context")
        yield handle
    finally:
        with suppress(nbd.Error):
            handle.shutdown()


def changed_ranges(handle: nbd.NBD, bitmap: str, capacity: int) -> Ranges:
    """What the dirty bitmap names."""
    return _ranges(handle, bitmap, capacity, _DIRTY, wanted=True)


def data_ranges(handle: nbd.NBD, capacity: int) -> Ranges:
    """What does not certainly read as zeroes. A server that cannot tell calls everything data."""
    return _ranges(handle, ALLOCATION, capacity, _READS_ZERO, wanted=False)


def _ranges(handle: nbd.NBD, context: str, capacity: int, flag: int, wanted: bool) -> Ranges:
    found: Ranges = []
    reached = 0

    def extent(name: str, offset: int, entries: list[int], _error: ctypes.c_int) -> int:
        nonlocal reached
        if name != context:
            return 0
        for length, flags in zip(entries[::2], entries[1::2], strict=True):
            if bool(flags & flag) is wanted:
                found.append((offset, min(offset + length, capacity)))
            offset += length
        reached = max(reached, offset)
        return 0

    while reached < capacity:
        before = reached
        try:
            handle.block_status(min(capacity - reached, _LONGEST), reached, extent)
        except nbd.Error as error:
            raise Failed(f"cannot read the map {context}: {error.string}", code="nbd_map")
        if reached <= before:
            raise Failed(f"the map {context} ends at byte {reached} of {capacity}", code="nbd_map")
    return normalise(found)
