"""The fence of an emergency failover, on what vCenter says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refloat.fence import fence, power_off_source, power_on_source, source_limitation
from refloat.model import Mode, OperatorDecision, PowerState
from refloat.run import Run
from tests.unit.fakes import make_world
from tests.vcsim.rig import VcSim


@pytest.fixture
def named(vcsim: VcSim) -> Iterator[VcSim]:
    """The VM that the unit tests' target protects."""
    vm = vcsim.set(Name="web")
    try:
        yield vcsim
    finally:
        vcsim.set(vm, Name=vcsim.vm, Connection="connected", HostConnection="connected")


def run_of(directory: Path, mode: Mode, source: Any) -> Run:
    world = make_world(directory)
    return replace(world.run(world.job(mode)), source=source)


def test_a_vm_that_is_off_on_a_connected_host_is_fenced(named: VcSim, tmp_path: Path) -> None:
    run = run_of(tmp_path, Mode.EMERGENCY, named.source())
    assert source_limitation(run) == "the source web is running"
    named.set("web", Power="poweredOff")
    assert source_limitation(run) is None
    fence(run)


@pytest.mark.parametrize("stale", [{"Connection": "disconnected"}, {"HostConnection": "notResponding"}])
def test_the_last_state_of_a_lost_host_is_no_proof(
    named: VcSim, tmp_path: Path, stale: dict[str, str]
) -> None:
    """Only the operator's recorded word stands for it then."""
    named.set("web", Power="poweredOff", **stale)
    run = run_of(tmp_path, Mode.EMERGENCY, named.source())
    assert "cannot be known" in (source_limitation(run) or "")
    run.save("override", OperatorDecision("me", "2026-01-01", "source-is-off", "the site burnt down"))
    assert source_limitation(run) is None
    fence(run)


def test_off_and_on_again_at_the_rollback(named: VcSim, tmp_path: Path) -> None:
    source = named.source()
    source.set_autostart("web", True)
    run = run_of(tmp_path, Mode.PLANNED, source)
    power_off_source(run)
    assert source.power_state("web") is PowerState.OFF and not source.autostart("web")
    power_off_source(run)  # a step may run more than once
    power_on_source(run)
    assert source.power_state("web") is PowerState.RUNNING and source.autostart("web")
