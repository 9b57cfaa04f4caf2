"""What the contract of provisioners needs of each platform: a provisioner, a wish, and a look at both."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from refloat.controller.seed import OFFSET
from refloat.destinations.base import Destination
from refloat.destinations.cloudstack import CloudStackDestination
from refloat.destinations.cloudstack_provision import CloudStackProvisioner
from refloat.destinations.libvirt import LibvirtDestination
from refloat.destinations.libvirt_provision import LibvirtProvisioner
from refloat.destinations.libvirt_spec import NetworkAttach
from refloat.destinations.provisioner import Provisioner
from refloat.destinations.simulated_provision import SimulatedProvisioner
from refloat.model import WantedController, WantedDisk
from refloat.simulated.world import NETWORKS, OWN, World
from tests.cloudstack.server import CloudStack
from tests.contract.cloudstack_rig import furnished, keys_in, networks
from tests.contract.destination_rigs import URI
from tests.unit.destinations.cloudstack_world import settings

MIB = 1 << 20
IMAGE_SIZE = 3 * MIB


class ProvisionRig(Protocol):
    wanted: WantedController
    parts: int  # how many things `left` names when all is there
    acts: int  # how many things are said while it is made

    @property
    def provisioner(self) -> Provisioner: ...

    @property
    def destination(self) -> Destination: ...

    def file(self, volume: str) -> Path:
        """Where the platform keeps this volume's content."""
        ...

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
    parts, acts = 4, 4
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

    def file(self, volume: str) -> Path:
        return Path(volume)

    def own_disk(self) -> bytes:
        return (self.directory / f"{self.wanted.prefix}controller.raw").read_bytes()

    def close(self) -> None:
        LibvirtDestination(URI, self.networks).destroy(self.wanted.vm)
        for left in self.directory.glob(f"{self.wanted.prefix}*"):
            left.unlink()


class SimulatedProvisionRig:
    parts, acts = 4, 4

    def __init__(self, directory: Path) -> None:
        self.destination = World(directory).destination
        self.provisioner = SimulatedProvisioner(self.destination, OWN, NETWORKS)
        self.wanted = wish("web-controller", template="any", storage="any")

    def file(self, volume: str) -> Path:
        return Path(volume)

    def own_disk(self) -> bytes:
        return b""

    def close(self) -> None:
        """Everything lies in the test's own directory."""


class CloudStackProvisionRig:
    acts = 6
    parts = 3  # the controller's own disk has no name of its own: it goes with its VM

    def __init__(self, directory: Path) -> None:
        (directory / "volumes").mkdir()
        self.server = CloudStack(directory / "volumes")
        self.server.start()
        self.cloud = furnished(self.server)
        keys_in(directory, self.server.estate.admin)
        made = settings(self.server.url, directory, networks(self.cloud))
        self.provisioner = CloudStackProvisioner(made, directory / "journals")
        self.destination = CloudStackDestination(made, directory / "journals")
        template = next(iter(self.cloud.templates.values())).name
        custom = next(one.name for one in self.cloud.disk_offerings.values() if not one.gib)
        keys = {"identity": "/etc/refloat/template-key", "host_key": "ssh-ed25519 AAAA"}
        self.wanted = wish("web-controller", template=template, storage=custom, **keys)

    def file(self, volume: str) -> Path:
        return self.cloud.content(volume)

    def own_disk(self) -> bytes:
        return b""

    def close(self) -> None:
        self.server.stop()
        self.server.check()


def expected_own_disk(seed: bytes) -> bytes:
    content = bytearray(IMAGE_SIZE)
    content[510:512] = b"\x55\xaa"
    content[2 * MIB : 2 * MIB + 4] = b"data"
    content[OFFSET : OFFSET + len(seed)] = seed
    return bytes(content)
