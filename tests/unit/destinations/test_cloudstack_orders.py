"""What an earlier hub left under way is waited for, and preflight says in words what would fail later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.destinations.cloudstack import CloudStackDestination
from refloat.destinations.cloudstack_check import ADMIN_CALLS, CALLS
from refloat.destinations.cloudstack_journal import Journal
from refloat.errors import Failed, Refused, Unreachable
from refloat.model import AttachedDisk, AttachedNic, DiskBus, Firmware, Hardware, NicModel, PowerState
from tests.cloudstack.faults import Fault
from tests.cloudstack.model import Offering, Pool
from tests.contract.cloudstack_rig import CloudStackRig, networks
from tests.unit.destinations.cloudstack_world import settings

DOCS = Path(__file__).parents[3] / "docs" / "cloudstack.md"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[CloudStackRig]:
    made = CloudStackRig(tmp_path)
    yield made
    made.close()


def journal(rig: CloudStackRig, tmp_path: Path) -> Path:
    return tmp_path / "journals" / f"{rig.vm}.json"


# ---------------------------------------------------------------- jobs


def test_a_job_of_a_dead_hub_ends_before_the_next_order(rig: CloudStackRig, tmp_path: Path) -> None:
    """Its id is in the journal: a second detach while the first one runs would break the volume (#14214)."""
    rig.destination.set_nics(rig.vm, rig.destination.hardware(rig.vm).nics)  # makes the journal
    root = rig.disks[1].volume
    rig.server.jobs.hold("detachVolume")
    job = rig.destination._api.order("detachVolume", id=root)["jobid"]
    known = json.loads(journal(rig, tmp_path).read_bytes())
    known["pending"] = [{"command": "detachVolume", "about": "r0", "job": job, "at": 0.0}]
    journal(rig, tmp_path).write_text(json.dumps(known))
    rig.server.jobs.release("detachVolume")
    rig.destination.set_disks(rig.vm, rig.disks[1:])
    assert [disk.volume for disk in rig.destination.hardware(rig.vm).disks] == [
        disk.volume for disk in rig.disks[1:]
    ]
    # The replica's root once, by the dead hub, and the controller's own disk.
    assert sum(name == "detachVolume" for name, _ in rig.cloud.events) == 2
    assert not Journal(journal(rig, tmp_path)).pending()


def test_a_job_without_an_end_is_no_reason_for_a_second_order(rig: CloudStackRig, tmp_path: Path) -> None:
    quick = settings(
        rig.server.url, tmp_path, networks(rig.cloud), offering="custom", job_timeout=0.3, patience=0.5
    )
    driver = CloudStackDestination(quick, tmp_path / "journals")
    rig.server.jobs.hold("startVirtualMachine")
    with pytest.raises(Unreachable) as caught:
        driver.start(rig.vm)
    assert caught.value.code == "cloudstack_job_endless"
    with pytest.raises(Unreachable):
        driver.set_nics(rig.vm, driver.hardware(rig.vm).nics)
    rig.server.jobs.release("startVirtualMachine")
    driver.start(rig.vm)
    assert rig.cloud.vms[rig.id].starts == 1


def test_a_journal_that_cannot_be_read_is_said(rig: CloudStackRig, tmp_path: Path) -> None:
    rig.destination.start(rig.vm)
    journal(rig, tmp_path).write_text("{")
    with pytest.raises(Failed) as caught:
        rig.destination.stop(rig.vm, 0)
    assert caught.value.code == "journal_broken" and caught.value.hint


def test_a_snapshot_that_cannot_be_reverted_is_no_rollback_point(rig: CloudStackRig) -> None:
    for pool in rig.cloud.pools.values():
        pool.revertable = False
    with pytest.raises(Failed) as caught:
        rig.destination.snapshot(rig.vm, [rig.disks[1].serial], "job1")
    assert caught.value.code == "no_rollback_point"
    assert rig.destination.rollback_points(rig.vm, "job1") == ()
    rig.destination.revert(rig.vm, "job1")  # nothing was changed after it: it only goes
    assert not rig.cloud.snapshots


def test_a_rollback_point_that_was_lost_is_never_passed_over(rig: CloudStackRig) -> None:
    rig.destination.snapshot(rig.vm, [rig.disks[1].serial], "job1")
    rig.guest_writes(rig.disks[1].serial, 7)
    for snapshot in rig.cloud.snapshots.values():
        snapshot.revertable = False
    with pytest.raises(Failed) as caught:
        rig.destination.revert(rig.vm, "job1")
    assert caught.value.code == "rollback_point_lost" and rig.cloud.snapshots, "it was deleted"


def test_a_volume_that_is_not_ours_is_not_deleted(rig: CloudStackRig) -> None:
    rig.destination.set_disks(rig.vm, rig.disks[1:])
    parked = rig.disks[0].volume
    rig.cloud.tags.clear()
    with pytest.raises(Refused) as caught:
        rig.destination.delete_volume(rig.vm, parked)
    assert caught.value.code == "volume_not_ours" and parked in rig.volumes()


def test_a_hard_stop_is_not_ordered_while_the_host_is_silent(
    rig: CloudStackRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.destination.start(rig.vm)
    look = rig.destination._look
    real = look._vms
    monkeypatch.setattr(
        look, "_vms", lambda **by: [item | {"hostcontrolstate": "Offline"} for item in real(**by)]
    )
    with pytest.raises(Unreachable) as caught:
        rig.destination.stop(rig.vm, 0)
    assert caught.value.code == "host_offline"
    assert rig.destination.power_state(rig.vm) is PowerState.RUNNING


def test_windows_takes_local_time_and_the_way_back_is_the_old_type(rig: CloudStackRig) -> None:
    before = rig.cloud.vms[rig.id].os_type
    rig.destination.set_clock(rig.vm, utc=False)
    assert rig.cloud.os_types[rig.cloud.vms[rig.id].os_type].name == "Windows PV"
    assert rig.destination.hardware(rig.vm).clock_utc is False
    rig.destination.set_clock(rig.vm, utc=True)
    assert rig.cloud.vms[rig.id].os_type == before


# ---------------------------------------------------------------- preflight


def wanted(rig: CloudStackRig, **other: object) -> Hardware:
    nic = AttachedNic("52:54:00:00:00:09", "production", NicModel.VIRTIO, "10.20.0.9")
    disks = tuple(AttachedDisk(disk.serial, disk.volume, DiskBus.VIRTIO_BLK) for disk in rig.disks[1:])
    made: dict[str, object] = {
        "cpus": 1, "memory": 512 << 20, "firmware": Firmware.BIOS, "disks": disks, "nics": (nic,)
    }  # fmt: skip
    return Hardware(**(made | other))  # type: ignore[arg-type]


def test_what_can_be_is_not_refused(rig: CloudStackRig) -> None:
    found = rig.destination.check(rig.vm, wanted(rig), "web1")
    assert found.reasons == ()
    assert any("how long a rollback takes" in text for text in found.warnings)


def spoil_version(rig: CloudStackRig) -> None:
    rig.cloud.version = "4.18.2.5"


def spoil_rights(rig: CloudStackRig) -> None:
    rig.server.estate.admin.denied = frozenset({"revertSnapshot", "attachVolume"})


def spoil_offering(rig: CloudStackRig) -> None:
    volatile = Offering("volatile-controller", 1, 64, volatile=True)
    rig.cloud.offerings[volatile.id] = rig.cloud.vms[rig.id].offering = volatile


def spoil_pool(rig: CloudStackRig) -> None:
    pool = Pool("flex", type="PowerFlex", managed=True)
    rig.cloud.pools[pool.id] = rig.cloud.volumes[rig.disks[1].volume].pool = pool


def spoil_scope(rig: CloudStackRig) -> None:
    pool = Pool("near", scope="CLUSTER")
    rig.cloud.pools[pool.id] = rig.cloud.volumes[rig.disks[1].volume].pool = pool


def spoil_limits(rig: CloudStackRig) -> None:
    rig.cloud.limits["snapshot"] = 1


def spoil_hosts(rig: CloudStackRig) -> None:
    for host in rig.cloud.hosts.values():
        host.uefi = False


def spoil_setting(rig: CloudStackRig) -> None:
    rig.cloud.configuration["kvm.snapshot.enabled"] = "false"


def spoil_name(rig: CloudStackRig) -> None:
    rig.other_user_of(rig.disks[0].volume)
    rig.cloud.volumes[rig.disks[0].volume].vm = rig.id
    other = next(vm for vm in rig.cloud.vms.values() if vm.id != rig.id)
    other.name = "web1"
    other.nics[0].network = next(n for n in rig.cloud.networks.values() if n.name == "production")


def spoil_key_pair(rig: CloudStackRig) -> None:
    rig.cloud.vms[rig.id].key_pair = "somebody"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_version, "4.18.2.5 is too old"),
        (spoil_rights, "may not call attachVolume, revertSnapshot"),
        (spoil_offering, "volatile: a restart would destroy the replica"),
        (spoil_pool, "flex is managed"),
        (spoil_scope, "pools of different scope (CLUSTER, ZONE)"),
        (spoil_limits, "1 more snapshots, and the failover needs 2"),
        (spoil_hosts, "can start UEFI guests"),
        (spoil_setting, "kvm.snapshot.enabled is false"),
        (spoil_name, "host name web1 is used by another VM"),
        (spoil_key_pair, "a key pair or user data"),
    ],
)
def test_preflight_says_what_would_fail_later(rig: CloudStackRig, spoil: object, says: str) -> None:
    assert callable(spoil)
    spoil(rig)
    events = len(rig.cloud.events)
    found = rig.destination.check(rig.vm, wanted(rig, firmware=Firmware.UEFI), "web1")
    assert any(says in reason for reason in found.reasons), found
    assert len(rig.cloud.events) == events, "preflight changed something"


