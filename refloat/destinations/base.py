"""What Refloat asks of a destination platform. Drivers know volumes and devices, never a guest's contents.

A destination VM is the controller before promotion and the recovered VM after it: the same platform
object. Verbs that change the definition (`set_*`) work on a VM that is off; all verbs are idempotent,
ask the platform what is already true, and raise NotFound for an unknown VM, Unreachable when the
platform does not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from refloat.model import (
    AttachedDisk,
    AttachedNic,
    DiskBus,
    Firmware,
    Hardware,
    NicModel,
    Observation,
    PowerState,
    RollbackPoint,
)


@dataclass(frozen=True)
class Feasible:
    """What a promotion would meet: `reasons` say why it cannot be, `warnings` what an operator should
    know."""

    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Channel(Protocol):
    """A byte stream to the guest that needs no network (virtio-serial)."""

    def read(self, timeout: float) -> bytes:
        """What has arrived, or b"" after `timeout` seconds without any."""
        ...

    def write(self, data: bytes) -> None: ...


class Destination(Protocol):
    has_channel: bool  # whether `channel` and `serial` are read here; else a guest reports by HTTPS alone

    def hardware(self, vm: str) -> Hardware:
        """As defined now. A disk's volume is what is attached: an overlay while there is a rollback point."""
        ...

    def require_devices(self, bus: DiskBus, nic: NicModel) -> None:
        """Refused where this platform has no such disks or no such adapters. Preflight asks it."""
        ...

    def check(self, vm: str, wanted: Hardware, name: str) -> Feasible:
        """Whether this VM, a running controller, could become `wanted` with that host name and be taken
        back, as far as the platform can tell beforehand. Changes nothing."""
        ...

    def cpu_flags(self, vm: str) -> frozenset[str] | None:
        """The processor features that the guest of this VM sees, also after a promotion, as its
        /proc/cpuinfo names them; None where that is not known. Changes nothing."""
        ...

    def power_state(self, vm: str) -> PowerState: ...

    def start(self, vm: str) -> None: ...

    def stop(self, vm: str, graceful: float) -> None:
        """Asks the guest, waits `graceful` seconds (0: not at all), then stops it hard. Returns when off."""
        ...

    def set_compute(self, vm: str, cpus: int, memory: int) -> None: ...

    def set_disks(self, vm: str, disks: Sequence[AttachedDisk]) -> None:
        """Exactly these disks in this order; the first boots. A disk left out is parked, never deleted."""
        ...

    def set_nics(self, vm: str, nics: Sequence[AttachedNic]) -> None: ...

    def set_firmware(self, vm: str, firmware: Firmware) -> None: ...

    def set_clock(self, vm: str, utc: bool) -> None:
        """What the hardware clock shows at the next start: UTC, or the local time of the platform's host, as
        Windows expects."""
        ...

    def set_name(self, vm: str, name: str) -> None:
        """The host name that the platform's own DHCP and metadata services give the guest; "" is the
        controller's again. Nothing where the platform has no such services."""
        ...

    def snapshot(self, vm: str, serials: Sequence[str], tag: str) -> tuple[RollbackPoint, ...]:
        """A rollback point named `tag` under each of these disks, at one instant, running or off."""
        ...

    def rollback_points(self, vm: str, tag: str) -> tuple[RollbackPoint, ...]:
        """Those that exist and through which the VM's writes really go now."""
        ...

    def stamps(self, vm: str) -> dict[str, str]:
        """By serial: the stamp of the lowest layer of each attached disk. It changes with every write to
        that layer, and with nothing else: see RollbackPoint.base_stamp. Where a platform sees no writes it is
        that of the rollback point under the disk, or of the one that the disk was reverted to."""
        ...

    def revert(self, vm: str, tag: str) -> None:
        """Off only: the disks' content is again what it was at `snapshot`. On CloudStack that may take a
        copy."""
        ...

    def merge(self, vm: str, tag: str) -> None:
        """One-way: makes the writes since `snapshot` permanent. Works while running, paused and off."""
        ...

    def delete_volume(self, vm: str, volume: str) -> None:
        """Deletes a parked volume of ours. Refused while any VM has it attached."""
        ...

    def free_bytes(self, vm: str) -> int:
        """What the storage of this VM's disks can still take. Preflight asks it of a controller: Refused
        where the first disk could not be parked and come back."""
        ...

    def reach(self, vm: str, address: str, port: int) -> tuple[str, int]:
        """Where the hub connects to get to this TCP port of this VM's network; opens a forward if it must.

        The address and port themselves where the hub has a route there: then ICMP goes that way, too.
        Refused with the code `no_way_from_here` where this platform has no way, whatever the VM is like.
        """
        ...

    def channel(self, vm: str, name: str) -> AbstractContextManager[Channel]:
        """Refused (no_channel) where the platform has none."""
        ...

    def serial(self, vm: str) -> AbstractContextManager[Channel]:
        """The VM's first serial line (COM1): for guests that have no driver for `channel` yet. Anything may
        be written to it, by firmware and loaders too. Refused (no_channel) where there is none."""
        ...

    def screenshot(self, vm: str) -> bytes:
        """The console as PNG, b"" where the platform has none."""
        ...

    def console(self, vm: str) -> str:
        """Where a person can look at the console, without any token in it; "" where there is no such page."""
        ...

    def observe(self, vm: str) -> Observation: ...
