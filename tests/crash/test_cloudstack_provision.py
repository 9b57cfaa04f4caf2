"""`target add` on CloudStack, a failover on what it made, the way back, and `target remove`.

The hub is killed with SIGKILL at every order of adding and removing, and at every mark between them: nothing
is made twice, and nothing of ours stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

from refloat.cli import exits
from refloat.cli.common import Session
from refloat.cli.main import app
from refloat.hub import Hub
from refloat.model import JobState, Word
from refloat.simulated.source import SimulatedSource
from tests.cloudstack.model import Volume
from tests.contract.cloudstack_rig import furnished, keys_in, networks
from tests.crash.cloudstack_rig import Hubs, Killing
from tests.unit.api.fake_hub import TOKEN, FakeHub
from tests.unit.cli.test_commands import URL, InProcess
from tests.unit.destinations.cloudstack_site import ONE, opened
from tests.unit.destinations.cloudstack_world import MIB, protect
from tests.unit.simulated.rig import SETTLED, until

VM = f"refloat-{ONE.name}"
ADDING = (
    "chosen",
    *(f"making-the-volume-of-{key}" for key in ONE.disk_keys()),
    "making-the-controller's-own-disk",
    f"defining-the-VM-{VM}",
    *(f"attaching-the-volume-of-{key}" for key in ONE.disk_keys()),
    "starting-the-controller",
    "waiting-for-the-controller",
    "made",
)
REMOVING = ("removing-the-controller", "forgetting-the-source's-checkpoints", "removed")
CONTENT = 4 * MIB  # of each volume that is made: the GiB that CloudStack counts by would only take time


class Making(Killing):
    """Gives what it makes a content of zeroes."""

    def handle(self, raw: dict[str, str]) -> tuple[int, dict[str, Any]]:
        answer = super().handle(raw)
        for volume in self.cloud.volumes.values():
            file = self.cloud.content(volume.id)
            if volume.type == "DATADISK" and file.exists() and not file.stat().st_size:
                with file.open("r+b") as content:
                    content.truncate(CONTENT)
        return answer


class Site(Hubs):
    def __init__(self, directory: Path) -> None:
        (directory / "volumes").mkdir()
        super().__init__(directory, Making(directory / "volumes"))
        self.server.tick = 30.0
        self.server.start()
        self.cloud = furnished(self.server)
        keys_in(directory, self.server.estate.operator)
        self.source = SimulatedSource(directory / "world" / "source")
        protect(self.source, ONE)
        provision = {
            "template": self.server.estate.template.name,
            "storage": self.server.estate.disk.name,
            "network": "management",
            "identity": "/etc/refloat/template-key",
            "host_key": "ssh-ed25519 AAAA",
        }
        known = {"url": self.server.url, "networks": networks(self.cloud), "provision": provision}
        (directory / "site.json").write_text(json.dumps(known))

    def volumes(self) -> list[Volume]:
        return [volume for volume in self.cloud.volumes.values() if not volume.destroyed]

    def vms(self) -> list[str]:
        return [vm.name for vm in self.cloud.vms.values() if not vm.removed]

    def orders(self, verb: str) -> int:
        return sum(1 for name, _ in self.cloud.events if name == verb)

    def replicas(self) -> list[bytes]:
        """The contents of the replica volumes, as far as the source has content."""
        made = sorted((one for one in self.volumes() if one.type == "DATADISK"), key=lambda one: one.name)
        return [
            self.cloud.content(one.id).read_bytes()[:size] for one, size in zip(made, ONE.disks, strict=True)
        ]

    def originals(self) -> list[bytes]:
        return [self.source.content(ONE.name, key) for key in ONE.disk_keys()]

    def close(self) -> None:
        self.server.stop()
        self.server.check()


class Cli:
    """The command line over the real API of this hub, without a listener."""

    def __init__(self, hub: Hub) -> None:
        self.transport = InProcess(cast(FakeHub, SimpleNamespace(hub=hub)))

    def __call__(self, *args: str) -> Result:
        session = Session(self.transport, interactive=lambda: False, pause=0.1, patience=2)
        return CliRunner().invoke(app, args, obj=session, env={"REFLOAT_URL": URL, "REFLOAT_TOKEN": TOKEN})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(500)
def test_added_failed_over_rolled_back_and_removed(site: Site) -> None:
    site.until_done("add")
    added = site.kills
    assert added == len(site.server.struck) >= 6
    assert (site.orders("createVolume"), site.orders("deployVirtualMachine")) == (2, 1)
    assert site.orders("attachVolume") == 2 and len(site.volumes()) == 3
    assert all(volume.delete_protection for volume in site.volumes() if volume.type == "DATADISK")
    assert site.replicas() == site.originals()

    site.server.kills = False
    site.until_done("planned")
    job, found = site.job()
    assert job.state is JobState.AWAITING_COMMIT and found and found.word is Word.SUCCEEDED, (job, found)
    site.until_done("rollback")
    job, _ = site.job()
    assert job.state is JobState.ROLLED_BACK, job
    assert site.replicas() == site.originals() and not site.cloud.snapshots

    site.server.kills = True
    site.until_done("remove")
    assert site.kills == len(site.server.struck) >= added + 5
    assert site.volumes() == []
    assert site.vms() == []
    assert not (site.directory / "hub/targets" / ONE.name).exists()


@pytest.mark.timeout(300)
def test_killed_at_every_mark(site: Site) -> None:
    """Each hub goes on where the one before it was killed."""
    site.server.kills = False
    for mark in ADDING:
        site.killed_at("add", mark)
    site.until_done("add")
    assert (site.orders("createVolume"), site.orders("deployVirtualMachine")) == (2, 1)
    assert site.orders("attachVolume") == 2 and len(site.volumes()) == 3
    assert site.replicas() == site.originals()
    for mark in REMOVING:
        site.killed_at("remove", mark)
    site.until_done("remove")
    assert (site.volumes(), site.vms()) == ([], [])


def test_by_the_command_line_to_a_commit(site: Site) -> None:
    """Command line, API and hub: made, failed over, kept. A recovered VM is not removed any more."""
    site.server.kills = False
    hub, world = opened(site.directory)
    cli = Cli(hub)
    try:
        added = cli("target", "add", ONE.name, "--json")
        assert added.exit_code == exits.OK and json.loads(added.stdout)["state"] == "ready", added.output
        started = cli("failover", "start", ONE.name, "--mode", "planned", "--json")
        job = json.loads(started.stdout)["id"]
        until(lambda: hub.job(job).state in SETTLED, "the failover")
        assert hub.job(job).state is JobState.AWAITING_COMMIT, hub.job(job).error
        busy = cli("target", "remove", ONE.name, "--yes")
        assert busy.exit_code != exits.OK and site.orders("destroyVirtualMachine") == 0, busy.output
        assert cli("job", "commit", job, "--yes").exit_code == exits.OK
        until(lambda: hub.job(job).state is JobState.COMMITTED, "the commit")
        assert sorted(volume.type for volume in site.volumes()) == ["DATADISK", "ROOT"]
        kept = cli("target", "remove", ONE.name, "--yes")
        assert kept.exit_code == exits.REFUSED
        assert "recovered VM" in kept.stderr and site.vms() == [ONE.name]
    finally:
        hub.close()
        world.simulated(VM).stopped()


def test_by_the_command_line_and_removed(site: Site) -> None:
    site.server.kills = False
    hub, world = opened(site.directory)
    cli = Cli(hub)
    try:
        assert cli("target", "add", ONE.name).exit_code == exits.OK
        assert (len(site.volumes()), site.vms()) == (3, [VM])
        removed = cli("target", "remove", ONE.name, "--yes")
        assert removed.exit_code == exits.OK, removed.output
        assert (site.volumes(), site.vms()) == ([], [])
        again = cli("target", "remove", ONE.name, "--yes")
        assert again.exit_code != exits.OK and "nothing was made" in again.stderr
    finally:
        hub.close()
        world.simulated(VM).stopped()
