"""Failovers of a Windows guest over a world in memory: the platform and the guest are simulated, everything
that decides, hears and judges is the real code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refloat.evidence.collect import bundle
from refloat.jobs.engine import Engine
from refloat.model import (
    BitLocker,
    DiskBus,
    Firmware,
    Hardware,
    Hibernation,
    JobState,
    NicModel,
    Plan,
    PowerState,
    Remediation,
    StatusChange,
    Verdict,
    Word,
)
from refloat.policy import DirtyNtfs, Hibernated, Probe, SanPolicy, WindowsPolicy
from tests.unit.builders import SOURCE, replace
from tests.unit.fakes import World, make_world
from tests.unit.test_jobs import reach
from tests.unit.windows_world import SimulatedGuest, set_of, windows_facts, with_windows

R = Remediation
GOOD = (
    (R.RUNNING, 1, 0, 1),
    (R.RUNNING, 1, 0, 4),
    (R.AWAITING_REBOOT, 1, 1, 5),
    (R.RUNNING, 2, 1, 6),
    (R.SUCCEEDED, 2, 1, 7),
)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("refloat.validate.STABLE_FOR", 0.0)
    monkeypatch.setattr("refloat.validate.LISTEN_FOR", 0.05)
    made = with_windows(make_world(tmp_path))
    yield made
    made.store.engine.dispose()


@pytest.fixture
def engine(world: World, tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path / "jobs.sqlite", world.run)
    made.launch()
    yield made
    made.close()


def statuses(world: World, job: str) -> list[Remediation]:
    return [one.status for one in world.store.load(job, "remediation", tuple[StatusChange, ...]) or ()]


def verdict_of(world: World, job: str) -> Verdict:
    found = world.store.load(job, "verdict", Verdict)
    assert found is not None
    return found


Make = Callable[[str], SimulatedGuest]


def recovered(world: World, engine: Engine, make: Make | None = None, serial: bool = False) -> str:
    job = world.job()
    if make is not None:
        guest = make(job)
        if serial:
            world.destination.hear_serial = guest.speak_on_serial
        else:
            world.destination.hear = guest.speak
    engine.start(job)
    reach(world, job, JobState.AWAITING_COMMIT)
    return job


@pytest.mark.parametrize("serial", [False, True], ids=["virtio-serial", "COM1"])
def test_a_guest_that_reports_over_two_boots_succeeds(world: World, engine: Engine, serial: bool) -> None:
    job = recovered(world, engine, lambda job: SimulatedGuest(world, job, *GOOD), serial)
    assert statuses(world, job) == [R.SCHEDULED, R.RUNNING, R.AWAITING_REBOOT, R.RUNNING, R.SUCCEEDED]
    assert verdict_of(world, job).word is Word.SUCCEEDED, verdict_of(world, job).reasons


def test_no_report_by_the_deadline_fails(world: World, engine: Engine) -> None:
    with_windows(world, deadline=1)
    job = recovered(world, engine)
    assert statuses(world, job) == [R.SCHEDULED, R.FAILED]
    assert verdict_of(world, job).word is Word.FAILED
    assert any("it has said nothing" in reason for reason in verdict_of(world, job).reasons)


def test_no_report_but_a_boot_that_is_proven_from_outside_is_partial(
    world: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        with_windows(world, deadline=1)
        world.policy = replace(world.policy, probes=(Probe(server.getsockname()[1], address="127.0.0.1"),))
        job = recovered(world, engine)
    assert statuses(world, job) == [R.SCHEDULED, R.PARTIAL]
    assert verdict_of(world, job).word is Word.PARTIAL


def test_a_guest_that_goes_silent_after_its_restart_fails(world: World, engine: Engine) -> None:
    with_windows(world, deadline=2)
    job = recovered(world, engine, lambda job: SimulatedGuest(world, job, *GOOD[:3]))
    assert statuses(world, job) == [R.SCHEDULED, R.RUNNING, R.AWAITING_REBOOT, R.FAILED]
    assert verdict_of(world, job).word is Word.FAILED


@pytest.mark.parametrize(
    ("stage", "last", "word"),
    [
        ("network", R.FAILED, Word.FAILED),
        ("agent", R.PARTIAL, Word.PARTIAL),
        ("network", R.SUCCEEDED, Word.FAILED),
    ],
)
def test_a_stage_that_failed_shows_in_the_verdict(
    world: World, engine: Engine, stage: str, last: Remediation, word: Word
) -> None:
    rows = (*GOOD[:4], (last, 2, 1, 7))
    job = recovered(world, engine, lambda job: SimulatedGuest(world, job, *rows).stage_is(stage, "failed"))
    assert statuses(world, job)[-1] is last
    assert verdict_of(world, job).word is word
    assert any(f"stage {stage}" in reason for reason in verdict_of(world, job).reasons)


def test_what_the_engine_in_the_controller_is_told(world: World, engine: Engine) -> None:
    shared = replace(SOURCE.disks[1], shared=True)
    world.source.vm = replace(SOURCE, disks=(SOURCE.disks[0], shared))
    own = WindowsPolicy(Hibernated.DISCARD, DirtyNtfs.REPAIR, SanPolicy.OFFLINE_SHARED, report_deadline=100)
    world.policy = replace(world.policy, windows=own)
    job = recovered(world, engine, lambda job: SimulatedGuest(world, job, *GOOD))
    plan, request = world.run(job).need("plan", Plan), world.controller.request
    assert request is not None and request.windows is not None and plan.drivers is not None
    assert request.windows.drivers == plan.drivers
    assert set(plan.drivers.drivers()) >= {"viostor", "vioscsi", "NetKVM"}
    assert request.windows.drivers_dir == "/var/lib/refloat/drivers/x"
    assert (request.windows.discard_hibernation, request.windows.repair_dirty) == (True, True)
    assert request.windows.online_disks == ("sda",), "the shared disk stays offline"
    assert request.windows.san_policy_after == 2
    assert (plan.report_deadline, request.report_deadline) == (100, 80), "its last word must be heard"
    assert len(bundle(world.store, job, world.directory)["plan"]["drivers"]["sha256"]) == 64


def test_the_clock_is_windows_until_a_rollback(world: World, engine: Engine) -> None:
    before = world.destination.hardware("")
    job = recovered(world, engine, lambda job: SimulatedGuest(world, job, *GOOD))
    promoted = world.store.load(job, "promoted", Hardware)
    assert promoted is not None and not promoted.clock_utc
    engine.tell(job, "rollback", "1")
    reach(world, job, JobState.ROLLED_BACK)
    assert world.destination.hardware("") == before and before.clock_utc


def no_drivers(world: World) -> None:
    world.drivers = None


def drivers_for_others(world: World) -> None:
    world.drivers = set_of(world.directory, "2k19")


def no_such_set(world: World) -> None:
    world.drivers = world.directory / "nothing.iso"


def guest_with(**changes: object) -> Callable[[World], None]:
    def make(world: World) -> None:
        world.controller.facts = windows_facts(**changes)

    return make


def dirty_and_off(world: World) -> None:
    world.source.power = PowerState.OFF
    guest_with(dirty=True)(world)


def another_firmware(world: World) -> None:
    world.controller.facts = replace(windows_facts(), firmware=Firmware.UEFI)


def unknown_disk(world: World) -> None:
    world.policy = replace(world.policy, windows=WindowsPolicy(online_shared=("sdz",)))


def old_hardware(world: World) -> None:
    world.policy = replace(world.policy, nic_model=NicModel.VMXNET3)


def nvme_on_2012(world: World) -> None:
    world.policy = replace(world.policy, disk_bus=DiskBus.NVME)
    world.destination.buses = (DiskBus.NVME,)
    world.controller.facts = windows_facts(version="2012", build=9200, storage_drivers=())


def pool_is_small(world: World) -> None:
    world.destination.free = 1 << 30


@pytest.mark.parametrize(
    ("break_it", "code", "words"),
    [
        (no_drivers, "guest_refused", "no driver set is configured: set `drivers`"),
        (drivers_for_others, "guest_refused", "2k22"),
        (no_such_set, "guest_refused", "there is no driver set at"),
        (guest_with(hibernation=Hibernation.HIBERNATED), "guest_refused", "is hibernated: start it"),
        (guest_with(hibernation=Hibernation.FAST_STARTUP), "guest_refused", "windows.hibernated: discard"),
        (guest_with(bitlocker=BitLocker.LOCKED), "guest_refused", "manage-bde -protectors -disable C:"),
        (dirty_and_off, "guest_refused", "windows.ntfs_dirty: repair"),
        (another_firmware, "guest_refused", "the disk is installed for uefi"),
        (unknown_disk, "unknown_disk", "names sdz"),
        (old_hardware, "guest_refused", "no driver for adapters vmxnet3"),
        (nvme_on_2012, "guest_refused", "no driver for disks by nvme"),
        (pool_is_small, "no_space", "overlays need 2048 MiB"),
    ],
)
def test_a_refusal_changes_nothing_and_says_what_to_do(
    world: World, engine: Engine, break_it: Callable[[World], None], code: str, words: str
) -> None:
    break_it(world)
    power = world.source.power
    job = world.job()
    engine.start(job)
    reach(world, job, JobState.REFUSED)
    error = world.store.job(job).error
    assert error is not None and error["code"] == code and error["hint"]
    assert words in error["message"]
    assert world.destination.calls == [] and world.source.changed == [] and world.source.power is power
    assert not world.controller.drivers_sent


def test_a_volume_in_use_is_no_reason_while_the_source_runs(world: World, engine: Engine) -> None:
    """Every running Windows looks dirty: the adaptation looks again after it was shut down."""
    guest_with(dirty=True)(world)
    job = recovered(world, engine, lambda job: SimulatedGuest(world, job, *GOOD))
    assert any("looked at again" in warning for warning in world.run(job).need("plan", Plan).warnings)


def test_a_set_that_changes_after_preflight_stops_the_job_before_the_guest(
    world: World, engine: Engine
) -> None:
    """Only where the controller lost what it had: else the set is not read again."""
    send = world.controller.stop_exports

    def stop_exports() -> str:
        assert world.drivers is not None
        world.controller.drivers_sent = {}
        (world.drivers / "viostor/2k22/amd64/viostor.sys").write_bytes(b"MZ")
        return send()

    world.controller.stop_exports = stop_exports  # type: ignore[method-assign]
    job = world.job()
    engine.start(job)
    reach(world, job, JobState.ROLLED_BACK)
    error = world.store.job(job).error
    assert error is not None and error["code"].startswith("drivers_"), error
    assert world.controller.adapted == 0 and not world.destination.overlays
