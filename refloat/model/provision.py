"""What is made for a target through its platform's API: the wish, chosen once, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from refloat.model.target import Target


class ProvisionStage(StrEnum):
    MAKING = "making"  # all of it, some or nothing may exist
    MADE = "made"
    REMOVING = "removing"


@dataclass(frozen=True)
class WantedDisk:
    """A replica volume: `key` is the source disk's, `capacity` its size in bytes."""

    key: str
    capacity: int


@dataclass(frozen=True)
class WantedController:
    """The controller VM that is to be made, chosen and kept before anything is made: a second attempt makes
    the same, and finds what the first one made.

    `id` is random and in the name of everything that is made: what carries it is ours. `image` is a raw disk
    image on the hub's host, `template` one that the platform has; one of both is given. `address` has a
    prefix ("10.0.0.5/24"), empty means DHCP. `memory` in bytes. `thin`: the storage may be promised more than
    once. `identity` and `host_key` are the template's own, or empty. `options` are the platform's own words.
    """

    target: str
    id: str
    vm: str
    image: str
    template: str
    network: str
    address: str
    gateway: str
    mac: str
    cpus: int
    memory: int
    storage: str
    disks: tuple[WantedDisk, ...]
    thin: bool = False
    identity: str = ""
    host_key: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """The beginning of the name of every volume of this controller."""
        return f"{self.vm}-{self.id}-"

    def serial(self, number: int) -> str:
        """Of the replica volume with this number, where the platform lets it be chosen: 20 bytes at most."""
        return f"rf-{self.id}-{number}"


@dataclass(frozen=True)
class Provision:
    """What the store keeps of a target that was made, or is being made."""

    wanted: WantedController
    stage: ProvisionStage
    target: Target | None = None
