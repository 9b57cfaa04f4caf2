"""Reports over COM1 of a real VM that really restarts: a boot sector plays the Windows guest, everything that
hears and judges is the real code. What a guest cannot forge (power, disks, links) is the platform's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from refloat.adapt import adapt_guest
from refloat.clock import now
from refloat.destinations.base import Destination
from refloat.model import (
    Adaptation,
    AttachedDisk,
    AttachedNic,
    DiskBus,
    Firmware,
    GuestCaps,
    NicModel,
    PlannedDisk,
    PlannedNic,
    PowerState,
    Remediation,
    Secrets,
    StatusChange,
    Verdict,
    Word,
)
from refloat.policy import Policy, WindowsPolicy
from refloat.prepare import preflight
from refloat.promote import apply_firmware, start_vm
from refloat.run import Networks, Run
from refloat.validate import await_report
from tests.contract.destination_rigs import LibvirtRig, libvirt_missing, libvirt_pool
from tests.unit.builders import PLAN, replace
from tests.unit.fakes import World, make_world
from tests.unit.windows_world import NIC, SimulatedGuest, windows_facts
from tests.windows import bootguest, disks
from tests.windows.engine import staged_secrets, with_phony_windows

R = Remediation
MAC = "52:54:00:12:34:56"


@pytest.fixture(scope="module")
def storage() -> Iterator[tuple[Path, str]]:
    reason = libvirt_missing()
    if reason:
        pytest.skip(reason)
    with libvirt_pool() as pool:
        yield pool


@pytest.fixture
def rig(storage: tuple[Path, str]) -> Iterator[LibvirtRig]:
    made = LibvirtRig(*storage)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    made.source.power = PowerState.OFF  # as step 2 leaves it
    yield made
    made.store.engine.dispose()


def promoted(world: World, rig: LibvirtRig, deadline: int) -> Run:
    """A job whose VM is ready to start: the rig's, with its first disk as the system's."""
    job = world.job()
    known = world.run(job)
    run = replace(
        known,
        destination=cast(Destination, rig.destination),
        target=replace(known.target, controller_vm=rig.vm),
    )
    serials = [disk.serial for disk in rig.disks]
    plan = replace(
        PLAN,
        job=job,
        facts=windows_facts(),
        disks=tuple(
            PlannedDisk(f"sd{letter}", f"sd{letter}", serial, 1 << 20)
            for letter, serial in zip("abc", serials, strict=True)
        ),
        nics=(PlannedNic(MAC, MAC, "management", PLAN.nics[0].mode, NIC, "static"),),
        report_deadline=deadline,
    )
    caps = GuestCaps(
        (DiskBus.VIRTIO_BLK,), (NicModel.VIRTIO,), Firmware.BIOS, True, R.SCHEDULED, clock_utc=False
    )
    run.save("plan", plan)
    run.save("secrets", Secrets("t" * 48, "n" * 32))
    run.save("adaptation", Adaptation(caps, (), plan.facts))
    run.save("remediation", (StatusChange("2026-01-01T00:00:00+00:00", R.SCHEDULED, "staged"),))
    run.save("promoted", rig.destination.hardware(rig.vm))
    return run


def test_an_adapted_windows_disk_in_a_real_vm(rig: LibvirtRig, world: World, tmp_path: Path) -> None:
    """Looked at and adapted by the real engine, attached as planned and started. In place of Windows' boot
    code the boot sector speaks, with the token that lies on the disk."""
    if disks.can_be_made():
        pytest.skip(disks.can_be_made())
    one = disks.SERVER
    controller = with_phony_windows(world, one, tmp_path)
    world.policy = Policy(windows=WindowsPolicy(report_deadline=120))
    job = world.job()
    run = replace(world.run(job), networks=Networks({"user": "management"}, {}))
    preflight(run)
    adapt_guest(run)
    assert statuses(run) == [R.SCHEDULED]

    known = run.target
    run = replace(
        run,
        destination=cast(Destination, rig.destination),
        target=replace(known, controller_vm=rig.vm),
    )
    (disk,), (nic,) = run.plan.disks, run.plan.nics
    volume = rig.directory / f"{rig.vm}-system.raw"
    shutil.copyfile(controller.disk, volume)
    assert nic.config is not None
    secrets = staged_secrets(one, Path(controller.disk))
    lines = [
        b"".join(
            SimulatedGuest(
                world, job, *rows, mac=nic.mac, disk=disk.serial, config=nic.config, secrets=secrets
            ).speak()
        )
        for rows in (((R.RUNNING, 1, 0, 1), (R.AWAITING_REBOOT, 1, 1, 5)), ((R.SUCCEEDED, 2, 1, 7),))
    ]
    bootguest.write(volume, lines)
    there = rig.destination
    there.set_disks(rig.vm, [AttachedDisk(disk.serial, str(volume), run.plan.disk_bus)])
    there.set_nics(rig.vm, [AttachedNic(nic.mac, nic.network, run.plan.nic_model)])
    apply_firmware(run)
    assert not there.hardware(rig.vm).clock_utc
    start_vm(run)
    await_report(run)
    assert statuses(run) == [R.SCHEDULED, R.RUNNING, R.AWAITING_REBOOT, R.SUCCEEDED]
    verdict = run.need("verdict", Verdict)
    assert verdict.word is Word.SUCCEEDED, verdict.reasons
    there.stop(rig.vm, 0)
    assert bootguest.boots(volume) == 2


def started(run: Run) -> None:
    run.destination.start(run.vm)
    run.save("started", now())


def statuses(run: Run) -> list[Remediation]:
    return [one.status for one in run.need("remediation", tuple[StatusChange, ...])]


def says(world: World, run: Run, *rows: tuple[Remediation, int, int, int]) -> bytes:
    """The lines of these reports, as they would come over the wire."""
    return b"".join(SimulatedGuest(world, run.job, *rows, mac=MAC, disk="ctl").speak())


def test_reports_over_com1_and_two_real_boots_drive_the_status(rig: LibvirtRig, world: World) -> None:
    run = promoted(world, rig, deadline=120)
    first = says(world, run, (R.RUNNING, 1, 0, 1), (R.AWAITING_REBOOT, 1, 1, 5))
    second = says(world, run, (R.RUNNING, 2, 1, 6), (R.SUCCEEDED, 2, 1, 7))
    disk = Path(rig.disks[0].volume)
    bootguest.write(disk, [first, second])
    started(run)
    await_report(run)
    assert statuses(run) == [R.SCHEDULED, R.RUNNING, R.AWAITING_REBOOT, R.RUNNING, R.SUCCEEDED]
    verdict = run.need("verdict", Verdict)
    assert verdict.word is Word.SUCCEEDED, verdict.reasons
    rig.destination.stop(rig.vm, 0)
    assert bootguest.boots(disk) == 2


def test_a_real_vm_that_says_nothing_fails(rig: LibvirtRig, world: World) -> None:
    run = promoted(world, rig, deadline=6)
    bootguest.write(Path(rig.disks[0].volume), [b"Starting Windows\r\n"])
    started(run)
    await_report(run)
    assert statuses(run) == [R.SCHEDULED, R.FAILED]
    assert run.need("verdict", Verdict).word is Word.FAILED


def test_the_clock_of_a_real_vm_shows_local_time(rig: LibvirtRig) -> None:
    for utc in (False, True):
        rig.destination.set_clock(rig.vm, utc)
        assert rig.destination.hardware(rig.vm).clock_utc is utc
        rig.destination.start(rig.vm)
        xml = rig.domains.xml(rig.domains.lookup(rig.vm))
        assert f"offset='{'utc' if utc else 'localtime'}'" in xml
        rig.destination.stop(rig.vm, 0)
