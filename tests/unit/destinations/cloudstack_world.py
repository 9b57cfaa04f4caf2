"""The simulation's source, controllers and guests, over volumes of the CloudStack server of the tests.

The driver orders from that server as from any other; what runs in a VM works on the server's volume files,
as a controller or a guest would on its disks. CloudStack has no channel to a guest: here its reports come by
files, in the place of HTTPS.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from refloat.controller.client import ControllerClient
from refloat.destinations.base import Channel, Destination
from refloat.destinations.cloudstack import CloudStackDestination
from refloat.destinations.cloudstack_plan import serial_of
from refloat.destinations.cloudstack_settings import CloudStackSettings
from refloat.destinations.simulated import SimulatedDestination
from refloat.destinations.simulated_channel import HostEnd
from refloat.destinations.simulated_state import SimulatedVm
from refloat.durable import write_durably
from refloat.estate import Estate
from refloat.model import AttachedDisk, DiskBus, Firmware, PowerState, SourceDisk, SourceNic, SourceVM, Target
from refloat.model import NicModel as Model
from refloat.platforms import Platforms
from refloat.secret import SecretRef
from refloat.simulated.controller import SimulatedController
from refloat.simulated.guest import FACTS_AT, Guests, recorded
from refloat.simulated.source import SimulatedSource
from refloat.simulated.world import SOURCE_NETWORK, Protected, _facts

MIB = 1 << 20
PRODUCTION, BUBBLE, MANAGEMENT = "production", "bubble", "management"


class Files:
    """What SimulatedController asks of volumes."""

    def size(self, path: str) -> int:
        return Path(path).stat().st_size


class NoFaults:
    def apply(self, verb: str, vm: str, act: Callable[[], Any], last: Callable[[], Any]) -> Any:
        return act()


class Inside:
    """A CloudStack VM as what runs in it sees it: its disks are the server's files in `folder`."""

    def __init__(self, destination: CloudStackDestination, folder: Path, directory: Path) -> None:
        self._destination, self._folder, self._directory = destination, folder, directory
        directory.mkdir(parents=True, exist_ok=True)
        self.volumes, self.faults = Files(), NoFaults()

    def state(self, vm: str) -> SimulatedVm:
        hardware = self._destination.hardware(vm)
        power = self._destination.power_state(vm)
        disks = tuple(AttachedDisk(disk.serial, str(self._folder / disk.volume)) for disk in hardware.disks)
        boot = self._boot(vm, power)
        hardware = type(hardware)(
            hardware.cpus, hardware.memory, hardware.firmware, disks, hardware.nics, hardware.clock_utc
        )
        return SimulatedVm(hardware, power, boots=boot["boots"], started=boot["started"])

    def _boot(self, vm: str, power: PowerState) -> dict[str, Any]:
        file = self._directory / f"{vm}.boot"
        known = json.loads(file.read_bytes()) if file.exists() else {"boots": 0, "started": 0.0, "on": False}
        on = power is PowerState.RUNNING
        if on is not known["on"]:
            known = {"boots": known["boots"] + on, "started": time.time() if on else 0.0, "on": on}
            write_durably(file, json.dumps(known).encode())
        return dict(known)

    def _file(self, vm: str, serial: str) -> Path:
        found = {disk.serial: disk.volume for disk in self._destination.hardware(vm).disks}
        return self._folder / found[serial]

    def guest_writes(self, vm: str, serial: str, offset: int, data: bytes) -> None:
        with self._file(vm, serial).open("r+b") as disk:
            disk.seek(offset)
            disk.write(data)

    def guest_reads(self, vm: str, serial: str, offset: int, length: int) -> bytes:
        with self._file(vm, serial).open("rb") as disk:
            disk.seek(offset)
            return disk.read(length)

    def channel(self, vm: str, name: str) -> Path:
        return self._directory / "channels" / vm / str(self.state(vm).boots) / name

    def guest_says(self, vm: str, name: str, data: bytes) -> None:
        directory = self.channel(vm, name)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "to-host").open("ab") as handle:
            handle.write(data)
        (directory / "said").touch()

    def may_speak(self, vm: str, name: str, every: float) -> bool:
        said = self.channel(vm, name) / "said"
        return not said.exists() or time.time() - said.stat().st_mtime >= every

    def guest_heard(self, vm: str, name: str) -> bytes:
        file = self.channel(vm, name) / "to-guest"
        return file.read_bytes() if file.exists() else b""


class Reporting(CloudStackDestination):
    """The driver, and beside it the way by which the guest's reports come."""

    has_channel = True
    inside: Inside
    guests: Guests

    @contextmanager
    def channel(self, vm: str, name: str) -> Iterator[Channel]:
        directory = self.inside.channel(vm, name)
        yield HostEnd(vm, directory, lambda: self.inside.state(vm), lambda: self.guests.speak(vm, name))


