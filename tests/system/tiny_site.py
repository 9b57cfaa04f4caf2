"""A whole hub over real libvirt, with guests of nothing: domains of a few MiB without an operating system.

The recovery site is the libvirt driver on real domains: their power, definition, disks, rollback points and
merges. The source, what runs in the controller and the guest are simulated: the controller's work is done on
a shadow of each replica disk, and what it writes goes through QEMU into the real one. No guest ever reports.

`python -m tests.system.tiny_site DIR URI WHAT` is a hub in a process of its own, as tests/crash has one.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refloat.config import Config
from refloat.controller.client import ControllerClient, Progress
from refloat.destinations.libvirt import LibvirtDestination
from refloat.destinations.libvirt_domains import Domains
from refloat.destinations.libvirt_live import parse_disks
from refloat.destinations.libvirt_spec import DiskSpec, DomainSpec, DomainType, NetworkAttach, NicSpec
from refloat.errors import Failed, Unreachable
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.libvirt_connection import Connection
from refloat.model import Adaptation, AdaptRequest, GuestFacts, PowerState, Target
from refloat.platforms import Platforms
from refloat.simulated.controller import SimulatedController
from refloat.simulated.guest import PROGRAM_AT, RECORD
from refloat.simulated.world import NETWORKS, OWN, Protected, World, estate
from tests.crash.hub_process import attempt

ONE = Protected(1)
VM = ONE.controller
WAIT = 2  # seconds for a report: nobody will give one (an estate file must allow more)
_MIB = 1 << 20


class TinySite:
    """The real domain beside its shadow, in `directory`. `make` it once."""

    def __init__(self, directory: Path, uri: str) -> None:
        self.directory, self.uri = directory, uri
        self.images = directory / "images"
        self.world = World(directory / "world")
        self.domains = Domains(Connection(uri))

    def make(self) -> None:
        """Everything under libvirt; the controller runs, its replica disks are empty."""
        self.images.mkdir(mode=0o711)
        self.directory.chmod(0o711)
        self.world.protect(ONE)
        pool = f"<pool type='dir'><name>{VM}</name><target><path>{self.images}</path></target></pool>"
        Connection(self.uri).get().storagePoolCreateXML(pool)
        disks = [DiskSpec(OWN, str(self._volume("own", _MIB)), "raw")]
        for key, size in zip(ONE.disk_keys(), ONE.disks, strict=True):
            disks.append(DiskSpec(ONE.serial(key), str(self._volume(key, size)), "raw"))
        nic = NicSpec("52:54:00:00:00:01", "management", NetworkAttach.user(NETWORKS["management"].subnet))
        spec = DomainSpec(
            VM,
            str(uuid.uuid4()),
            DomainType.QEMU,
            1,
            64 * _MIB,
            "controller",
            disks=tuple(disks),
            nics=(nic,),
        )
        destination = LibvirtDestination(self.uri, {})
        destination.create(spec)
        destination.start(VM)

    def remove(self) -> None:
        self.world.controller(VM).stopped()
        connection = Connection(self.uri).get()
        LibvirtDestination(self.uri, {}).destroy(VM)
        for pool in connection.listAllStoragePools():
            if pool.name() == VM:
                pool.destroy()

    def _volume(self, name: str, size: int) -> Path:
        file = self.images / f"{ONE.name}-{name}.raw"
        with file.open("wb") as opened:
            opened.truncate(size)
        return file

    # ------------------------------------------------------------ disks

    def replicas(self) -> dict[str, bytes]:
        """What the real replica disks hold, below any rollback point."""
        return {key: (self.images / f"{ONE.name}-{key}.raw").read_bytes() for key in ONE.disk_keys()}

    def shadows(self) -> dict[str, bytes]:
        """What the controller has made of the last sync point."""
        folder = self.world.destination.volumes.directory
        return {key: (folder / f"{ONE.name}-{key}.raw").read_bytes() for key in ONE.disk_keys()}

    def sources(self) -> dict[str, bytes]:
        return {key: self.world.source.content(ONE.name, key) for key in ONE.disk_keys()}

    def write(self, serial: str, command: str) -> None:
        """A command of qemu-io's, on this disk of the running domain. Raises Failed where it says more than
        that it wrote."""
        domain = self.domains.lookup(VM)
        disks = [disk.serial for disk in parse_disks(self.domains.xml(domain))]
        device = f"/machine/peripheral/virtio-disk{disks.index(serial)}/virtio-backend"
        for one in (command, "flush"):
            answer = self.domains.hmp(domain, f'qemu-io -d {device} "{one}"')
            if answer.strip() and "wrote" not in answer:
                raise Failed(f"qemu-io: {answer}", code="qemu_io")

    def write_content(self, serial: str, offset: int, content: bytes) -> None:
        file = self.images / f"{ONE.name}.content"  # where QEMU's user may read
        file.write_bytes(content)
        self.write(serial, f"write -s {file} {offset} {len(content)}")


class TinyController(SimulatedController):
    """Answers while the real domain runs as the controller."""

    def __init__(self, site: TinySite, directory: Path) -> None:
        super().__init__(site.world.destination, VM, OWN, directory)
        self._site = site

    def _require_running(self) -> None:
        domain = self._site.domains.lookup(VM)
        power, _ = self._site.domains.power(domain)
        if power is not PowerState.RUNNING or self._site.domains.spec(domain).disks[0].serial != OWN:
            raise Unreachable(f"{VM} does not run as a controller", hint="is it off, or promoted?")

    def call(
        self,
        command: Sequence[str],
        content: bytes = b"",
        progress: Progress | None = None,
        timeout: float = 0,
    ) -> Any:
        answer = super().call(command, content, progress, timeout)
        if command[0] == "sync":
            self._write_through()
        return answer

    def _write_through(self) -> None:
        real = self._site.replicas()
        for key, content in self._site.shadows().items():
            if content != real[key]:
                self._site.write_content(ONE.serial(key), 0, content)

    def adapt(self, request: AdaptRequest, facts: GuestFacts, progress: Progress | None = None) -> Adaptation:
        """The shadow's program, read back and undone there: only the real disk gets it."""
        root = next(disk for disk in request.disks if disk.key == facts.root.disk)
        shadow = self._site.world.destination
        before = shadow.guest_reads(VM, root.serial, PROGRAM_AT, RECORD)
        found = super().adapt(request, facts, progress)
        program = shadow.guest_reads(VM, root.serial, PROGRAM_AT, RECORD)
        shadow.guest_writes(VM, root.serial, PROGRAM_AT, before)
        self._site.write_content(root.serial, PROGRAM_AT, program)
        return found


