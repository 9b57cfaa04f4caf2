"""Sites and their networks, and which network of a source becomes which of the recovery site."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import Field, IPvAnyAddress, IPvAnyNetwork, model_validator

from refloat.estate.cloudstack import CloudStackSite
from refloat.estate.forms import Form, Name
from refloat.estate.vsphere import VsphereSite
from refloat.policy import Readdress, When


class Network(Form):
    """`user` is a user-mode segment of its own (`subnet`), closed to everything when `isolated`."""

    kind: Literal["user", "network", "bridge"]
    subnet: IPv4Network | None = None
    isolated: bool = False
    name: str = ""  # of the libvirt network or bridge


class LibvirtSite(Form):
    platform: Literal["libvirt"]
    uri: str
    networks: dict[Name, Network] = {}


class SimulatedSite(Form):
    """`uri` is the directory of its world, which both sides share."""

    platform: Literal["simulated"]
    uri: str
    networks: dict[Name, Network] = {}


# Told apart by `platform`. Each has `uri`, which names the installation, and `networks`.
Site = Annotated[LibvirtSite | SimulatedSite | VsphereSite | CloudStackSite, Field(discriminator="platform")]


class ReaddressForm(Form):
    """Another subnet: `from` becomes `to`, in live failovers, in tests or always."""

    old: IPvAnyNetwork = Field(alias="from")
    new: IPvAnyNetwork = Field(alias="to")
    gateway: IPvAnyAddress | None = None
    dns: list[IPvAnyAddress] = []
    when: When = When.ALWAYS

    @model_validator(mode="after")
    def _fits(self) -> ReaddressForm:
        if self.old.version != self.new.version:
            raise ValueError(f"from {self.old} and to {self.new} are not of one family")
        if self.gateway is not None and self.gateway not in self.new:
            raise ValueError(f"the gateway {self.gateway} is not in {self.new}")
        return self

    def record(self) -> Readdress:
        gateway = "" if self.gateway is None else str(self.gateway)
        dns = tuple(str(server) for server in self.dns)
        return Readdress(str(self.old), str(self.new), gateway, dns, self.when)


class Mapping(Form):
    """`from` names a network of a source site as its platform states it, `to` and `test` networks of the
    recovery site; `readdress` says which of its subnets are others there."""

    source: str = Field(alias="from")
    live: Name = Field(alias="to")
    test: Name
    readdress: list[ReaddressForm] = []

    @model_validator(mode="after")
    def _plain(self) -> Mapping:
        for index, one in enumerate(self.readdress):
            for other in self.readdress[:index]:
                apart = {one.when, other.when} == {When.LIVE, When.TEST}
                if one.old == other.old and not apart:
                    raise ValueError(f"two rules say what {one.old} becomes")
        return self
