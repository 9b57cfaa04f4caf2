"""Whole failovers through the hub on CloudStack: the driver's orders against the server that enforces its
rules.

Source, controller and guest are those of the simulation, and work on the server's volumes. The key is an
ordinary user's: what only an administrator may do is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.destinations.cloudstack import CloudStackDestination
from refloat.model import Action, JobState, Mode, Plan, PowerState, Word
from refloat.report_ways import NO_WAY
from tests.cloudstack.faults import Fault
from tests.cloudstack.model import VmSnapshot
from tests.contract.cloudstack_rig import controller
from tests.unit.destinations.cloudstack_site import MIB, ONE, CloudSite
from tests.unit.destinations.cloudstack_world import Reporting
from tests.unit.simulated.rig import until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[CloudSite]:
    made = CloudSite(tmp_path)
    yield made
    made.close()


def test_a_planned_failover_is_verified_and_rolled_back_to_every_byte(site: CloudSite) -> None:
    site.sync()
    before, shape = site.content(), site.shape()
    job = site.fail_over(Mode.PLANNED)
    assert site.hub.job(job).state is JobState.AWAITING_COMMIT, site.hub.job(job).error
    found = site.hub.outcome(job)[1]
    assert found and found.word is Word.SUCCEEDED, found
    vm = site.vm
    disks = {volume.device: volume.id for volume in site.cloud.volumes_of(vm.id)}
    assert disks[0] == site.replicas[0].id and site.own.vm is None
    assert [(nic.network.name, nic.mac, nic.ip) for nic in vm.nics] == [
        ("production", ONE.mac, ONE.address.partition("/")[0])
    ]
    assert (vm.offering.name, vm.cpus, vm.memory, vm.name) == ("recovered", 1, 512, ONE.name)
    assert all(volume.delete_protection for volume in [site.own, *site.replicas])
    assert site.source.power_state(ONE.name) is PowerState.OFF
    assert site.content() != before, "the adapted guest differs"

    site.roll_back(job)
    assert site.content() == before
    assert site.shape() == shape
    assert not site.cloud.snapshots and not site.cloud.moves and not site.cloud.faulty_scopes
    assert vm.state == "Running" and site.source.power_state(ONE.name) is PowerState.RUNNING
    site.sync()


def test_a_test_failover_stays_in_its_network(site: CloudSite) -> None:
    site.sync()
    before, shape = site.content(), site.shape()
    job = site.fail_over(Mode.TEST)
    assert site.hub.job(job).state is JobState.TEST_ACTIVE, site.hub.job(job).error
    assert [nic.network.name for nic in site.vm.nics] == ["bubble"]
    assert site.source.power_state(ONE.name) is PowerState.RUNNING
    site.roll_back(job)
    assert (site.content(), site.shape()) == (before, shape)


def test_a_guest_of_the_same_hardware_is_not_touched(tmp_path: Path) -> None:
    """KVM to KVM: the decision says why, the replica boots as it is, and without a report of the guest the
    verdict claims no more than was seen from outside."""
    site = CloudSite(tmp_path, native=True)
    try:
        site.sync()
        before = site.content()
        readiness = site.hub.target(ONE.name).readiness
        assert readiness and readiness.ready and "hardware are compatible" in readiness.reasons[0]
        job = site.fail_over(Mode.PLANNED)
        plan = site.hub.store.load(job, "plan", Plan)
        assert plan and plan.decision.action is Action.SKIP
        assert "hardware are compatible" in plan.decision.reasons[0]
        assert site.content() == before, "nothing was written into the guest's disks"
        disks = {volume.device: volume.id for volume in site.cloud.volumes_of(site.vm.id)}
        assert disks[0] == site.replicas[0].id and site.vm.state == "Running"
        assert "hardware are compatible" in site.hub.evidence(job)["decision"]["reasons"][0]
        found = site.hub.outcome(job)[1]
        assert found and found.word is Word.PARTIAL, found
        site.roll_back(job)
        assert site.content() == before
    finally:
        site.close()


def test_a_commit_keeps_what_was_written_and_deletes_only_what_is_ours(site: CloudSite) -> None:
    site.sync()
    other = controller(site.cloud, "other", (MIB, MIB), "10.20.30.6", "52:54:00:12:34:57")[1]
    job = site.fail_over(Mode.PLANNED)
    site.server.write_in_guest(site.vm.id, site.replicas[1].serial, b"kept", 4096)
    site.hub.commit(job, "tester")
    until(lambda: site.hub.job(job).state in (JobState.COMMITTED, JobState.BLOCKED), "the commit")
    assert site.hub.job(job).state is JobState.COMMITTED, site.hub.job(job).error
    assert site.own.destroyed and not site.cloud.snapshots
    assert not any(volume.destroyed for volume in [*other, *site.replicas])
    assert site.server.content(site.replicas[1].id)[4096:4100] == b"kept"
    assert site.vm.state == "Running"


def test_without_any_way_of_reports_nothing_is_called_a_success(
    site: CloudSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a real CloudStack whose guests cannot reach the hub: nothing is heard, and a person is told
    where to look."""
    monkeypatch.setattr(Reporting, "channel", CloudStackDestination.channel)
    monkeypatch.setattr(Reporting, "has_channel", CloudStackDestination.has_channel)
    site.sync()
    before = site.content()
    readiness = site.hub.target(ONE.name).readiness
    assert readiness and readiness.ready and NO_WAY in readiness.warnings, readiness
    job = site.fail_over(Mode.TEST)
    found = site.hub.outcome(job)[1]
    assert site.hub.job(job).state is JobState.TEST_ACTIVE
    assert found and found.word is not Word.SUCCEEDED, found
    assert any("no report from inside the guest" in reason for reason in found.reasons), found.reasons
    said = " ".join(str(event.data) for event in site.hub.events(job))
    assert f"/client/#/vm/{site.vm.id}" in said and "token" not in said.replace("report", "")
    site.roll_back(job)
    assert site.content() == before


