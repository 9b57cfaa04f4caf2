"""What the destination contract needs of a platform besides the driver: a small VM, and a guest's writes.

Each rig is one VM without an operating system: three disks ("ctl", "r0", "r1") with random content.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import libvirt

from refloat.destinations.base import Destination
from refloat.destinations.libvirt import LibvirtDestination
from refloat.destinations.libvirt_domains import Domains
from refloat.destinations.libvirt_live import parse_disks
from refloat.destinations.libvirt_xml import DiskSpec, DomainSpec, DomainType, NetworkAttach, NicSpec
from refloat.destinations.simulated import SimulatedDestination, SimulatedNetwork
from refloat.libvirt_connection import Connection
from refloat.model import AttachedDisk, AttachedNic, Firmware, Hardware, PowerState

URI = os.environ.get("REFLOAT_TEST_LIBVIRT", "qemu:///system")
MIB = 1 << 20


@dataclass(frozen=True)
class Lacks:
    """What a platform does not have, and why: a reason each, None where it has it."""

    bus_per_disk: str | None = None
    e1000e: str | None = None
    layers: str | None = None  # rollback points that take the writes
    disk_counters: str | None = None
    processor: str | None = None
    console: str | None = None
    pause: str | None = None
    channel: str | None = None


class Rig(Protocol):
    vm: str
    disks: tuple[AttachedDisk, ...]
    lacks: Lacks

    @property
    def destination(self) -> Destination: ...

    def content(self, volume: str) -> str:
        """The sha256 of what is stored in this volume itself."""
        ...

    def volumes(self) -> set[str]:
        """All volumes that exist on the platform's storage."""
        ...

    def guest_writes(self, serial: str, byte: int) -> None:
        """The guest writes 64 KiB of `byte` at 1 MiB of this disk; only ever called while it is off or on."""
        ...

    def pause(self) -> None: ...

    def other_user_of(self, volume: str) -> None:
        """Another VM, off, gets this volume attached."""
        ...

    def close(self) -> None: ...


class LibvirtRig:
    lacks = Lacks()
    networks = {  # noqa: RUF012
        "management": NetworkAttach.user("10.20.30.0/24"),
        "test": NetworkAttach.user("10.20.40.0/24", restrict=True),
        "bridged": NetworkAttach.bridge("br-none"),
    }

    def __init__(self, directory: Path, pool: str, uri: str = URI) -> None:
        self.directory = directory
        self.destination = LibvirtDestination(uri, self.networks, pool)
        self.domains = Domains(Connection(URI))
        self.vm = f"rf-test-{uuid.uuid4().hex[:8]}"
        self._others: list[str] = []
        files = []
        for serial, suffix, size in (("ctl", "raw", MIB), ("r0", "raw", 4 * MIB), ("r1", "qcow2", 2 * MIB)):
            raw = directory / f"{self.vm}-{serial}.raw"
            raw.write_bytes(os.urandom(size))
            if suffix == "qcow2":
                qemu_img("convert", "-q", "-O", "qcow2", str(raw), str(raw.with_suffix(".qcow2")))
                raw.unlink()
            files.append(DiskSpec(serial, str(raw.with_suffix(f".{suffix}")), suffix))
        self.disks = tuple(AttachedDisk(disk.serial, disk.volume, disk.bus) for disk in files)
        nic = NicSpec("52:54:00:12:34:56", "management", self.networks["management"])
        self.spec = DomainSpec(
            self.vm, str(uuid.uuid4()), DomainType.QEMU, 1, 64 * MIB, "controller",
            disks=tuple(files), nics=(nic,),
        )  # fmt: skip
        self.destination.create(self.spec)

    def content(self, volume: str) -> str:
        if volume.endswith(".raw"):
            return hashlib.sha256(Path(volume).read_bytes()).hexdigest()
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / "raw"
            # -U: only the lock of a VM that runs; the file itself is at rest.
            qemu_img("convert", "-q", "-U", "-O", "raw", volume, str(raw))
            return hashlib.sha256(raw.read_bytes()).hexdigest()

    def volumes(self) -> set[str]:
        return {str(path) for path in self.directory.iterdir() if path.name.startswith(self.vm)}

    def guest_writes(self, serial: str, byte: int) -> None:
        domain = self.domains.lookup(self.vm)
        disks = parse_disks(self.domains.xml(domain))
        number, disk = next((n, disk) for n, disk in enumerate(disks) if disk.serial == serial)
        write = f"write -P {byte} 1M 64k"
        if domain.isActive():
            device = f"/machine/peripheral/virtio-disk{number}/virtio-backend"
            answer = self.domains.hmp(domain, f'qemu-io -d {device} "{write}"')
            assert "wrote" in answer or not answer.strip(), answer
            self.domains.hmp(domain, f'qemu-io -d {device} "flush"')
        else:
            kind = "raw" if disk.volume.endswith(".raw") else "qcow2"
            subprocess.run(["qemu-io", "-f", kind, "-c", write, disk.volume], check=True, capture_output=True)

    def pause(self) -> None:
        self.domains.lookup(self.vm).suspend()

    def other_user_of(self, volume: str) -> None:
        name = f"{self.vm}-other"
        kind = "raw" if volume.endswith(".raw") else "qcow2"
        self.destination.create(
            DomainSpec(
                name, str(uuid.uuid4()), DomainType.QEMU, 1, 64 * MIB, "controller",
                disks=(DiskSpec("d", volume, kind),),
            )
        )  # fmt: skip
        self._others.append(name)

    def close(self) -> None:
        for name in (*self._others, self.vm):
            self.destination.destroy(name)
        for volume in self.volumes():
            Path(volume).unlink()


