"""The destination contract on CloudStack: the driver against the server of the tests, which enforces its
rules."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from refloat.destinations.cloudstack import CloudStackDestination
from refloat.destinations.cloudstack_plan import serial_of
from refloat.model import AttachedDisk
from tests.cloudstack.cloud import Cloud
from tests.cloudstack.model import Key, Network, Nic, Offering, Vm, Volume
from tests.cloudstack.server import CloudStack
from tests.contract.destination_rigs import MIB, Lacks
from tests.unit.destinations.cloudstack_world import settings


def furnished(server: CloudStack) -> Cloud:
    """The server's cloud with what a recovery site has: networks by the estate's names, offerings of its
    sizes."""
    cloud = server.cloud
    for network in list(cloud.networks.values()):
        network.name = f"other-{network.name}"
    for name, cidr in (
        ("management", "10.20.30.0/24"),
        ("test", "10.20.40.0/24"),
        ("production", "10.20.0.0/16"),
        ("bubble", "10.20.0.0/16"),
    ):
        network = Network(name, cidr=cidr, gateway=cidr.split("/")[0][:-1] + "254")
        cloud.networks[network.id] = network
    for one in (Offering("controller", 1, 64, 500), Offering("recovered", 1, 512, 500)):
        cloud.offerings[one.id] = one
    return cloud


def named(cloud: Cloud, name: str) -> Network:
    return next(network for network in cloud.networks.values() if network.name == name)


def offering(cloud: Cloud, name: str) -> Offering:
    return next(one for one in cloud.offerings.values() if one.name == name)


def networks(cloud: Cloud) -> dict[str, str]:
    return {network.name: network.id for network in cloud.networks.values()}


def controller(
    cloud: Cloud, name: str, sizes: Sequence[int], address: str, mac: str
) -> tuple[Vm, list[Volume]]:
    """A stopped VM with volumes of these sizes; the first is its root. Their content is random."""
    template = next(iter(cloud.templates.values()))
    linux = template.os_type
    vm = Vm(name, name, offering(cloud, "controller"), template, linux)
    vm.cpus, vm.memory, vm.speed = 1, 64, 500
    vm.nics = [Nic(named(cloud, "management"), mac, address, True, 0)]
    cloud.vms[vm.id] = vm
    pool, made = next(iter(cloud.pools.values())), []
    for device, size in zip((0, 1, 2, 4, 5), sizes, strict=False):
        kind = "DATADISK" if device else "ROOT"
        holder = next(iter(cloud.disk_offerings)) if device else vm.offering.id
        volume = Volume(f"{kind}-{name}-{device}", kind, size, pool, holder, vm.id, device, "Ready")
        cloud.volumes[volume.id] = volume
        cloud.content(volume.id).write_bytes(os.urandom(size))
        made.append(volume)
    return vm, made


def keys_in(directory: Path, key: Key) -> None:
    (directory / "key").write_text(key.api)
    (directory / "secret").write_text(key.secret)


class CloudStackRig:
    lacks = Lacks(
        bus_per_disk="CloudStack has one bus for the root disk and one for all others",
        e1000e="CloudStack has no e1000e adapters",
        layers="a volume snapshot takes no writes, and CloudStack sees none",
        disk_counters="they are off by default (vm.disk.stats.interval)",
        processor="CloudStack does not tell what its hosts' processors are",
        console="only a person sees it",
        pause="CloudStack pauses no VM",
        channel="CloudStack lets nobody read one",
    )

    def __init__(self, directory: Path) -> None:
        (directory / "volumes").mkdir()
        self.server = CloudStack(directory / "volumes")
        self.server.tick = 30.0  # so that a job takes a look or two
        self.server.start()
        self.cloud = furnished(self.server)
        keys_in(directory, self.server.estate.admin)
        vm, volumes = controller(
            self.cloud, "rf-test", (MIB, 4 * MIB, 2 * MIB), "10.20.30.5", "52:54:00:12:34:56"
        )
        self.vm, self.id = vm.name, vm.id
        self.disks = tuple(AttachedDisk(serial_of(volume.id), volume.id) for volume in volumes)
        self.destination = CloudStackDestination(
            settings(self.server.url, directory, networks(self.cloud), offering="custom"),
            directory / "journals",
        )

    def content(self, volume: str) -> str:
        return hashlib.sha256(self.cloud.content(volume).read_bytes()).hexdigest()

    def volumes(self) -> set[str]:
        """Volumes, and the snapshots that are left of them."""
        live = {volume.id for volume in self.cloud.volumes.values() if not volume.destroyed}
        return live | set(self.cloud.snapshots)

    def guest_writes(self, serial: str, byte: int) -> None:
        volume = next(disk.volume for disk in self.disks if disk.serial == serial)
        with self.cloud.content(volume).open("r+b") as disk:
            disk.seek(MIB)
            disk.write(bytes([byte]) * 64 * 1024)

    def pause(self) -> None:
        raise AssertionError(self.lacks.pause)

    def other_user_of(self, volume: str) -> None:
        other, _ = controller(self.cloud, "rf-test-other", (MIB,), "10.20.30.6", "52:54:00:12:34:57")
        found = self.cloud.volumes[volume]
        found.vm, found.device = other.id, 1

    def close(self) -> None:
        self.server.stop()
        self.server.check()
