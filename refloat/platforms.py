"""From the estate's sites and targets to drivers. A platform is one row here and one module."""

from __future__ import annotations

from pathlib import Path

from refloat.controller.client import ControllerClient
from refloat.destinations.base import Destination
from refloat.destinations.libvirt import LibvirtDestination
from refloat.destinations.libvirt_spec import AttachKind, NetworkAttach
from refloat.estate import Estate, Network
from refloat.model import Target
from refloat.simulated.world import World
from refloat.sources.base import Source
from refloat.sources.libvirt import LibvirtSource


class Platforms:
    """Drivers are made once and shared: they hold connections, never decisions."""

    def __init__(self, estate: Estate, data_dir: Path) -> None:
        self._estate = estate
        self._data_dir = data_dir
        self._sources: dict[str, Source] = {}
        self._destinations: dict[str, Destination] = {}
        self._controllers: dict[str, ControllerClient] = {}
        self._worlds: dict[str, World] = {}

    def source(self, site: str) -> Source:
        if site not in self._sources:
            form = self._estate.sites[site]
            simulated = form.platform == "simulated"
            self._sources[site] = self._world(form.uri).source if simulated else LibvirtSource(form.uri)
        return self._sources[site]

    def destination(self, site: str) -> Destination:
        if site not in self._destinations:
            form = self._estate.sites[site]
            if form.platform == "simulated":
                return self._world(form.uri).destination
            networks = {name: _attach(network) for name, network in form.networks.items()}
            self._destinations[site] = LibvirtDestination(form.uri, networks)
        return self._destinations[site]

    def controller(self, target: Target) -> ControllerClient:
        site = self._estate.sites[target.site]
        if site.platform == "simulated":
            return self._world(site.uri).controller(target.controller_vm)
        if target.name not in self._controllers:
            destination = self.destination(target.site)
            endpoint = target.endpoint
            self._controllers[target.name] = ControllerClient(
                endpoint,
                reach=lambda: destination.reach(target.controller_vm, endpoint.address, endpoint.port),
                state_dir=self._data_dir / "targets" / target.name,
            )
        return self._controllers[target.name]

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