class SimulatedRig:
    lacks = Lacks()
    networks = {  # noqa: RUF012
        "management": SimulatedNetwork("10.20.30.0/24"),
        "test": SimulatedNetwork("10.20.40.0/24"),
    }

    def __init__(self, directory: Path) -> None:
        self.destination = SimulatedDestination(directory, self.networks)
        self.vm = "rf-test"
        disks = []
        for serial, size in (("ctl", MIB), ("r0", 4 * MIB), ("r1", 2 * MIB)):
            volume = self.destination.volumes.create(f"{serial}.raw", size)
            Path(volume).write_bytes(os.urandom(size))
            disks.append(AttachedDisk(serial, volume))
        self.disks = tuple(disks)
        nic = AttachedNic("52:54:00:12:34:56", "management")
        self.destination.create(self.vm, Hardware(1, 64 * MIB, Firmware.BIOS, self.disks, (nic,)))

    def content(self, volume: str) -> str:
        return hashlib.sha256(Path(volume).read_bytes()).hexdigest()

    def volumes(self) -> set[str]:
        return {str(path) for path in self.destination.volumes.directory.iterdir()}

    def guest_writes(self, serial: str, byte: int) -> None:
        self.destination.guest_writes(self.vm, serial, MIB, bytes([byte]) * 64 * 1024)

    def pause(self) -> None:
        self.destination.guest_ends(self.vm, PowerState.PAUSED, "paused")

    def other_user_of(self, volume: str) -> None:
        hardware = Hardware(1, 64 * MIB, Firmware.BIOS, (AttachedDisk("d", volume),), ())
        self.destination.create(f"{self.vm}-other", hardware)

    def close(self) -> None:
        """Everything lies in the test's own directory."""


def qemu_img(*arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


def libvirt_missing() -> str:
    """Why the libvirt driver cannot be tested here; "" when it can."""
    if os.geteuid() != 0:
        return "the libvirt contract needs root: its volumes are made by hand"
    try:
        Connection(URI).get()
    except Exception as error:
        return f"no libvirt at {URI}: {error}"
    return ""


@contextmanager
def libvirt_pool() -> Iterator[tuple[Path, str]]:
    """A directory pool of its own, gone afterwards. QEMU's user cannot enter pytest's own directory."""
    name = f"rf-test-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o711)
        Connection(URI).get().storagePoolCreateXML(
            f"<pool type='dir'><name>{name}</name><target><path>{directory}</path></target></pool>"
        )
        try:
            yield Path(directory), name
        finally:
            with suppress(libvirt.libvirtError):
                # By name: a test may have cut the connection that the handle belongs to.
                Connection(URI).get().storagePoolLookupByName(name).destroy()