class TinyPlatforms(Platforms):
    def __init__(self, estate: Estate, data_dir: Path, site: TinySite) -> None:
        super().__init__(estate, data_dir)
        self._controller = TinyController(site, site.directory / "world" / "controllers" / VM)

    def controller(self, target: Target) -> ControllerClient:
        return self._controller


def open_hub(site: TinySite) -> Hub:
    form = estate(site.world.directory, [ONE], {})
    sites, targets = form["sites"], form["targets"]
    assert isinstance(sites, dict) and isinstance(targets, dict)
    networks = {
        name: {"kind": "user", "subnet": network.subnet, "isolated": name == "bubble"}
        for name, network in NETWORKS.items()
    }
    sites["there"] = {"platform": "libvirt", "uri": site.uri, "networks": networks}
    targets[ONE.name]["site"] = "there"
    read = Estate.model_validate(form)
    read.policies["default"] = read.policies["default"].model_copy(update={"report_deadline": WAIT})
    data = site.directory / "hub"
    hub = Hub(Config(data_dir=data), read, TinyPlatforms(read, data, site))
    hub.open()
    return hub


def main(directory: Path, uri: str, what: str) -> None:
    attempt(open_hub(TinySite(directory, uri)), what)
    os._exit(0)  # as `refloat serve` ends: what runs in threads is not waited for


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