ORDERS = (
    "createSnapshot",
    "stopVirtualMachine",
    "changeServiceForVirtualMachine",
    "createTags",
    "updateVolume",
    "detachVolume",
    "attachVolume",
    "addNicToVirtualMachine",
    "updateDefaultNicForVirtualMachine",
    "removeNicFromVirtualMachine",
    "updateVirtualMachine",
    "startVirtualMachine",
    "revertSnapshot",
    "deleteSnapshot",
)


def test_lost_answers_of_every_order_do_nothing_twice(site: CloudSite) -> None:
    """The first answer of each kind is lost with the order carried out, the second order is lost itself."""
    site.sync()
    before, shape = site.content(), site.shape()
    for order in ORDERS:
        site.server.faults.add(Fault(order, "close_after", nth=1))
        site.server.faults.add(Fault(order, "close_before", nth=2))
    job = site.fail_over(Mode.PLANNED)
    assert site.hub.job(job).state is JobState.AWAITING_COMMIT, site.hub.job(job).error
    assert site.orders("createSnapshot") == len(site.replicas)
    assert (site.orders("detachVolume"), site.orders("attachVolume")) == (2, 1)
    assert (site.orders("addNicToVirtualMachine"), site.orders("removeNicFromVirtualMachine")) == (1, 1)
    assert site.vm.starts == 1
    site.roll_back(job)
    assert (site.content(), site.shape()) == (before, shape)
    assert (site.orders("detachVolume"), site.orders("attachVolume")) == (3, 3)
    hit = {fault.command for fault in site.server.faults.hit}
    assert hit == set(ORDERS), f"never lost: {set(ORDERS) - hit}"


def test_a_proxy_in_the_way_is_survived(site: CloudSite) -> None:
    site.sync()
    before = site.content()
    for number, order in enumerate(ORDERS):
        site.server.faults.add(Fault(order, ("garbage", "page")[number % 2], nth=1, code=502))
    for question in ("listVirtualMachines", "listVolumes", "queryAsyncJobResult", "listSnapshots"):
        site.server.faults.add(Fault(question, "page", nth=5, times=2, code=502))
    job = site.fail_over(Mode.PLANNED)
    assert site.hub.job(job).state is JobState.AWAITING_COMMIT, site.hub.job(job).error
    site.roll_back(job)
    assert site.content() == before


def test_what_passes_is_waited_for(site: CloudSite) -> None:
    site.sync()
    for number, order in enumerate(ORDERS):
        code = (429, 503, 533)[number % 3]
        site.server.faults.add(Fault(order, "error", nth=1, times=2, code=code))
    job = site.fail_over(Mode.TEST)
    assert site.hub.job(job).state is JobState.TEST_ACTIVE, site.hub.job(job).error
    site.roll_back(job)


def test_an_order_that_failed_in_cloudstack_is_taken_back(site: CloudSite) -> None:
    site.sync()
    before, shape = site.content(), site.shape()
    site.server.jobs.fail_next("attachVolume", 530, "the agent went away")
    job = site.fail_over(Mode.PLANNED)
    assert site.hub.job(job).state is JobState.ROLLED_BACK, (
        "an internal error is not repeated: the job goes back"
    )
    assert (site.content(), site.shape()) == (before, shape)


@pytest.mark.parametrize("jobs", ["keep", "lose"])
def test_a_management_server_that_restarts_is_survived(site: CloudSite, jobs: str) -> None:
    """In the middle of the root swap, when neither root is attached."""
    site.sync()
    before, shape = site.content(), site.shape()
    site.server.jobs.hold("attachVolume")
    job = site.hub.start_failover(ONE.name, Mode.PLANNED).id
    until(lambda: any(one.command == "attachVolume" for one in site.server.jobs.pending()), "the attach")
    site.server.restart(jobs)
    site.server.jobs.release("attachVolume")
    site.rest(job)
    assert site.hub.job(job).state is JobState.AWAITING_COMMIT, site.hub.job(job).error
    site.roll_back(job)
    assert (site.content(), site.shape()) == (before, shape)


def test_what_would_fail_later_is_refused_with_reasons(site: CloudSite) -> None:
    """All of it at once, and nothing is changed."""
    site.sync()
    events = len(site.cloud.events)
    snapshot = VmSnapshot("before-upgrade", site.vm.id)
    site.cloud.vm_snapshots[snapshot.id] = snapshot
    site.cloud.limits["snapshot"] = 1
    controller(site.cloud, "twin", (MIB,), "10.20.0.9", ONE.mac)
    twin = next(vm for vm in site.cloud.vms.values() if vm.name == "twin")
    twin.owner = site.vm.owner
    twin.nics[0].network = next(n for n in site.cloud.networks.values() if n.name == "production")
    job = site.fail_over(Mode.PLANNED)
    error = site.hub.job(job).error
    assert site.hub.job(job).state is JobState.REFUSED and error
    assert "before-upgrade" in str(error)
    del site.cloud.vm_snapshots[snapshot.id]
    again = site.fail_over(Mode.PLANNED)
    said = str(site.hub.job(again).error)
    assert site.hub.job(again).state is JobState.REFUSED
    for reason in ("1 more snapshots", f"MAC {ONE.mac} is used by VM twin"):
        assert reason in said, said
    assert len(site.cloud.events) == events
