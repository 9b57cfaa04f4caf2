"""Whole failovers from the simulated vCenter to the simulated destination, through the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refloat.clock import now
from refloat.config import Config
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.model import GuestFacts, JobState, Mode, OperatorDecision, Plan, PowerState, Word
from refloat.simulated.guest import FACTS_AT, recorded
from refloat.simulated.world import SOURCE_NETWORK, Protected, _facts, estate
from tests.unit.simulated.rig import Site
from tests.vcsim.build import missing
from tests.vcsim.rig import VcSim

ONE = Protected(1)
KEYS = {"sda": "2000", "sdb": "2001"}


def guest() -> GuestFacts:
    """The simulation's guest, on disks with vSphere's names."""
    facts = _facts(ONE)
    filesystems = tuple(replace(one, disk=KEYS[one.disk]) for one in facts.filesystems)
    return replace(facts, root=filesystems[0], filesystems=filesystems)


class Paris(Site):
    """Its source is vSphere; the recovery site is the simulation's."""

    def __init__(self, directory: Path, vcsim: VcSim, **policy: Any) -> None:
        self.vcsim = vcsim
        for key, size in zip(KEYS.values(), ONE.disks, strict=True):
            vcsim.files[key].write_bytes(bytes(size))
        with vcsim.files["2000"].open("r+b") as file:
            file.seek(FACTS_AT)
            file.write(recorded(guest()))
        address, prefix = ONE.address.split("/")
        seen = [{"Address": address, "Prefix": int(prefix), "Origin": "manual"}]
        vcsim.set(
            Firmware="bios",
            CPUs=2,
            Cores=1,
            Memory=512,
            Disks=[vcsim.disk("2000", unit=0), vcsim.disk("2001", unit=1)],
            Nics=[{"Mac": ONE.mac, "Network": SOURCE_NETWORK, "Slot": 192}],
            Guest=[vcsim.guest(Mac=ONE.mac, Addresses=seen, DNS=["10.20.255.253"])],
            Routes=[{"Device": "0", "Network": "0.0.0.0", "Prefix": 0, "Gateway": "10.20.255.254"}],
        )
        super().__init__(directory, ONE, **policy)

    def opened(self) -> Hub:
        data: dict[str, Any] = estate(self.world.directory, self.protected, self.policy)
        settings = self.vcsim.settings()
        data["sites"]["paris"] = {
            "platform": "vsphere",
            "server": settings.server,
            "port": settings.port,
            "user": settings.user,
            "password": {"file": settings.password.file},
            "thumbprint": settings.thumbprint,
            "reader": list(settings.reader),
            "timeout": 5,
        }
        data["protected"][ONE.name] = {"site": "paris", "vm": self.vcsim.vm}
        data["targets"][ONE.name]["disks"] = {KEYS[key]: ONE.serial(key) for key in KEYS}
        hub = Hub(Config(data_dir=self.directory / "hub"), Estate.model_validate(data))
        hub.platforms._worlds[str(self.world.directory)] = self.world
        hub.open()
        return hub

    def is_identical(self) -> bool:
        return all(self.replicas(ONE)[key] == self.vcsim.files[KEYS[key]].read_bytes() for key in KEYS)


@pytest.fixture
def paris(tmp_path: Path) -> Iterator[Paris]:
    if reason := missing():
        pytest.skip(reason)
    vcsim = VcSim()
    made = Paris(tmp_path, vcsim)
    try:
        yield made
    finally:
        made.close()
        vcsim.close()


def test_a_planned_failover_and_back(paris: Paris) -> None:
    source = paris.vcsim.source()
    paris.sync(ONE)
    assert paris.is_identical()
    paris.vcsim.write("2001", 65536, 4096, 9)  # what the final sync has to bring
    job = paris.fail_over(ONE, Mode.PLANNED)
    assert paris.hub.job(job).state is JobState.AWAITING_COMMIT, paris.hub.job(job).error
    found = paris.hub.outcome(job)[1]
    assert found and found.word is Word.SUCCEEDED, found
    assert source.power_state(paris.vcsim.vm) is PowerState.OFF
    point = paris.hub.target(ONE.name).sync_point
    assert point and (point.how, point.transferred) == ("changed", 65536)
    plan = paris.hub.store.load(job, "plan", Plan)
    assert plan and "the platform saw the same" in plan.nics[0].reason
    assert plan.source.cpus == 2 and plan.source.nics[0].seen
    paris.roll_back(job, discard=True)
    assert source.power_state(paris.vcsim.vm) is PowerState.RUNNING
    paris.vcsim.write("2000", 65536 * 20, 4096, 9)
    paris.sync(ONE)
    assert paris.is_identical()


def test_an_emergency_without_vcenter(paris: Paris) -> None:
    """From what was captured at the last sync, and on the operator's word."""
    paris.sync(ONE)
    paris.vcsim.stop()
    refused = paris.hub.job(paris.fail_over(ONE, Mode.EMERGENCY))
    assert refused.state is JobState.REFUSED and refused.error and refused.error["code"] == "not_fenced"
    known_off = OperatorDecision("tester", now(), "override", "the site burnt down")
    job = paris.fail_over(ONE, Mode.EMERGENCY, known_off)
    assert paris.hub.job(job).state is JobState.AWAITING_COMMIT, paris.hub.job(job).error
    plan = paris.hub.store.load(job, "plan", Plan)
    assert plan and plan.source.nics[0].seen and plan.source.cpus == 2
    found = paris.hub.outcome(job)[1]
    assert found and found.word is Word.SUCCEEDED, found
