"""What a failover knows of its source: now, or as it was seen last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refloat.errors import Refused, Unreachable
from refloat.left_behind import SECURE_BOOT, TPM
from refloat.model import AddressOrigin, Mode, SeenAddress, SeenNic
from refloat.prepare import inventory, make_plan
from tests.unit.builders import FACTS, SOURCE, replace
from tests.unit.fakes import World, make_world

SEEN = SeenNic("2026-01-01T10:00:00.000+00:00", (SeenAddress("10.20.30.40/24", AddressOrigin.MANUAL),))
CAPTURED = replace(SOURCE, nics=(replace(SOURCE.nics[0], seen=SEEN),))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def silent(_vm: str) -> Any:
    raise Unreachable("no answer from vCenter")


def test_an_emergency_uses_the_last_good_capture(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store.save_inventory("web", CAPTURED)
    monkeypatch.setattr(world.source, "inventory", silent)
    run = world.run(world.job(Mode.EMERGENCY))
    source = inventory(run)
    assert source == CAPTURED
    plan = make_plan(run, source, FACTS, None)
    assert "the platform saw the same" in plan.nics[0].reason
    assert any("old (of 2026-01-01" in one for one in plan.warnings)
    with pytest.raises(Unreachable):
        inventory(replace(run, mode=Mode.PLANNED))


def test_a_capture_without_tools_keeps_the_last_seen_network(world: World) -> None:
    world.store.save_inventory("web", CAPTURED)
    world.source.vm = replace(SOURCE, cpus=7, warnings=("VMware Tools do not run",))
    run = world.run(world.job())
    source = inventory(run)
    assert source.cpus == 7 and source.nics[0].seen == SEEN
    assert "VMware Tools do not run" in make_plan(run, source, FACTS, None).warnings


def test_a_planned_failover_whose_final_sync_could_not_be_made_is_refused(world: World) -> None:
    """Before the source is shut down for it."""
    world.source.vm = replace(SOURCE, problems=("Hard disk 2 is independent_persistent",))
    run = world.run(world.job())
    with pytest.raises(Refused) as caught:
        inventory(run)
    assert caught.value.code == "not_replicable" and "Hard disk 2" in caught.value.message
    assert world.source.changed == []
    for mode in (Mode.TEST, Mode.EMERGENCY):  # from the last complete sync point; it is said
        plan = make_plan(run, inventory(replace(run, mode=mode)), FACTS, None)
        assert "Hard disk 2 is independent_persistent" in plan.warnings


def test_secure_boot_and_a_tpm_are_never_left_behind_in_silence(world: World) -> None:
    run = world.run(world.job(Mode.PLANNED))
    assert not {SECURE_BOOT, TPM} & set(make_plan(run, SOURCE, FACTS, None).warnings)
    both = make_plan(run, replace(SOURCE, secure_boot=True, tpm=True), FACTS, None)
    assert {SECURE_BOOT, TPM} <= set(both.warnings)
