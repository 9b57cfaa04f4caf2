"""A whole failover job of a phony Windows disk: the job, the drivers and the guest engine are real, the
platform is in memory. What the guest says is said with the token that lies on its adapted disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.evidence import bundle, page
from refloat.jobs.engine import Engine
from refloat.model import JobState, Plan, Remediation, StatusChange, Verdict, Word
from refloat.policy import Policy, WindowsPolicy
from tests.unit.fakes import World, make_world
from tests.unit.test_jobs import reach
from tests.unit.windows_world import SimulatedGuest
from tests.windows import disks
from tests.windows.engine import EngineController, staged_secrets, with_phony_windows

pytestmark = pytest.mark.skipif(bool(disks.can_be_made()), reason=disks.can_be_made() or "-")

R = Remediation
ONE = disks.SERVER


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("refloat.validate.STABLE_FOR", 0.0)
    monkeypatch.setattr("refloat.validate.PROBE_WITHIN", 0.0)
    monkeypatch.setattr("refloat.validate.LISTEN_FOR", 0.05)
    made = make_world(tmp_path)
    yield made
    made.store.engine.dispose()


@pytest.fixture
def controller(world: World, tmp_path: Path) -> EngineController:
    (tmp_path / "guest").mkdir()
    return with_phony_windows(world, ONE, tmp_path / "guest")


@pytest.fixture
def engine(world: World, tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path / "jobs.sqlite", world.run)
    made.launch()
    yield made
    made.close()


def statuses(world: World, job: str) -> list[Remediation]:
    return [one.status for one in world.store.load(job, "remediation", tuple[StatusChange, ...]) or ()]


def test_scheduled_and_nothing_more_is_failed(
    world: World, controller: EngineController, engine: Engine
) -> None:
    world.policy = Policy(windows=WindowsPolicy(report_deadline=1))
    job = world.job()
    engine.start(job)
    reach(world, job, JobState.AWAITING_COMMIT)
    assert world.destination.calls[-1] == "start", "the VM was started"
    assert statuses(world, job) == [R.SCHEDULED, R.FAILED]
    verdict = world.store.load(job, "verdict", Verdict)
    assert verdict is not None and verdict.word is Word.FAILED
    assert not world.destination.defined.clock_utc

    found = bundle(world.store, job, world.directory)
    changed = {change["path"]: change for change in found["adaptation"]["changes"]}
    values = changed["/C/Windows/System32/config/SYSTEM"]["values"]
    assert any(value["key"].endswith(r"Services\viostor") for value in values)
    shown = page(found)
    assert "Services\\viostor]" in shown and "What is not proven" in shown
    secrets = staged_secrets(ONE, Path(controller.disk))
    assert secrets["TOKEN"] not in shown and secrets["TOKEN"] not in str(found)


def test_the_guest_speaks_with_what_lies_on_its_disk(
    world: World, controller: EngineController, engine: Engine
) -> None:
    world.policy = Policy(windows=WindowsPolicy(report_deadline=120))
    job = world.job()
    said: list[SimulatedGuest] = []

    def hear() -> list[bytes]:
        if not said:
            plan, secrets = world.run(job).need("plan", Plan), staged_secrets(ONE, Path(controller.disk))
            (nic,) = plan.nics
            assert nic.config is not None and nic.config.addresses
            rows = ((R.RUNNING, 1, 0, 1), (R.AWAITING_REBOOT, 1, 1, 5), (R.SUCCEEDED, 2, 1, 7))
            said.append(SimulatedGuest(world, job, *rows, mac=nic.mac, config=nic.config, secrets=secrets))
        return said[0].speak()

    world.destination.hear = hear
    engine.start(job)
    reach(world, job, JobState.AWAITING_COMMIT)
    assert statuses(world, job) == [R.SCHEDULED, R.RUNNING, R.AWAITING_REBOOT, R.SUCCEEDED]
    verdict = world.store.load(job, "verdict", Verdict)
    assert verdict is not None
    assert verdict.word is Word.SUCCEEDED, verdict.reasons
