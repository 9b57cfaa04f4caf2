"""Controllers of a simulated estate, made as a platform would make them: files and records."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from refloat.destinations.provisioner import Say
from refloat.destinations.simulated import SimulatedDestination
from refloat.errors import NotFound, Refused
from refloat.model import AttachedDisk, AttachedNic, Firmware, Hardware, ReplicaDisk, WantedController

_OWN_SIZE = 1 << 20


class SimulatedProvisioner:
    """Provisioner (provisioner.py) on a simulated platform. `own` is the serial of a controller's own disk;
    nothing reads the seed."""

    def __init__(self, platform: SimulatedDestination, own: str, networks: Collection[str]) -> None:
        self._platform, self._own, self._networks = platform, own, networks

    def check(self, wanted: WantedController) -> None:
        if wanted.network not in self._networks:
            raise Refused(
                f"the simulated platform has no network {wanted.network}",
                code="no_such_network",
                hint=f"it has {', '.join(self._networks)}",
            )
        self._exists(wanted)

    def make(self, wanted: WantedController, seed: bytes, say: Say) -> tuple[ReplicaDisk, ...]:
        serials = [wanted.serial(number) for number in range(len(wanted.disks))]
        if not self._exists(wanted):
            replicas = []
            for disk, serial in zip(wanted.disks, serials, strict=True):
                say(f"making the volume of {disk.key}")
                replicas.append(AttachedDisk(serial, self._volume(wanted, disk.key, disk.capacity)))
            say("making the controller's own disk")
            own = AttachedDisk(self._own, self._volume(wanted, "controller", _OWN_SIZE))
            say(f"defining the VM {wanted.vm}")
            nic = AttachedNic(wanted.mac, wanted.network)
            hardware = Hardware(wanted.cpus, wanted.memory, Firmware.BIOS, (own, *replicas), (nic,))
            self._platform.create(wanted.vm, hardware)
        return tuple(
            ReplicaDisk(disk.key, serial) for disk, serial in zip(wanted.disks, serials, strict=True)
        )

    def address(self, wanted: WantedController) -> str:
        return wanted.address.partition("/")[0] or "127.0.0.1"

    def left(self, wanted: WantedController) -> tuple[str, ...]:
        found = [f"VM {wanted.vm}"] if self._exists(wanted) else []
        return (*found, *(f"volume {path.name}" for path in self._volumes(wanted)))

    def remove(self, wanted: WantedController) -> None:
        if self._exists(wanted):
            disks = self._platform.hardware(wanted.vm).disks
            if not disks or disks[0].serial != self._own:
                raise Refused(
                    f"VM {wanted.vm} is a recovered VM", code="in_use", hint="roll its failover back first"
                )
            self._platform.stop(wanted.vm, 0)
            self._platform.destroy(wanted.vm)
        for path in self._volumes(wanted):
            self._platform.volumes.delete(str(path))

    def _exists(self, wanted: WantedController) -> bool:
        """Raises Refused where another VM has the name."""
        try:
            disks = self._platform.state(wanted.vm).hardware.disks
        except NotFound:
            return False
        if not all(Path(disk.volume).name.startswith(wanted.prefix) for disk in disks):
            raise Refused(
                f"VM {wanted.vm} exists, and was not made for target {wanted.target}",
                code="vm_exists",
                hint="give the controller another name with `vm:`",
            )
        return True

    def _volume(self, wanted: WantedController, part: str, size: int) -> str:
        path = self._platform.volumes.directory / f"{wanted.prefix}{part}.raw"
        return str(path) if path.exists() else self._platform.volumes.create(path.name, size)

    def _volumes(self, wanted: WantedController) -> list[Path]:
        return sorted(self._platform.volumes.directory.glob(f"{wanted.prefix}*"))
