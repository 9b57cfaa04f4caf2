"""What the source contract needs of a platform besides the driver: a VM with two disks, a guest's writes."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path
from typing import Protocol

from refloat.destinations.simulated_faults import Fault, FaultKind
from refloat.model import DiskBus, Firmware, NicModel, SourceDisk, SourceNic, SourceVM
from refloat.simulated.source import SimulatedSource
from refloat.sources.base import DiskReader, Source
from refloat.sources.libvirt import LibvirtSource
from refloat.sync.nbd import changed_ranges, connected
from refloat.sync.ranges import Ranges, normalise
from tests.contract.source_rig import Rig as LibvirtDomain
from tests.vcsim.rig import VcSim

MIB = 1 << 20
MAC = "00:50:56:aa:bb:cc"


class SourceRig(Protocol):
    """One VM, off, with the disks `keys` (of these sizes, in the order of its kernel) on paravirtual SCSI."""

    vm: str
    sizes: dict[str, int]

    def source(self) -> Source:
        """A driver of its own each time, as another hub would have."""
        ...

    def silent(self) -> Source:
        """A driver of a platform that does not answer."""
        ...

    def writes(self, offset: int, value: int) -> None:
        """The running guest writes 64 KiB to its first disk."""
        ...

    def processes(self) -> str:
        """What of the machine's processes would be a reader that was left."""
        ...

    def close(self) -> None: ...


def listing(mark: str) -> str:
    lines = subprocess.run(["ps", "axwwo", "args"], check=True, capture_output=True, text=True).stdout
    return "\n".join(line for line in lines.splitlines() if mark in line)


class LibvirtSourceRig:
    def __init__(self) -> None:
        self._domain = LibvirtDomain()
        self.vm = self._domain.name
        self.sizes = {"sda": 64 * MIB, "sdb": 32 * MIB}

    def source(self) -> Source:
        return LibvirtSource("qemu:///system", self._domain.sockets)

    def silent(self) -> Source:
        return LibvirtSource("qemu+unix:///system?socket=/nonexistent")

    def writes(self, offset: int, value: int) -> None:
        self._domain.write(offset, 65536, value)

    def processes(self) -> str:
        return listing(str(self._domain.sockets))

    def close(self) -> None:
        self._domain.close()


class SimulatedSourceRig:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.vm = f"web-{uuid.uuid4().hex[:6]}"
        self.sizes = {"sda": 4 * MIB, "sdb": 2 * MIB}
        self._source = SimulatedSource(directory)
        disks = tuple(SourceDisk(key, size, DiskBus.PVSCSI) for key, size in self.sizes.items())
        nics = (SourceNic(MAC, NicModel.VMXNET3, "lan"),)
        made = SourceVM(self.vm, str(uuid.uuid4()), 1, 64 * MIB, Firmware.BIOS, disks, nics)
        self._source.create(made, obeys=False)
        self._source.set_autostart(self.vm, False)
        self._source.power_off(self.vm)

    def source(self) -> Source:
        return SimulatedSource(self._directory)

    def silent(self) -> Source:
        self._source.faults.set(Fault("*", FaultKind.UNREACHABLE, times=-1))
        return self._source

    def writes(self, offset: int, value: int) -> None:
        self._source.guest_writes(self.vm, "sda", offset, bytes([value]) * 65536)

    def processes(self) -> str:
        return listing(f"{self._directory}/")

    def close(self) -> None: ...


class VsphereSourceRig:
    """On a simulator that several tests share: each finds the VM anew."""

    def __init__(self, simulator: VcSim) -> None:
        self._simulator = simulator
        simulator.reset()
        simulator.set(Power="poweredOff", Deaf=True)
        self.vm = simulator.vm
        self.sizes = {key: file.stat().st_size for key, file in simulator.files.items()}

    def source(self) -> Source:
        return self._simulator.source()

    def silent(self) -> Source:
        return self._simulator.source(port=1)

    def writes(self, offset: int, value: int) -> None:
        self._simulator.write("2000", offset, 65536, value)

    def processes(self) -> str:
        return listing(f"{self._simulator.directory}/snapshot-")

    def close(self) -> None:
        self._simulator.set(Deaf=False)


def changed(reader: DiskReader) -> Ranges:
    """What changed on the disk, as its platform tells it."""
    if reader.areas is not None:
        return normalise(reader.areas)
    assert reader.bitmap, reader.reason
    with connected(reader.uri, reader.bitmap) as handle:
        return changed_ranges(handle, reader.bitmap, reader.capacity)


def read(reader: DiskReader, offset: int, length: int) -> bytes:
    with connected(reader.uri) as handle:
        return bytes(handle.pread(length, offset))
