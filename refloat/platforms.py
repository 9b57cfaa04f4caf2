"""From the estate's sites and targets to drivers. A platform is one row here and one module."""

from __future__ import annotations

from pathlib import Path

from refloat.controller.client import ControllerClient
from refloat.destinations.base import Destination
from refloat.destinations.cloudstack import CloudStackDestination
from refloat.destinations.cloudstack_provision import CloudStackProvisioner
from refloat.destinations.libvirt import LibvirtDestination
from refloat.destinations.libvirt_provision import LibvirtProvisioner
from refloat.destinations.libvirt_spec import AttachKind, NetworkAttach
from refloat.destinations.provisioner import Provisioner
from refloat.destinations.simulated_provision import SimulatedProvisioner
from refloat.errors import Refused
from refloat.estate import Estate, Network
from refloat.estate.cloudstack import CloudStackSite
from refloat.estate.sites import LibvirtSite, SimulatedSite
from refloat.estate.vsphere import VsphereSite
from refloat.model import Target
from refloat.secret import Opened, none_sealed
from refloat.simulated.world import NETWORKS, OWN, World
from refloat.sources.base import Source
from refloat.sources.libvirt import LibvirtSource
from refloat.sources.vsphere import VsphereSource


class Platforms:
    """Drivers are made once and shared: they hold connections, never decisions."""

    def __init__(self, estate: Estate, data_dir: Path, opened: Opened = none_sealed) -> None:
        self._estate = estate
        self._data_dir = data_dir
        self._opened = opened
        self._sources: dict[str, Source] = {}
        self._destinations: dict[str, Destination] = {}
        self._controllers: dict[str, ControllerClient] = {}
        self._worlds: dict[str, World] = {}

    def use(self, estate: Estate) -> None:
        """Drivers of what is another now are made anew. Who works with an old one keeps it to the end.

        Everything else takes the kept drivers first and then reads the estate: what it makes by the old one
        comes into the old set, and is not found again.
        """
        old = self._estate
        for name, form in old.targets.items():
            if estate.targets.get(name) != form:
                self.forget(name)
        self._estate = estate
        sources, destinations = dict(self._sources), dict(self._destinations)
        controllers = dict(self._controllers)
        other = {site for site in old.sites if estate.sites.get(site) != old.sites[site]}
        for site in other:
            sources.pop(site, None)
            destinations.pop(site, None)
        for name, form in old.targets.items():
            if form.site in other or estate.targets.get(name) != form:
                controllers.pop(name, None)
        self._sources, self._destinations, self._controllers = sources, destinations, controllers

    def source(self, site: str) -> Source:
        known = self._sources
        if site not in known:
            known[site] = self._new_source(site)
        return known[site]

    def _new_source(self, site: str) -> Source:
        form = self._estate.sites[site]
        if isinstance(form, SimulatedSite):
            return self._world(form.uri).source
        if isinstance(form, VsphereSite):
            return VsphereSource(form.settings(self._opened))
        if isinstance(form, CloudStackSite):
            raise Refused(
                f"site {site} is CloudStack: VMs are recovered there, not protected",
                code="destination_only",
                hint="name a libvirt or vSphere site as the protected VM's site",
            )
        return LibvirtSource(form.uri)

    def destination(self, site: str) -> Destination:
        known = self._destinations
        if site not in known:
            form = self._estate.sites[site]
            if isinstance(form, SimulatedSite):
                return self._world(form.uri).destination
            if isinstance(form, VsphereSite):
                raise Refused(
                    f"site {site} is vSphere: it is a source, and nothing can be recovered there",
                    code="source_only",
                    hint="name a libvirt or CloudStack site as the target's site",
                )
            if isinstance(form, CloudStackSite):
                journals = self._data_dir / "cloudstack" / site
                known[site] = CloudStackDestination(form.settings(self._opened), journals)
                return known[site]
            networks = {name: _attach(network) for name, network in form.networks.items()}
            known[site] = LibvirtDestination(form.uri, networks)
        return known[site]

    def controller(self, target: Target) -> ControllerClient:
        known, site = self._controllers, self._estate.sites[target.site]
        if isinstance(site, SimulatedSite):
            return self._world(site.uri).controller(target.controller_vm)
        if target.name not in known:
            destination = self.destination(target.site)
            endpoint = target.endpoint
            known[target.name] = ControllerClient(
                endpoint,
                reach=lambda: destination.reach(target.controller_vm, endpoint.address, endpoint.port),
                state_dir=self._data_dir / "targets" / target.name,
            )
        return known[target.name]

    def provisioner(self, site: str) -> Provisioner:
        """What makes controllers there. Raises Refused where they cannot be made by the platform's API."""
        form = self._estate.sites[site]
        if isinstance(form, SimulatedSite):
            return SimulatedProvisioner(self._world(form.uri).destination, OWN, NETWORKS)
        if isinstance(form, LibvirtSite):
            networks = {name: _attach(network) for name, network in form.networks.items()}
            return LibvirtProvisioner(form.uri, networks)
        if isinstance(form, CloudStackSite):
            return CloudStackProvisioner(form.settings(self._opened), self._data_dir / "cloudstack" / site)
        raise Refused(
            f"controllers cannot be made at site {site}",
            code="no_provisioning",
            hint="make the VM by hand, and name it with `controller` and `disks`",
        )

    def forget(self, target: str) -> None:
        """The target's controller is another one now, or none."""
        known = self._controllers.pop(target, None)
        if known is not None:
            known.disconnect()

    def _world(self, uri: str) -> World:
        if uri not in self._worlds:
            self._worlds[uri] = World(Path(uri))
        return self._worlds[uri]


def _attach(network: Network) -> NetworkAttach:
    return NetworkAttach(
        kind=AttachKind(network.kind),
        subnet=str(network.subnet or ""),
        restrict=network.isolated,
        source=network.name,
    )
