"""What Refloat asks of a source platform. One module per platform; none of them knows a guest's contents."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from refloat.model import PowerState, SourceVM


@dataclass(frozen=True)
class DiskReader:
    """One source disk, readable over NBD at one fixed instant.

    `bitmap` is the NBD meta context that names the blocks changed since the asked checkpoint; a platform
    that tells them by itself gives them as `areas` (start and end, in bytes). Where both are None nothing is
    known for certain and `reason` says why: compare the whole disk. `allocated` is all that may hold other
    than zeroes; None: ask the NBD server.
    """

    key: str
    uri: str
    capacity: int
    bitmap: str | None
    reason: str = ""
    areas: tuple[tuple[int, int], ...] | None = None
    allocated: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class ChangeSet:
    """All disks of a VM at one instant. `checkpoint` marks that instant for the next sync; `said` is what an
    operator should know of this one."""

    checkpoint: str
    disks: tuple[DiskReader, ...]
    said: tuple[str, ...] = ()


class Source(Protocol):
    """A platform that runs protected VMs. Every method raises NotFound for an unknown VM and Unreachable
    when the platform does not answer. All are idempotent."""

    def inventory(self, vm: str) -> SourceVM:
        """The VM's hardware as the platform states it; disks in the order of the guest's kernel."""
        ...

    def power_state(self, vm: str) -> PowerState:
        """Asked of the VM's host now, never a remembered state."""
        ...

    def shut_down(self, vm: str, deadline: float) -> bool:
        """Asks the guest to shut down and waits; False when it still runs after `deadline` seconds."""
        ...

    def power_off(self, vm: str) -> None:
        """Hard, but in a way that lets the platform keep its change tracking."""
        ...

    def power_on(self, vm: str) -> None: ...

    def autostart(self, vm: str) -> bool: ...

    def set_autostart(self, vm: str, enabled: bool) -> None: ...

    def read_changes(self, vm: str, since: str | None, checkpoint: str) -> AbstractContextManager[ChangeSet]:
        """Opens all disks for reading at one instant, and marks it as `checkpoint`.

        `since` is the checkpoint of the last complete sync point, kept until `forget` is told of a later
        one. Cleans up first what a killed earlier run left open. A VM that is off keeps `since` as the
        reported checkpoint where none can be made: nothing is written there any more.
        """
        ...

    def forget(self, vm: str, keep: str | None) -> None:
        """Deletes Refloat's checkpoints but `keep`; only ever called when a later sync is complete."""
        ...
