"""The host's end of a simulated VM's channel, and its empty console."""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from refloat.destinations.simulated_state import SimulatedVm
from refloat.errors import Failed
from refloat.model import PowerState

_POLL = 0.02  # seconds


class HostEnd:
    """The host's end. What was read is gone, also for a hub that is killed before it acts on it."""

    def __init__(
        self, vm: str, directory: Path, state: Callable[[], SimulatedVm], listened: Callable[[], None]
    ) -> None:
        self._vm, self._directory, self._state, self._listened = vm, directory, state, listened
        self._boots = state().boots

    def read(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while True:
            state = self._state()
            if state.power is PowerState.OFF or state.boots != self._boots:
                raise Failed(f"{self._vm} stopped: its channel is closed", code="channel_closed")
            self._listened()
            data = self._take()
            if data or time.monotonic() >= deadline:
                return data
            time.sleep(_POLL)

    def _take(self) -> bytes:
        source, taken = self._directory / "to-host", self._directory / f"taken-{os.getpid()}"
        try:
            source.rename(taken)
        except FileNotFoundError:
            return b""
        data = taken.read_bytes()
        taken.unlink()
        return data

    def write(self, data: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "to-guest").open("ab") as handle:
            handle.write(data)


def grey_png() -> bytes:
    """A console that shows nothing: 16 by 9 grey pixels."""
    rows = b"".join(b"\0" + b"\x60" * 16 for _ in range(9))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 16, 9, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
