"""Protected VMs and their replication targets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, IPvAnyAddress, model_validator

from refloat.estate.forms import AbsolutePath, Form, Interface, Name
from refloat.model import Endpoint


class Protected(Form):
    site: Name
    vm: str
    policy: Name = "default"


class Controller(Form):
    """`address` is the controller's on its management network; `identity` the file of the private key."""

    vm: str
    address: str
    port: int = 22
    user: str = "root"
    identity: Path
    host_key: str


class ProvisionForm(Form):
    """What `refloat target add` makes: a controller VM out of an `image` (a raw file of the hub's host) or a
    `template` of the platform, in this network, and replica volumes in this storage (a libvirt pool, a
    CloudStack disk offering). `memory` in MiB. `options` are the platform's own words. `identity` and
    `host_key` are those that a template was made with; without them each controller gets its own."""

    vm: str = Field(default="", pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9_-]{0,62})?$")
    image: AbsolutePath | None = None
    template: str = ""
    network: Name
    address: Interface | Literal["dhcp"] = "dhcp"
    gateway: IPvAnyAddress | None = None
    cpus: int = Field(default=2, ge=1, le=64)
    memory: int = Field(default=1024, ge=512, le=65536)
    storage: str = Field(min_length=1)
    thin: bool = False
    identity: AbsolutePath | None = None
    host_key: str = Field(default="", pattern=r"^(?:ssh-ed25519 [A-Za-z0-9+/=]+)?$")
    options: dict[str, str] = {}

    @model_validator(mode="after")
    def _one_origin(self) -> ProvisionForm:
        if bool(self.image) == bool(self.template):
            raise ValueError("name either an image or a template")
        if (self.identity is None) == bool(self.host_key):
            raise ValueError("identity and host_key go together")
        return self


class TargetForm(Form):
    """A controller that exists, with its replica `disks` (source disk -> serial), or one to be made."""

    protected: Name
    site: Name
    controller: Controller | None = None
    disks: dict[str, str] = {}
    provision: ProvisionForm | None = None

    @model_validator(mode="after")
    def _made_or_to_be_made(self) -> TargetForm:
        if (self.controller is None) == (self.provision is None):
            raise ValueError("say either `controller` and `disks`, or `provision`")
        if bool(self.disks) == (self.provision is not None):
            raise ValueError("`disks` belong to a `controller`; `provision` takes them from the source")
        return self

    def controller_vm(self, name: str) -> str:
        """The controller's name; one that is to be made is named after its target."""
        if self.controller is not None:
            return self.controller.vm
        return self.provision.vm or f"refloat-{name}" if self.provision else ""

    def endpoint(self) -> Endpoint:
        """Empty where the controller is to be made."""
        if self.controller is None:
            return Endpoint("", 22, "root", "", "")
        one = self.controller
        return Endpoint(one.address, one.port, one.user, str(one.identity), one.host_key)
