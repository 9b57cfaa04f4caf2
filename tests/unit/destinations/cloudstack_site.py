"""A protected VM, its controller on the CloudStack server of the tests, and a hub over both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from refloat.config import Config
from refloat.hub import Hub
from refloat.model import JobState, Mode, TargetState
from refloat.simulated.source import SimulatedSource
from refloat.simulated.world import Protected
from tests.cloudstack.cloud import Cloud
from tests.cloudstack.model import Vm, Volume
from tests.cloudstack.server import CloudStack
from tests.contract.cloudstack_rig import controller, furnished, keys_in, networks
from tests.unit.destinations.cloudstack_world import CloudWorld, cloud_estate, protect
from tests.unit.simulated.rig import SETTLED, until

ONE = Protected(1)
MIB = 1 << 20


def opened(directory: Path, deadline: int = 10) -> tuple[Hub, CloudWorld]:
    """A hub over what is in `directory`, in this process or in one that is to be killed."""
    known = json.loads((directory / "site.json").read_text())
    policy = {"report_deadline": deadline}
    where = known["url"], known["networks"], known.get("volumes", ())
    form = cloud_estate(directory, ONE, *where, policy, known.get("provision"))
    world = CloudWorld(directory, form, directory / "volumes", known.get("own", ""))
    hub = Hub(Config(data_dir=directory / "hub"), form, world)
    hub.open()
    return hub, world


class CloudSite:
    """`with_hub`: one of its own; else others are opened over it."""

    def __init__(
        self,
        directory: Path,
        server: CloudStack | None = None,
        with_hub: bool = True,
        native: bool = False,
    ) -> None:
        self.directory = directory
        self.folder = directory / "volumes"
        self.folder.mkdir(exist_ok=True)
        self.server = server or CloudStack(self.folder)
        self.server.tick = 30.0
        self.server.start()
        self.cloud: Cloud = furnished(self.server)
        keys_in(directory, self.server.estate.operator)
        self.source = SimulatedSource(directory / "world" / "source")
        protect(self.source, ONE, native)
        made = controller(self.cloud, ONE.controller, (MIB, *ONE.disks), "10.20.30.5", "52:54:00:12:34:56")
        self.vm: Vm = made[0]
        self.own: Volume = made[1][0]
        self.replicas: list[Volume] = made[1][1:]
        self.vm.owner = self.server.estate.operator.account
        self.vm.state = "Running"
        known = {
            "url": self.server.url,
            "networks": networks(self.cloud),
            "volumes": [volume.id for volume in self.replicas],
            "own": self.own.id,
        }
        (directory / "site.json").write_text(json.dumps(known))
        if with_hub:
            self.hub, self.world = opened(directory)

    def close(self) -> None:
        if hasattr(self, "hub"):
            self.hub.close()
            self.world.simulated(ONE.controller).stopped()
        self.server.stop()
        self.server.check()

    def sync(self) -> None:
        self.hub.start_sync(ONE.name)
        until(lambda: not self.hub.target(ONE.name).holder, "the sync")
        target = self.hub.target(ONE.name)
        assert target.state is TargetState.READY and not target.message, target

    def fail_over(self, mode: Mode) -> str:
        job = self.hub.start_failover(ONE.name, mode).id
        self.rest(job)
        return job

    def rest(self, job: str) -> None:
        until(lambda: self.hub.job(job).state in SETTLED, "the job comes to rest")

    def roll_back(self, job: str) -> None:
        self.hub.rollback(job, "tester", discard_writes=True)
        until(lambda: self.hub.job(job).state in (JobState.ROLLED_BACK, JobState.BLOCKED), "the rollback")
        assert self.hub.job(job).state is JobState.ROLLED_BACK, self.hub.job(job).error

    def content(self) -> list[str]:
        return [
            hashlib.sha256(self.cloud.content(volume.id).read_bytes()).hexdigest() for volume in self.replicas
        ]

    def shape(self) -> tuple[object, ...]:
        """All that a rollback has to restore of the VM, as CloudStack itself has it."""
        vm = self.vm
        disks = {volume.id: (volume.device, volume.type) for volume in self.cloud.volumes_of(vm.id)}
        nics = [(nic.network.name, nic.mac, nic.ip, nic.default) for nic in vm.nics]
        return disks, nics, vm.offering.name, vm.cpus, vm.memory, vm.name, vm.os_type, dict(vm.details)

    def orders(self, verb: str) -> int:
        return sum(1 for name, _ in self.cloud.events if name == verb)
