"""The estate file: sites, networks and their mappings, policies, protected VMs and targets.

This is the files' edge: pydantic checks the form, and everything behind it gets frozen records.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from refloat import model
from refloat.errors import NotFound, Refused
from refloat.policy import AdaptChoice, AfterDeadline, MacPolicy, OnFailure, Policy, Probe
from refloat.run import Networks

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(Form):
    """`user` is a user-mode segment of its own (`subnet`), closed to everything when `isolated`."""

    kind: Literal["user", "network", "bridge"]
    subnet: IPv4Network | None = None
    isolated: bool = False
    name: str = ""  # of the libvirt network or bridge


class Site(Form):
    platform: Literal["libvirt"]
    uri: str
    networks: dict[Name, Network] = {}


class Mapping(Form):
    """`from` names a network of a source site as its platform states it, `to` and `test` networks of the
    recovery site."""

    source: str = Field(alias="from")
    live: Name = Field(alias="to")
    test: Name


class ProbeForm(Form):
    port: int = Field(ge=1, le=65535)
    expect: str = ""
    address: str = ""


class PolicyForm(Form):
    mac: MacPolicy = MacPolicy.KEEP
    shutdown_deadline: Annotated[int, Field(ge=1)] = 180
    shutdown_then: AfterDeadline = AfterDeadline.POWER_OFF
    network: model.NetworkMode = model.NetworkMode.RESTORE
    adapt: AdaptChoice = AdaptChoice.AUTO
    on_failure: OnFailure = OnFailure.ROLLBACK
    report_deadline: Annotated[int, Field(ge=10)] = 600
    probes: list[ProbeForm] = []


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
        return Policy(**{**form.model_dump(exclude={"probes"}), "name": name, "probes": probes})

    def networks(self) -> Networks:
        return Networks(
            live={mapping.source: mapping.live for mapping in self.mappings},
            test={mapping.source: mapping.test for mapping in self.mappings},
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
