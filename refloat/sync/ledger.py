"""What the hub knows of each sync point of one target, under the name of the point.

    points/<id>/point.json      the SyncPoint
    points/<id>/<key>.hashes    chunk hashes of each disk at that point

A point's directory is complete and durable before the controller is told to merge. Which directory
counts is decided by the controller, which records durably what it has merged: so the hashes in use
always describe the replica, whoever was killed when.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from refloat.codec import DecodeError, decode, encode
from refloat.durable import sync_directory, write_durably
from refloat.model import SyncPoint
from refloat.sync.hashes import ChunkHashes

_DRAFT = ".draft"


class Ledger:
    def __init__(self, directory: Path) -> None:
        self._points = directory / "points"
        self._points.mkdir(parents=True, exist_ok=True)

    def write(self, point: SyncPoint, hashes: Mapping[str, ChunkHashes]) -> None:
        """Durable when it returns."""
        draft = self._points / _DRAFT
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for key, one in hashes.items():
            one.save(draft / _name(key))
        write_durably(draft / "point.json", json.dumps(encode(point)).encode())
        draft.rename(self._points / point.id)
        sync_directory(self._points)

    def adopt(self, merged: str | None, known: SyncPoint | None) -> SyncPoint | None:
        """The record of the point that the controller has merged; every other one is dropped.

        `known` is what the hub's database has: used where it is that point and nothing else is left.
        """
        for entry in self._points.iterdir():
            if entry.name != merged:
                shutil.rmtree(entry)
        if merged is None:
            return None
        try:
            return decode(SyncPoint, json.loads((self._points / merged / "point.json").read_bytes()))
        except (FileNotFoundError, ValueError, DecodeError):
            return known if known and known.id == merged else None

    def hashes(self, point: SyncPoint, keys: list[str]) -> dict[str, ChunkHashes] | None:
        """Of every disk, or None if those of any are missing or damaged."""
        loaded = {key: ChunkHashes.load(self._points / point.id / _name(key)) for key in keys}
        found = {key: one for key, one in loaded.items() if one is not None}
        return found if len(found) == len(keys) else None


def _name(key: str) -> str:
    return f"{quote(key, safe='')}.hashes"
