"""Hashes of a disk's chunks: what the replica holds, without reading it."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from refloat.durable import write_durably

CHUNK = 256 * 1024
DIGEST = 16
ZERO = bytes(DIGEST)  # stands for a chunk of zeroes, so that holes cost no hashing

_MAGIC = b"RFHASH01"
_HEADER = struct.Struct(">8sQII")
_SEAL = 32


def digest(data: bytes | bytearray | memoryview) -> bytes:
    """The digest of one chunk that is not all zeroes."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


class ChunkHashes:
    """One digest for each chunk of a disk of `capacity` bytes. 1 TiB takes 64 MiB."""

    def __init__(self, capacity: int, digests: bytearray | None = None) -> None:
        self.capacity = capacity
        self.digests = digests if digests is not None else bytearray(DIGEST * chunk_count(capacity))

    def __getitem__(self, chunk: int) -> bytes:
        return bytes(self.digests[chunk * DIGEST : (chunk + 1) * DIGEST])

    def __setitem__(self, chunk: int, value: bytes) -> None:
        self.digests[chunk * DIGEST : (chunk + 1) * DIGEST] = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkHashes) and (self.capacity, self.digests) == (
            other.capacity,
            other.digests,
        )

    def copy(self) -> ChunkHashes:
        return ChunkHashes(self.capacity, bytearray(self.digests))

    def save(self, path: Path) -> None:
        """Durable when this returns; sealed, so that a damaged file is noticed."""
        content = _HEADER.pack(_MAGIC, self.capacity, CHUNK, DIGEST) + self.digests
        write_durably(path, content + _seal(content))

    @staticmethod
    def load(path: Path) -> ChunkHashes | None:
        """None if the file is missing, damaged or of another form: then nothing is known of the replica."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        body, seal = content[:-_SEAL], content[-_SEAL:]
        if len(body) < _HEADER.size or _seal(body) != seal:
            return None
        magic, capacity, chunk, size = _HEADER.unpack_from(body)
        digests = bytearray(body[_HEADER.size :])
        if (magic, chunk, size) != (_MAGIC, CHUNK, DIGEST) or len(digests) != DIGEST * chunk_count(capacity):
            return None
        return ChunkHashes(capacity, digests)


def chunk_count(capacity: int) -> int:
    return -(-capacity // CHUNK)


def _seal(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_SEAL).digest()
