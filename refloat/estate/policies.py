"""Policies as the estate file states them."""

from __future__ import annotations

from ipaddress import ip_interface
from typing import Annotated

from pydantic import Field, IPvAnyAddress, field_validator, model_validator

from refloat import model
from refloat.estate.forms import AbsolutePath, Domain, Form, Interface, Mac, Uuid
from refloat.estate.probes import ProbeForm
from refloat.policy import (
    AdaptChoice,
    AfterDeadline,
    CommitThen,
    DirtyNtfs,
    Hibernated,
    MacPolicy,
    NicRule,
    OnFailure,
    PinNames,
    Rebuild,
    SanPolicy,
    Weighty,
    WindowsPolicy,
)


class NicForm(Form):
    """An adapter's own mode, or its own addresses at the recovery site (with prefix)."""

    network: model.NetworkMode | None = None
    addresses: list[Interface] = []
    gateway: IPvAnyAddress | None = None
    gateway6: IPvAnyAddress | None = None
    dns: list[IPvAnyAddress] = []
    search: list[Domain] = []
    pin_names: PinNames | None = None

    @model_validator(mode="after")
    def _fits(self) -> NicForm:
        if self.addresses and self.network not in (None, model.NetworkMode.READDRESS):
            raise ValueError(f"addresses are for the mode readdress, not for {self.network}")
        if not self.addresses and (self.gateway or self.gateway6 or self.dns or self.search):
            raise ValueError("a gateway, dns and search need addresses")
        networks = [ip_interface(address).network for address in self.addresses]
        for gateway, version in ((self.gateway, 4), (self.gateway6, 6)):
            if gateway is None:
                continue
            if gateway.version != version:
                raise ValueError(f"{gateway} is no gateway for IPv{version}")
            if not gateway.is_link_local and not any(gateway in network for network in networks):
                raise ValueError(f"the gateway {gateway} is in the subnet of none of the addresses")
        return self

    def record(self, mac: str) -> NicRule:
        return NicRule(
            mac.lower(),
            self.network,
            tuple(self.addresses),
            "" if self.gateway is None else str(self.gateway),
            "" if self.gateway6 is None else str(self.gateway6),
            tuple(str(server) for server in self.dns),
            tuple(self.search),
            self.pin_names,
        )


class WindowsForm(Form):
    """What holds for Windows guests alone."""

    hibernated: Hibernated = Hibernated.REFUSE
    ntfs_dirty: DirtyNtfs = DirtyNtfs.REFUSE
    san_policy: SanPolicy = SanPolicy.KEEP
    online_shared: list[str] = []
    report_deadline: Annotated[int, Field(ge=10)] = 2700

    def record(self) -> WindowsPolicy:
        plain = self.model_dump(exclude={"online_shared"})
        return WindowsPolicy(**plain, online_shared=tuple(self.online_shared))


class PolicyForm(Form):
    mac: MacPolicy = MacPolicy.KEEP
    shutdown_deadline: Annotated[int, Field(ge=1)] = 180
    shutdown_then: AfterDeadline = AfterDeadline.POWER_OFF
    network: model.NetworkMode = model.NetworkMode.RESTORE
    pin_names: PinNames = PinNames.AUTO
    nics: dict[Mac, NicForm] = {}
    adapt: AdaptChoice = AdaptChoice.AUTO
    rebuild: Rebuild = Rebuild.NEVER
    on_failure: OnFailure = OnFailure.ROLLBACK
    report_deadline: Annotated[int, Field(ge=10)] = 600
    serial_console: bool = False
    probes: Annotated[list[ProbeForm], Field(max_length=50)] = []
    disk_bus: model.DiskBus = model.DiskBus.VIRTIO_BLK
    nic_model: model.NicModel = model.NicModel.VIRTIO
    luks_keys: dict[Uuid, AbsolutePath] = {}
    sync_every: Annotated[int, Field(ge=1)] | None = None
    rpo: Annotated[int, Field(ge=1)] | None = None
    test_duration: Annotated[int, Field(ge=1)] | None = None
    commit_deadline: Annotated[int, Field(ge=1)] | None = None
    commit_then: CommitThen = CommitThen.REMIND
    windows: WindowsForm = WindowsForm()
    second_person: list[Weighty] = []

    @field_validator("luks_keys")
    @classmethod
    def _one_spelling(cls, keys: dict[str, str]) -> dict[str, str]:
        plain = {uuid.lower(): file for uuid, file in keys.items()}
        if len(plain) != len(keys):
            raise ValueError("one container is named twice")
        return plain
