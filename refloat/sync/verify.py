"""Is the replica what the source is? Reads both sides whole: for tests and doubts, not for every failover."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import nbd

from refloat.controller.records import ControllerDisk
from refloat.errors import Failed
from refloat.model import Target
from refloat.sources.base import ChangeSet
from refloat.sync.nbd import connected

_READ = 4 * 1024 * 1024


class HashingHost(Protocol):
    def disks(self, serials: Sequence[str] = (), hashed: bool = False) -> Sequence[ControllerDisk]: ...


def differing_disks(changes: ChangeSet, controller: HashingHost, target: Target) -> tuple[str, ...]:
    """Keys of the source disks whose replica has other content than the source at this instant."""
    serials = {disk.key: disk.serial for disk in target.disks}
    replica = {disk.serial: disk.sha256 for disk in controller.disks(tuple(serials.values()), hashed=True)}
    return tuple(
        reader.key
        for reader in changes.disks
        if replica.get(serials.get(reader.key, "")) != sha256_of_export(reader.uri, reader.capacity)
    )


def sha256_of_export(uri: str, capacity: int) -> str:
    digest = hashlib.sha256()
    with connected(uri) as handle:
        for at in range(0, capacity, _READ):
            try:
                digest.update(handle.pread(min(_READ, capacity - at), at))
            except nbd.Error as error:
                raise Failed(f"reading {uri}: {error.string}", code="nbd")
    return digest.hexdigest()
