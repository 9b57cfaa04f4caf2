"""The estate file: sites, networks and their mappings, policies, protected VMs and targets.

This is the files' edge: pydantic checks the form, and everything behind it gets frozen records.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network, ip_interface
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyAddress,
    IPvAnyNetwork,
    ValidationError,
    field_validator,
    model_validator,
)

from refloat import model
from refloat.errors import NotFound, Refused
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
    Policy,
    Probe,
    Readdress,
    SanPolicy,
    When,
    WindowsPolicy,
)
from refloat.run import Networks

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")]
Mac = Annotated[str, Field(pattern=r"^(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$")]
Domain = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,253}$")]


def _interface(text: str) -> str:
    if "/" not in text:
        raise ValueError(f"{text} has no prefix: write {text}/24")
    return str(ip_interface(text))


Interface = Annotated[str, AfterValidator(_interface)]


def _absolute(path: str) -> str:
    if not Path(path).is_absolute() or "\0" in path:
        raise ValueError(f"{path!r} is no absolute path")
    return path


Uuid = Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$")]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(Form):
    """`user` is a user-mode segment of its own (`subnet`), closed to everything when `isolated`."""

    kind: Literal["user", "network", "bridge"]
    subnet: IPv4Network | None = None
    isolated: bool = False
    name: str = ""  # of the libvirt network or bridge


class Site(Form):
    platform: Literal["libvirt", "simulated"]
    uri: str  # of a simulated site: the directory of its world, which both sides share
    networks: dict[Name, Network] = {}


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


class ProbeForm(Form):
    port: int = Field(ge=1, le=65535)
    expect: str = ""
    address: str = ""


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
    on_failure: OnFailure = OnFailure.ROLLBACK
    report_deadline: Annotated[int, Field(ge=10)] = 600
    serial_console: bool = False
    probes: list[ProbeForm] = []
    disk_bus: model.DiskBus = model.DiskBus.VIRTIO_BLK
    nic_model: model.NicModel = model.NicModel.VIRTIO
    luks_keys: dict[Uuid, AbsolutePath] = {}
    sync_every: Annotated[int, Field(ge=1)] | None = None
    rpo: Annotated[int, Field(ge=1)] | None = None
    test_duration: Annotated[int, Field(ge=1)] | None = None
    commit_deadline: Annotated[int, Field(ge=1)] | None = None
    commit_then: CommitThen = CommitThen.REMIND
    windows: WindowsForm = WindowsForm()

    @field_validator("luks_keys")
    @classmethod
    def _one_spelling(cls, keys: dict[str, str]) -> dict[str, str]:
        plain = {uuid.lower(): file for uuid, file in keys.items()}
        if len(plain) != len(keys):
            raise ValueError("one container is named twice")
        return plain


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


class TargetForm(Form):
    protected: Name
    site: Name
    controller: Controller
    disks: dict[str, str]  # source disk -> serial of the replica disk


class Estate(Form):
    version: Literal[1]
    sites: dict[Name, Site]
    mappings: list[Mapping] = []
    policies: dict[Name, PolicyForm] = {}
    protected: dict[Name, Protected]
    targets: dict[Name, TargetForm]

    def target(self, name: str) -> model.Target:
        form = self.targets.get(name)
        if form is None:
            raise NotFound(
                f"unknown target: {name}", code="unknown_target", hint="list them with `refloat target list`"
            )
        protected = self.protected[form.protected]
        return model.Target(
            name=name,
            source_site=protected.site,
            source_vm=protected.vm,
            site=form.site,
            controller_vm=form.controller.vm,
            endpoint=model.Endpoint(
                address=form.controller.address,
                port=form.controller.port,
                user=form.controller.user,
                identity=str(form.controller.identity),
                host_key=form.controller.host_key,
            ),
            disks=tuple(model.ReplicaDisk(key, serial) for key, serial in form.disks.items()),
            policy=protected.policy,
        )

    def policy(self, name: str) -> Policy:
        form = self.policies.get(name, PolicyForm())
        probes = tuple(Probe(probe.port, probe.expect, probe.address) for probe in form.probes)
        nics = tuple(nic.record(mac) for mac, nic in form.nics.items())
        plain = form.model_dump(exclude={"probes", "nics", "windows"})
        windows = form.windows.record()
        return Policy(**{**plain, "name": name, "probes": probes, "nics": nics, "windows": windows})

    def networks(self) -> Networks:
        return Networks(
            live={mapping.source: mapping.live for mapping in self.mappings},
            test={mapping.source: mapping.test for mapping in self.mappings},
            readdress={
                mapping.source: tuple(rule.record() for rule in mapping.readdress)
                for mapping in self.mappings
            },
        )


def load_estate(file: Path) -> Estate:
    """The estate in this file. Raises Refused (bad_estate) naming the place and what is wrong there."""
    try:
        data = yaml.safe_load(file.read_text())
        estate = Estate.model_validate(data)
    except OSError as error:
        raise _bad(file, error.strerror or str(error), "set `estate:` in the config, or run `refloat lab up`")
    except yaml.YAMLError as error:
        raise _bad(file, f"no YAML: {error}", "mend the file")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise _bad(file, f"{where}: {first['msg']}", "see docs/estate.md for the form")
    _check_references(file, estate)
    _check_nothing_is_shared(file, estate)
    return estate


def _check_references(file: Path, estate: Estate) -> None:
    """Every name that is used is declared."""
    uses: list[tuple[str, str, Collection[str]]] = [
        *((f"protected.{name}.site", item.site, estate.sites) for name, item in estate.protected.items()),
        *((f"targets.{name}.site", item.site, estate.sites) for name, item in estate.targets.items()),
        *(
            (f"targets.{name}.protected", item.protected, estate.protected)
            for name, item in estate.targets.items()
        ),
        *(
            (f"protected.{name}.policy", item.policy, {*estate.policies, "default"})
            for name, item in estate.protected.items()
        ),
    ]
    for where, used, declared in uses:
        if used not in declared:
            raise _bad(
                file, f"{where}: {used!r} is not declared", f"declared: {', '.join(declared) or 'none'}"
            )
    networks = {name for site in estate.sites.values() for name in site.networks}
    for mapping in estate.mappings:
        for used in (mapping.live, mapping.test):
            if used not in networks:
                raise _bad(
                    file, f"mappings: network {used!r} is not declared", f"declared: {', '.join(networks)}"
                )


def _check_nothing_is_shared(file: Path, estate: Estate) -> None:
    """One target per source VM, and one controller per target: the changed-block tracking of two targets and
    the failovers of one VM would each undo what the other relies on. Sites are told apart by their URI."""
    sources: dict[tuple[str, str], str] = {}
    controllers: dict[tuple[str, str], str] = {}
    for name in estate.targets:
        target = estate.target(name)
        source = (estate.sites[target.source_site].uri, target.source_vm)
        controller = (estate.sites[target.site].uri, target.controller_vm)
        other = sources.setdefault(source, name)
        if other != name:
            raise _bad(
                file,
                f"targets.{name}.protected: VM {target.source_vm} is already protected by target {other}",
                "keep one of the two: a VM has one replica",
            )
        other = controllers.setdefault(controller, name)
        if other != name:
            raise _bad(
                file,
                f"targets.{name}.controller.vm: {target.controller_vm} is already the controller of {other}",
                "give each target a controller of its own: it becomes the recovered VM",
            )


def _bad(file: Path, message: str, hint: str) -> Refused:
    return Refused(f"estate file {file}: {message}", code="bad_estate", hint=hint)
