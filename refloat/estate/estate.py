"""The estate as a whole: what the names in it stand for."""

from __future__ import annotations

from typing import Literal

from refloat import model
from refloat.errors import NotFound
from refloat.estate.forms import Form, Name, SecretForm
from refloat.estate.policies import PolicyForm
from refloat.estate.sites import Mapping, Site
from refloat.estate.targets import Protected, TargetForm
from refloat.policy import Policy
from refloat.run import Networks


class Estate(Form):
    version: Literal[1]
    sites: dict[Name, Site]
    mappings: list[Mapping] = []
    policies: dict[Name, PolicyForm] = {}
    protected: dict[Name, Protected]
    targets: dict[Name, TargetForm]

    def target(self, name: str) -> model.Target:
        """As the file says it: of a target whose controller is to be made, the wish; see provision.py."""
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
            controller_vm=form.controller_vm(name),
            endpoint=form.endpoint(),
            disks=tuple(model.ReplicaDisk(key, serial) for key, serial in form.disks.items()),
            policy=protected.policy,
        )

    def users_of(self, secret: str) -> list[str]:
        """Sites that name this sealed secret."""
        return [
            name
            for name, site in self.sites.items()
            if any(isinstance(value, SecretForm) and value.sealed == secret for _, value in site)
        ]

    def policy(self, name: str) -> Policy:
        form = self.policies.get(name, PolicyForm())
        probes = tuple(probe.record() for probe in form.probes)
        nics = tuple(nic.record(mac) for mac, nic in form.nics.items())
        plain = form.model_dump(exclude={"probes", "nics", "windows", "second_person"})
        windows = form.windows.record()
        records = {"probes": probes, "nics": nics, "windows": windows}
        return Policy(**{**plain, **records, "name": name, "second_person": tuple(form.second_person)})

    def networks(self) -> Networks:
        return Networks(
            live={mapping.source: mapping.live for mapping in self.mappings},
            test={mapping.source: mapping.test for mapping in self.mappings},
            readdress={
                mapping.source: tuple(rule.record() for rule in mapping.readdress)
                for mapping in self.mappings
            },
        )
