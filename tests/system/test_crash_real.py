"""Faults of a real platform in the middle of a step: the controller dies, libvirtd dies, SSH drops, a disk
fills. What follows is what the design says, and the replica holds what it held."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from refloat.lab.estate import TARGET
from refloat.lab.hub import start_hub, stop_hub
from refloat.model import JobState, Mode, PowerState, TargetState, Word
from tests.system.libvirtd import Libvirtd, processes
from tests.system.real_site import Hooks, RealSite
from tests.system.rig import Rig
from tests.truth.real_sabotages import kill_qemu

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="takes minutes: script/test --all"),
]

S = JobState
# Most of these guests end as soon as they run: no probe is waited for.
UNHEARD: dict[str, Any] = {"probes": []}
ENOUGH = 1 << 20  # bytes after which a sync is in its middle
# In the controller: all room but two MiB is taken.
FILL = """
cd /var/lib/refloat
fallocate -l $(($(df --output=avail -B1 . | tail -n 1) - 2097152)) filler
"""


@pytest.fixture(scope="module")
def site(rig: Rig) -> Iterator[RealSite]:
    rig.wait_for_guest(rig.lab.source_vm)
    stop_hub(rig.lab)
    site = RealSite(rig.lab)
    site.policy(**UNHEARD)
    try:
        yield site
    finally:
        site.close()
        start_hub(rig.lab)


@pytest.fixture(autouse=True)
def no_hook_is_left(site: RealSite) -> Iterator[None]:
    yield
    site.hook(Hooks())


# ---------------------------------------------------------------- in the middle of a job


def test_the_controller_dies_in_the_middle_of_an_adaptation(site: RealSite) -> None:
    before = site.replica()
    done = site.hook(Hooks(in_adapt=kill_controller(site)))
    job = site.start(Mode.TEST)
    site.rest(job, S.ROLLED_BACK)
    assert site.platforms.hooks.done == done
    assert [step.step for step in site.hub.steps(job) if step.phase == "do"][-1] == "adapt-guest"
    unharmed(site, before)


def test_ssh_drops_in_the_middle_of_an_adaptation_that_goes_on(site: RealSite) -> None:
    before, runs = site.replica(), list[str]()

    def count() -> None:
        runs.extend(site.in_controller(f"ls /var/lib/refloat/jobs/{job}").split())

    done = site.hook(Hooks(in_adapt=site.drop_ssh, before_stop=count, after_start=killed(site)))
    job = site.start(Mode.TEST)
    site.rest(job, S.TEST_ACTIVE)
    assert site.platforms.hooks.done == done
    assert attempts(site, job)["adapt-guest"] == 1
    assert [name for name in runs if name.startswith("run-")] == ["run-0001.jsonl"], "attached, not run again"
    site.roll_back(job)
    unharmed(site, before)


# When libvirtd dies and returns, and how the job comes to rest.
MOMENTS = (
    ("in_sync", Mode.PLANNED, S.AWAITING_COMMIT),
    ("in_reorder", Mode.TEST, S.TEST_ACTIVE),
    ("before_start", Mode.TEST, S.TEST_ACTIVE),
    ("in_start", Mode.TEST, S.ROLLED_BACK),
)


@pytest.mark.parametrize(("moment", "mode", "state"), MOMENTS, ids=[row[0] for row in MOMENTS])
def test_libvirtd_dies_and_returns(
    site: RealSite, rig: Rig, libvirtd: Libvirtd, moment: str, mode: Mode, state: JobState
) -> None:
    before = site.replica()
    hooks = Hooks(after_start=killed(site))
    setattr(hooks, moment, libvirtd.restart)
    if moment == "in_start":
        hooks = Hooks(in_start=at_start(site, libvirtd.restart))
    done = site.hook(hooks)
    job = site.start(mode)
    site.rest(job, state)
    assert site.platforms.hooks.done == done
    assert set(attempts(site, job).values()) == {1}
    if mode is Mode.PLANNED:
        before = rig.source_hashes()
    if state is not S.ROLLED_BACK:
        site.roll_back(job)
    unharmed(site, before)
    rig.wait_for_guest(site.lab.source_vm)


def test_libvirtd_is_gone_while_disks_are_reordered_and_the_job_waits_for_it(
    site: RealSite, libvirtd: Libvirtd
) -> None:
    before = site.replica()
    site.hook(Hooks(in_reorder=libvirtd.kill))
    try:
        job = site.start(Mode.TEST)
        site.rest(job, S.BLOCKED)
    finally:
        libvirtd.start()
    resumed(site, job)
    unharmed(site, before)


def test_libvirtd_is_gone_when_the_operator_takes_a_live_failover_back(
    site: RealSite, rig: Rig, libvirtd: Libvirtd
) -> None:
    site.hook(Hooks(after_start=killed(site)))
    job = site.fail_over(Mode.PLANNED)
    before = rig.source_hashes()
    libvirtd.kill()
    try:
        site.hub.rollback(job, "tester", discard_writes=True)
        site.rest(job, S.BLOCKED)
    finally:
        libvirtd.start()
    resumed(site, job)
    unharmed(site, before)
    rig.wait_for_guest(site.lab.source_vm)


def test_libvirtd_dies_while_the_guest_is_heard(site: RealSite, libvirtd: Libvirtd) -> None:
    before = site.replica()
    site.policy()
    job = site.start(Mode.TEST)
    site.policy(**UNHEARD)
    site.until(lambda: "configured" in heard(site, job), "the first report")
    libvirtd.restart()
    site.rest(job, S.TEST_ACTIVE)
    verdict = site.hub.outcome(job)[1]
    assert verdict is not None and verdict.word is Word.SUCCEEDED, verdict
    libvirtd.restart()
    site.roll_back(job)
    unharmed(site, before)


def resumed(site: RealSite, job: str) -> None:
    """A blocked rollback says what to do; once that is done, it goes through."""
    error = site.hub.job(job).error
    assert error is not None and error["hint"], error
    site.hub.resume(job, "tester", "libvirtd is back")
    site.until(lambda: site.hub.job(job).state is S.ROLLED_BACK, "the rollback")


# ---------------------------------------------------------------- in the middle of a sync


def test_the_controller_dies_in_the_middle_of_a_sync(site: RealSite, rig: Rig) -> None:
    broken(site, rig, kill_controller(site))
    site.platforms.real.start(site.lab.controller_vm)
    complete(site)


def test_ssh_and_nbd_drop_in_the_middle_of_a_sync(site: RealSite, rig: Rig) -> None:
    broken(site, rig, site.drop_ssh)
    complete(site)


def test_the_controllers_disk_fills_in_the_middle_of_a_sync(site: RealSite, rig: Rig) -> None:
    done = site.hook(Hooks(in_sync=lambda: (site.in_controller(FILL), None)[1]))
    try:
        broken(site, rig)
    finally:
        site.in_controller("rm -f /var/lib/refloat/filler")
    assert site.platforms.hooks.done == done
    complete(site)


def test_in_the_end_the_replica_is_the_source(site: RealSite, rig: Rig) -> None:
    source = site.lab.source_vm
    assert rig.source.shut_down(source, 120)
    site.sync()
    assert site.replica() == rig.source_hashes()
    rig.source.power_on(source)
    rig.wait_for_guest(source)


def broken(site: RealSite, rig: Rig, fault: Callable[[], None] | None = None) -> None:
    """A sync of fresh data into whose middle the fault falls, if a hook does not: it fails, and the last
    point stays to the byte."""
    rig.in_guest(site.lab.source_vm, "head -c 60M /dev/urandom >/root/much; sync")
    before, point = site.replica(), site.hub.target(TARGET).sync_point
    site.hub.start_sync(TARGET)
    if fault is not None:
        site.until(lambda: done_bytes(site) > ENOUGH, "the middle of the sync")
        fault()
    site.until(lambda: not site.hub.target(TARGET).holder, "the end of the sync")
    status = site.hub.target(TARGET)
    assert "last sync failed" in status.message, status
    assert (status.state, status.sync_point) == (TargetState.READY, point), status
    assert site.replica() == before


def complete(site: RealSite) -> None:
    """The next sync goes through; the last test compares what they all made with the source."""
    point = site.hub.target(TARGET).sync_point
    site.sync()
    status = site.hub.target(TARGET)
    assert not status.message and status.sync_point != point, status
    assert no_exports(site)


def done_bytes(site: RealSite) -> int:
    return int((site.hub.target(TARGET).progress or {}).get("bytes_done") or 0)


# ---------------------------------------------------------------- what must hold


def unharmed(site: RealSite, before: dict[str, str]) -> None:
    """The replica's every byte, no layer left, one process for each VM, the controller running with nothing
    that could write to the replica."""
    assert site.replica() == before
    assert not list(site.lab.images.glob("*.refloat-*"))
    for vm in (site.lab.controller_vm, site.lab.source_vm):
        assert len(processes(vm)) <= 1, vm
    assert site.platforms.real.power_state(site.lab.controller_vm) is PowerState.RUNNING
    assert no_exports(site)


def no_exports(site: RealSite) -> bool:
    return site.controller.open_exports() == ()


def kill_controller(site: RealSite) -> Callable[[], None]:
    return lambda: (site.place.domain.destroy(), None)[1]


def killed(site: RealSite) -> Callable[[], None]:
    """The recovered VM ends at once: these tests need no boot."""
    return lambda: kill_qemu(site.place)


def at_start(site: RealSite, fault: Callable[[], None]) -> Callable[[], None]:
    """As soon as the VM's QEMU is there: libvirt is still busy with its start."""

    def act() -> None:
        site.until(lambda: bool(processes(site.lab.controller_vm)), "QEMU starts")
        fault()

    return act


def attempts(site: RealSite, job: str) -> dict[str, int]:
    return {step.step: step.attempts for step in site.hub.steps(job) if step.phase == "do"}


def heard(site: RealSite, job: str) -> list[str]:
    return [str(event.data.get("guest")) for event in site.hub.events(job) if event.kind == "progress"]
