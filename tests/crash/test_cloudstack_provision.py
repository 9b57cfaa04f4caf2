"""`target add` on CloudStack, a failover on what it made, the way back, and `target remove`.

The hub is killed with SIGKILL at every order of adding and removing: nothing is made twice, and nothing of
ours stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from refloat.model import JobState, Word
from refloat.simulated.source import SimulatedSource
from tests.cloudstack.model import Volume
from tests.contract.cloudstack_rig import furnished, keys_in, networks
from tests.crash.cloudstack_rig import Hubs, Killing
from tests.unit.destinations.cloudstack_site import ONE
from tests.unit.destinations.cloudstack_world import MIB, protect

VM = f"refloat-{ONE.name}"
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
    assert [vm.name for vm in site.cloud.vms.values() if not vm.removed] == []
    assert not (site.directory / "hub/targets" / ONE.name).exists()