class CloudWorld(Platforms):
    """The platforms of a hub, over the server at `url` whose volumes are in `folder`. `controller_disk` is
    the id of the own volume of a controller that is there; of one that was made it is what is no replica."""

    def __init__(self, directory: Path, estate: Estate, folder: Path, controller_disk: str = "") -> None:
        super().__init__(estate, directory / "hub")
        site = estate.sites["cloud"]
        assert site.platform == "cloudstack"
        self.driver = Reporting(site.settings(), directory / "hub" / "cloudstack" / "cloud")
        self.inside = self.driver.inside = Inside(self.driver, folder, directory / "inside")
        platform = cast(SimulatedDestination, self.inside)
        self.guests = self.driver.guests = Guests(platform, directory / "guests")
        self.own = serial_of(controller_disk) if controller_disk else ""
        self._platform, self._where = platform, directory
        self._simulated: dict[str, SimulatedController] = {}

    def destination(self, site: str) -> Destination:
        return self.driver

    def controller(self, target: Target) -> ControllerClient:
        replicas = {disk.serial for disk in target.disks}
        return self.simulated(target.controller_vm, replicas)

    def simulated(self, vm: str, replicas: Collection[str] = ()) -> SimulatedController:
        if vm not in self._simulated:
            where = self._where / "controllers" / vm
            own = self.own or self._seen_own(vm, replicas, where.with_suffix(".own"))
            self._simulated[vm] = SimulatedController(self._platform, vm, own, where)
        return self._simulated[vm]

    def _seen_own(self, vm: str, replicas: Collection[str], known: Path) -> str:
        """As it was seen first: a recovered VM has none but the replicas."""
        if not known.exists():
            own = next(one.serial for one in self.driver.hardware(vm).disks if one.serial not in replicas)
            known.parent.mkdir(parents=True, exist_ok=True)
            write_durably(known, own.encode())
        return known.read_text()

    def forget(self, target: str) -> None:
        """A controller is found again by what it has."""


def protect(source: SimulatedSource, one: Protected, native: bool = False) -> None:
    """A running source VM with a guest on it; `native`: with the hardware that CloudStack's KVM has."""
    keys = one.disk_keys()
    bus, model = (DiskBus.VIRTIO_BLK, Model.VIRTIO) if native else (DiskBus.PVSCSI, Model.VMXNET3)
    disks = tuple(SourceDisk(key, size, bus) for key, size in zip(keys, one.disks, strict=True))
    nic = SourceNic(one.mac, model, SOURCE_NETWORK, "ens192")
    uuid = f"00000000-0000-4000-8000-{one.number:012x}"
    source.create(SourceVM(one.name, uuid, 1, 512 * MIB, Firmware.BIOS, disks, (nic,)))
    facts = _facts(one)
    if native:
        facts = replace(facts, kernels=tuple(replace(kernel, missing=()) for kernel in facts.kernels))
    source.guest_writes(one.name, keys[0], FACTS_AT, recorded(facts))


def cloud_estate(
    directory: Path,
    one: Protected,
    url: str,
    networks: Mapping[str, str],
    volumes: Sequence[str],
    policy: Mapping[str, object],
    provision: Mapping[str, object] | None = None,
    **site: object,
) -> Estate:
    """`volumes` are the ids of the replica disks, or `provision` says what is to be made; `directory` has
    the files of key and secret."""
    nowhere = {"address": "127.0.0.1", "identity": "/nonexistent", "host_key": "none", "vm": one.controller}
    cloud = {
        "platform": "cloudstack",
        "url": url,
        "key": {"file": str(directory / "key")},
        "secret": {"file": str(directory / "secret")},
        "networks": {name: {"id": network} for name, network in networks.items()},
        "poll": 0.01,
        "settle": 0.1,
        "patience": 5,
        "timeout": 5,
        **site,
    }
    disks = dict(zip(one.disk_keys(), map(serial_of, volumes), strict=not provision))
    return Estate.model_validate(
        {
            "version": 1,
            "sites": {"here": {"platform": "simulated", "uri": str(directory / "world")}, "cloud": cloud},
            "mappings": [{"from": SOURCE_NETWORK, "to": PRODUCTION, "test": BUBBLE}],
            "policies": {"default": dict(policy)},
            "protected": {one.name: {"site": "here", "vm": one.name}},
            "targets": {
                one.name: {
                    "protected": one.name,
                    "site": "cloud",
                    **({"provision": provision} if provision else {"controller": nowhere, "disks": disks}),
                }
            },
        }
    )


def settings(url: str, directory: Path, networks: Mapping[str, str], **other: Any) -> CloudStackSettings:
    quick: dict[str, Any] = {"poll": 0.01, "settle": 0.1, "patience": 5.0, "timeout": 5.0}
    return CloudStackSettings(
        url=url,
        key=SecretRef(file=str(directory / "key")),
        secret=SecretRef(file=str(directory / "secret")),
        networks=networks,
        **(quick | other),
    )
