"""What the controller answers, as the hub sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Health:
    """`merged_point` is the sync point that every replica disk holds; None before the first complete one.

    `uptime` in seconds, `free` in bytes of the controller's own disk, `clock` in seconds since 1970,
    `running` names the locks that are held now ("sync", "adapt").
    """

    version: str
    code: str
    uptime: float
    clock: float
    free: int
    kernel: str
    merged_point: str | None
    exports: tuple[str, ...]
    running: tuple[str, ...]


@dataclass(frozen=True)
class ControllerDisk:
    """A data disk by the serial that it shows. `sha256` only where it was asked for."""

    serial: str
    device: str
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Export:
    """A replica disk (or its delta) that can be written over NBD at this port of the loopback."""

    serial: str
    port: int
    size: int


@dataclass(frozen=True)
class SyncStatus:
    """`attempt` is the point whose blocks are arriving, or "". `exports` are serials that can be written."""

    merged_point: str | None
    attempt: str
    exports: tuple[str, ...]
    free: int


@dataclass(frozen=True)
class DriverFolder:
    """Where the controller has the drivers that were asked for, or "". Archives go to `incoming`."""

    folder: str
    incoming: str
