"""A simulated site pair in one directory: source, destination, controllers and guests, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refloat.destinations.simulated import SimulatedDestination, SimulatedNetwork
from refloat.model import (
    AttachedDisk,
    AttachedNic,
    DiskBus,
    Firmware,
    GuestFacts,
    GuestFilesystem,
    GuestKernel,
    Hardware,
    NicConfig,
    NicMethod,
    NicModel,
    SourceDisk,
    SourceNic,
    SourceVM,
)
from refloat.simulated.controller import SimulatedController
from refloat.simulated.guest import FACTS_AT, Guests, recorded
from refloat.simulated.source import SimulatedSource

MIB = 1 << 20
OWN = "refloat-own"  # serial of a controller's own disk
MANAGEMENT, PRODUCTION, BUBBLE = "management", "production", "bubble"
NETWORKS = {
    MANAGEMENT: SimulatedNetwork("10.90.0.0/16"),
    PRODUCTION: SimulatedNetwork("10.20.0.0/16"),
    BUBBLE: SimulatedNetwork("10.20.0.0/16"),
}
SOURCE_NETWORK = "office"


@dataclass(frozen=True)
class Protected:
    """One protected VM of the simulation; `number` makes its names, MACs and addresses."""

    number: int
    disks: tuple[int, ...] = (2 * MIB, MIB)  # capacities in bytes, the first holds the system

    @property
    def name(self) -> str:
        return f"vm{self.number}"

    @property
    def controller(self) -> str:
        return f"{self.name}-controller"

    @property
    def mac(self) -> str:
        return f"00:50:56:00:{self.number >> 8:02x}:{self.number & 255:02x}"

    @property
    def address(self) -> str:
        return f"10.20.{self.number >> 8}.{self.number & 255}/16"

    def disk_keys(self) -> list[str]:
        return [f"sd{chr(ord('a') + index)}" for index in range(len(self.disks))]

    def serial(self, key: str) -> str:
        return f"r{self.number}-{key}"


class World:
    """Opens (or makes) the simulation in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = SimulatedSource(directory / "source")
        self.destination = SimulatedDestination(directory / "destination", NETWORKS)
        self.guests = Guests(self.destination, directory / "guests")
        self._controllers: dict[str, SimulatedController] = {}
        self.destination.on_listen = self.guests.speak
        self.destination.on_stop = self._stopped

    def controller(self, vm: str) -> SimulatedController:
        if vm not in self._controllers:
            directory = self.directory / "controllers" / vm
            self._controllers[vm] = SimulatedController(self.destination, vm, OWN, directory)
        return self._controllers[vm]

    def _stopped(self, vm: str) -> None:
        if (self.directory / "controllers" / vm).exists():
            self.controller(vm).stopped()

    def protect(self, one: Protected) -> None:
        """A running source VM with a guest on it, and a running controller with empty replica disks."""
        keys = one.disk_keys()
        disks = tuple(
            SourceDisk(key, size, DiskBus.PVSCSI) for key, size in zip(keys, one.disks, strict=True)
        )
        nic = SourceNic(one.mac, NicModel.VMXNET3, SOURCE_NETWORK, "ens192")
        uuid = f"00000000-0000-4000-8000-{one.number:012x}"
        self.source.create(SourceVM(one.name, uuid, 1, 512 * MIB, Firmware.BIOS, disks, (nic,)))
        self.source.guest_writes(one.name, keys[0], FACTS_AT, recorded(_facts(one)))
        volumes = self.destination.volumes
        replicas = tuple(
            AttachedDisk(one.serial(key), volumes.create(f"{one.name}-{key}.raw", size))
            for key, size in zip(keys, one.disks, strict=True)
        )
        own = AttachedDisk(OWN, volumes.create(f"{one.controller}.raw", MIB))
        management = AttachedNic(f"52:54:00:00:{one.number >> 8:02x}:{one.number & 255:02x}", MANAGEMENT)
        hardware = Hardware(1, 256 * MIB, Firmware.BIOS, (own, *replicas), (management,))
        self.destination.create(one.controller, hardware)
        self.destination.start(one.controller)


def estate(
    directory: Path, protected: Sequence[Protected], policy: Mapping[str, object]
) -> dict[str, object]:
    """The estate of this simulation, as its file would hold it."""
    site: dict[str, object] = {"platform": "simulated", "uri": str(directory)}
    nowhere = {"address": "127.0.0.1", "identity": "/nonexistent", "host_key": "none"}
    # Not asked for by a simulated site: what its networks are is the simulation's own.
    networks = {name: {"kind": "bridge", "name": name} for name in NETWORKS}
    return {
        "version": 1,
        "sites": {"here": site | {"networks": networks}},
        "mappings": [{"from": SOURCE_NETWORK, "to": PRODUCTION, "test": BUBBLE}],
        "policies": {"default": dict(policy)},
        "protected": {one.name: {"site": "here", "vm": one.name} for one in protected},
        "targets": {
            one.name: {
                "protected": one.name,
                "site": "here",
                "controller": nowhere | {"vm": one.controller},
                "disks": {key: one.serial(key) for key in one.disk_keys()},
            }
            for one in protected
        },
    }


def _facts(one: Protected) -> GuestFacts:
    """A guest that needs drivers, and has a static address and a filesystem on each disk."""
    keys = one.disk_keys()
    root = GuestFilesystem(keys[0], 1, "ext4", f"00000000-0000-4000-9000-{one.number:012x}", mountpoint="/")
    others = tuple(
        GuestFilesystem(
            key, 1, "ext4", f"00000000-0000-4000-a00{index}-{one.number:012x}", mountpoint=f"/srv/{key}"
        )
        for index, key in enumerate(keys[1:])
    )
    kernel = GuestKernel("6.1.0-sim", "/boot/initrd.img-6.1.0-sim", ("virtio_blk", "virtio_net"))
    nic = NicConfig("ens192", NicMethod.STATIC, (one.address,), "10.20.255.254", ("10.20.255.253",))
    return GuestFacts(
        family="debian",
        os_id="debian",
        os_name="Simulated GNU/Linux",
        os_version="12",
        architecture="x86_64",
        hostname=one.name,
        firmware=Firmware.BIOS,
        bootloader="grub2",
        initramfs_tool="initramfs-tools",
        network_stack="ifupdown",
        root=root,
        filesystems=(root, *others),
        kernels=(kernel,),
        nics=(nic,),
        senders=("curl",),
        warnings=("this guest is simulated: nothing is proven about a real one",),
    )
