"""What a simulated platform remembers of its VMs: a file for each, changed under a lock."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from refloat.codec import decode, encode
from refloat.durable import write_durably
from refloat.errors import NotFound
from refloat.model import Hardware, PowerState


@dataclass(frozen=True)
class SimulatedVm:
    """`obeys`: whether its guest shuts down when asked. `read` and `written` are bytes by serial since its
    start, `started` is that instant in seconds since 1970."""

    hardware: Hardware
    power: PowerState = PowerState.OFF
    reason: str = "never started"
    obeys: bool = False
    boots: int = 0
    started: float = 0.0
    linked: bool = True  # whether its adapters have a link
    read: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)


class VmStates:
    """The VMs of one platform. Several processes may use them."""

    def __init__(self, directory: Path) -> None:
        self._vms = directory
        directory.mkdir(parents=True, exist_ok=True)

    def exists(self, vm: str) -> bool:
        return (self._vms / f"{vm}.json").exists()

    def remove(self, vm: str) -> None:
        with self.lock(vm):
            (self._vms / f"{vm}.json").unlink(missing_ok=True)

    def names(self) -> list[str]:
        return sorted(file.stem for file in self._vms.glob("*.json"))

    def read(self, vm: str) -> SimulatedVm:
        try:
            content = (self._vms / f"{vm}.json").read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"the simulated platform has no VM {vm}",
                code="no_such_vm",
                hint=f"it has {', '.join(self.names()) or 'none'}",
            ) from None
        return decode(SimulatedVm, json.loads(content))

    def write(self, vm: str, state: SimulatedVm) -> None:
        write_durably(self._vms / f"{vm}.json", json.dumps(encode(state)).encode())

    @contextmanager
    def changing(self, vm: str) -> Iterator[SimulatedVm]:
        with self.lock(vm):
            yield self.read(vm)

    @contextmanager
    def lock(self, vm: str) -> Iterator[None]:
        with (self._vms / f"{vm}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
