"""What the contract of provisioners needs of each platform: a provisioner, a wish, and a look at both."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from refloat.controller.seed import OFFSET
from refloat.destinations.base import Destination
from refloat.destinations.libvirt import LibvirtDestination
from refloat.destinations.libvirt_provision import LibvirtProvisioner
from refloat.destinations.libvirt_spec import NetworkAttach
from refloat.destinations.provisioner import Provisioner
from refloat.destinations.simulated_provision import SimulatedProvisioner
from refloat.model import WantedController, WantedDisk
from refloat.simulated.world import NETWORKS, OWN, World
from tests.contract.destination_rigs import URI

MIB = 1 << 20
IMAGE_SIZE = 3 * MIB


class ProvisionRig(Protocol):
    wanted: WantedController

    @property
    def provisioner(self) -> Provisioner: ...

    @property
    def destination(self) -> Destination: ...

    def own_disk(self) -> bytes:
        """The content of the controller's own disk; b"" where the platform keeps none."""
        ...

    def close(self) -> None: ...


def wish(vm: str, **changes: Any) -> WantedController:
    identifier = secrets.token_hex(4)
    made = WantedController(
        target="web",
        id=identifier,
        vm=vm,
        image="",
        template="",
        network="management",
        address="",
        gateway="",
        mac="52:54:00:aa:bb:cc",
        cpus=1,
        memory=64 * MIB,
        storage="",
        disks=(WantedDisk("sda", 2 * MIB), WantedDisk("sdb", MIB + 512)),
    )
    return replace(made, **changes)


def image(file: Path) -> Path:
    """A raw disk as the controller's image is one: a boot sector, data, and holes."""
    content = bytearray(IMAGE_SIZE)
    content[510:512] = b"\x55\xaa"
    content[2 * MIB : 2 * MIB + 4] = b"data"
    with file.open("wb") as out:
        out.write(content[:512])
        out.seek(2 * MIB)
        out.write(content[2 * MIB : 2 * MIB + 4096])
        out.truncate(IMAGE_SIZE)
    return file


class LibvirtProvisionRig:
    networks = {  # noqa: RUF012
        "management": NetworkAttach.user("10.90.0.0/24"),
        "closed": NetworkAttach.user("10.90.0.0/24", restrict=True),
        "bridge": NetworkAttach.bridge("br-none"),
    }

    def __init__(self, directory: Path, pool: str, scratch: Path, uri: str = URI) -> None:
        self.directory = directory
        self.provisioner = LibvirtProvisioner(uri, self.networks)
        self.destination = LibvirtDestination(uri, self.networks)
        vm = f"rf-test-{secrets.token_hex(4)}"
        # Thin: the test's host may have less room than a real one; what is refused for it has its own test.
        self.wanted = wish(vm, storage=pool, image=str(image(scratch / "controller.raw")), thin=True)

    def own_disk(self) -> bytes:
        return (self.directory / f"{self.wanted.prefix}controller.raw").read_bytes()

    def close(self) -> None:
        LibvirtDestination(URI, self.networks).destroy(self.wanted.vm)
        for left in self.directory.glob(f"{self.wanted.prefix}*"):
            left.unlink()


class SimulatedProvisionRig:
    def __init__(self, directory: Path) -> None:
        self.destination = World(directory).destination
        self.provisioner = SimulatedProvisioner(self.destination, OWN, NETWORKS)
        self.wanted = wish("web-controller", template="any", storage="any")

    def own_disk(self) -> bytes:
        return b""

    def close(self) -> None:
        """Everything lies in the test's own directory."""


def expected_own_disk(seed: bytes) -> bytes:
    content = bytearray(IMAGE_SIZE)
    content[510:512] = b"\x55\xaa"
    content[2 * MIB : 2 * MIB + 4] = b"data"
    content[OFFSET : OFFSET + len(seed)] = seed
    return bytes(content)
