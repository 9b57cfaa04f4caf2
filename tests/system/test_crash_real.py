"""Faults of a real platform in the middle of a step: the controller dies, SSH drops. What follows is what the
design says, and the replica holds what it held."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from refloat.lab.hub import start_hub, stop_hub
from refloat.model import JobState, Mode, PowerState
from tests.system.real_site import Hooks, RealSite, processes
from tests.system.rig import Rig
from tests.truth.real_sabotages import kill_qemu

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="takes minutes: script/test --all"),
]

S = JobState


@pytest.fixture(scope="module")
def site(rig: Rig) -> Iterator[RealSite]:
    rig.wait_for_guest(rig.lab.source_vm)
    stop_hub(rig.lab)
    site = RealSite(rig.lab)
    try:
        yield site
    finally:
        site.close()
        start_hub(rig.lab)


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
    site.hook(Hooks())


def no_exports(site: RealSite) -> bool:
    return site.controller.open_exports() == ()


def kill_controller(site: RealSite) -> Callable[[], None]:
    return lambda: (site.place.domain.destroy(), None)[1]


def killed(site: RealSite) -> Callable[[], None]:
    """The recovered VM ends at once: these tests need no boot."""
    return lambda: kill_qemu(site.place)


def attempts(site: RealSite, job: str) -> dict[str, int]:
    return {step.step: step.attempts for step in site.hub.steps(job) if step.phase == "do"}