def test_an_address_outside_and_two_adapters_in_one_network(rig: CloudStackRig) -> None:
    outside = AttachedNic("52:54:00:00:00:09", "test", NicModel.VIRTIO, "192.0.2.9")
    found = rig.destination.check(rig.vm, wanted(rig, nics=(outside,)), "web1")
    assert any("cannot give the address 192.0.2.9" in reason for reason in found.reasons), found
    twice = (AttachedNic("52:54:00:00:00:08", "test"), AttachedNic("52:54:00:00:00:09", "test"))
    found = rig.destination.check(rig.vm, wanted(rig, nics=twice), "web1")
    assert any("two adapters would be in one network" in reason for reason in found.reasons), found


def test_a_rollback_that_takes_too_long_is_refused_once_one_was_measured(
    rig: CloudStackRig, tmp_path: Path
) -> None:
    rig.destination.snapshot(rig.vm, [rig.disks[1].serial], "job1")
    rig.destination.revert(rig.vm, "job1")
    known = json.loads(journal(rig, tmp_path).read_bytes())
    assert known["notes"]["revert_rate"] > 0
    known["notes"]["revert_rate"] = 1000  # bytes per second
    journal(rig, tmp_path).write_text(json.dumps(known))
    found = rig.destination.check(rig.vm, wanted(rig), "web1")
    assert any("cancels it after an hour" in reason for reason in found.reasons), found


