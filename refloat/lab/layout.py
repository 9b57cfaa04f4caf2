"""Where a lab lives and how its parts are called: everything that `lab down` has to find again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SOURCE_SUBNET = "10.20.30.0/24"
SOURCE_ADDRESS = "10.20.30.40"
MANAGEMENT_SUBNET = "10.90.0.0/24"
CONTROLLER_ADDRESS = "10.90.0.15"  # what the user-mode network's DHCP gives to its first guest
SOURCE_MAC = "00:50:56:aa:bb:cc"
CONTROLLER_MAC = "52:54:00:90:00:15"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Lab:
    """`directory` holds all of the lab's files, `name` begins the names of its VMs and its storage pool."""

    name: str = "refloat-lab"
    directory: Path = Path("/var/lib/refloat-lab")
    listen: str = "127.0.0.1:8410"
    uri: str = "qemu:///system"

    @property
    def source_vm(self) -> str:
        return f"{self.name}-source"

    @property
    def controller_vm(self) -> str:
        return f"{self.name}-controller"

    @property
    def images(self) -> Path:
        """The storage pool's directory: the hypervisor's user must be able to enter it."""
        return self.directory / "images"

    @property
    def keys(self) -> Path:
        return self.directory / "keys"

    @property
    def hub_data(self) -> Path:
        return self.directory / "hub"

    @property
    def config(self) -> Path:
        return self.directory / "refloat.yaml"

    @property
    def estate(self) -> Path:
        return self.directory / "estate.yaml"

    @property
    def hub_log(self) -> Path:
        return self.directory / "hub.log"

    @property
    def hub_pid(self) -> Path:
        return self.directory / "hub.pid"


def default_lab() -> Lab:
    """The lab of this machine; REFLOAT_LAB_DIR, REFLOAT_LAB_NAME and REFLOAT_LAB_LISTEN make another one."""
    plain = Lab()
    return Lab(
        name=os.environ.get("REFLOAT_LAB_NAME", plain.name),
        directory=Path(os.environ.get("REFLOAT_LAB_DIR", plain.directory)),
        listen=os.environ.get("REFLOAT_LAB_LISTEN", plain.listen),
    )