def test_a_shortfall_is_a_warning(rig: CloudStackRig, tmp_path: Path) -> None:
    fixed = settings(rig.server.url, tmp_path, networks(rig.cloud))
    driver = CloudStackDestination(fixed, tmp_path / "journals")
    found = driver.check(rig.vm, wanted(rig, cpus=64, memory=1 << 40), "web1")
    assert not found.reasons and any("instead of 64" in text for text in found.warnings), found


def test_the_page_names_every_call_and_its_reason() -> None:
    page = DOCS.read_text()
    for call, why in (CALLS | ADMIN_CALLS).items():
        assert f"| `{call}` | {why} |" in page, call


def test_every_call_of_a_whole_failover_is_on_the_list(rig: CloudStackRig) -> None:
    """A key that may call nothing else comes through: promotion, revert, merge, park, delete."""
    rig.server.estate.admin.allowed = frozenset(CALLS)
    there, vm = rig.destination, rig.vm
    before = there.hardware(vm)
    rig.server.faults.add(Fault("createSnapshot", "close_after"))
    there.check(vm, wanted(rig), "web1")
    there.snapshot(vm, [disk.serial for disk in rig.disks[1:]], "job1")
    there.set_compute(vm, 2, 1 << 30)
    there.set_disks(vm, rig.disks[1:])
    there.set_nics(vm, wanted(rig).nics)
    there.set_name(vm, "web1")
    there.set_firmware(vm, Firmware.UEFI)
    there.set_clock(vm, utc=False)
    there.start(vm)
    there.stop(vm, 1)
    there.set_clock(vm, utc=True)
    there.set_firmware(vm, Firmware.BIOS)
    there.set_name(vm, "")
    there.set_nics(vm, before.nics)
    there.set_disks(vm, before.disks)
    there.set_compute(vm, before.cpus, before.memory)
    there.revert(vm, "job1")
    assert there.hardware(vm) == before and rig.cloud.vms[rig.id].name == rig.vm
    there.set_disks(vm, rig.disks[1:])
    there.merge(vm, "job1")
    there.delete_volume(vm, rig.disks[0].volume)
    assert rig.disks[0].volume not in rig.volumes()
