"""A whole failover job of a phony Windows disk: the job, the drivers and the guest engine are real, the
platform is in memory. What the guest says is said with the token that lies on its adapted disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refloat import evidence
from refloat.jobs.engine import Engine
from refloat.model import JobState, Plan, PowerState, Remediation, StatusChange, Verdict, Word
from refloat.policy import DirtyNtfs, Policy, WindowsPolicy
from tests.unit.fakes import World, make_world
from tests.unit.test_jobs import reach
from tests.unit.windows_world import SimulatedGuest
from tests.windows import disks
from tests.windows.engine import EngineController, staged_secrets, with_phony_windows
from tests.windows.volumes import CLEAN, Volume, page, volume_of

pytestmark = pytest.mark.skipif(bool(disks.can_be_made()), reason=disks.can_be_made() or "-")

R = Remediation
ONE = disks.SERVER


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("refloat.validate.STABLE_FOR", 0.0)
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

    found = evidence.bundle(world.store, job, world.directory)
    changed = {change["path"]: change for change in found["adaptation"]["changes"]}
    values = changed["/C/Windows/System32/config/SYSTEM"]["values"]
    assert any(value["key"].endswith(r"Services\viostor") for value in values)
    shown = evidence.page(found)
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


# ---------------------------------------------------------------- a Windows that runs, or was not shut down


def left_running(controller: EngineController) -> None:
    volume_of(ONE, Path(controller.disk)).leave_open((2, 0))


def shut_down_closes_it(world: World, controller: EngineController) -> None:
    """What the final sync brings once Windows was shut down."""
    shut_down = world.source.shut_down

    def closing(vm: str, deadline: float) -> bool:
        volume_of(ONE, Path(controller.disk)).log(page(flags=CLEAN), page(900))
        return shut_down(vm, deadline)

    world.source.shut_down = closing  # type: ignore[method-assign]


def digest(controller: EngineController) -> str:
    return hashlib.sha256(Path(controller.disk).read_bytes()).hexdigest()


def test_a_running_windows_is_looked_at_again_when_it_is_down(
    world: World, controller: EngineController, engine: Engine
) -> None:
    left_running(controller)
    shut_down_closes_it(world, controller)
    world.policy = Policy(windows=WindowsPolicy(report_deadline=1))
    job = world.job()
    engine.start(job)
    reach(world, job, JobState.AWAITING_COMMIT)
    plan = world.run(job).need("plan", Plan)
    assert plan.facts.windows is not None and plan.facts.windows.dirty
    assert statuses(world, job)[0] is R.SCHEDULED


def test_a_windows_that_was_cut_off_is_rolled_back_untouched(
    world: World, controller: EngineController, engine: Engine
) -> None:
    """It did not shut down in time and was powered off: its volume stays as a power cut leaves it."""
    left_running(controller)
    before = digest(controller)
    world.source.obeys = False
    world.policy = Policy(windows=WindowsPolicy(report_deadline=1))
    job = world.job()
    engine.start(job)
    reach(world, job, JobState.ROLLED_BACK)
    error = world.store.job(job).error
    assert error is not None and error["code"] == "guest_dirty" and error["hint"]
    assert digest(controller) == before and not world.destination.overlays
    assert world.source.power is PowerState.RUNNING


def test_it_is_repaired_where_the_policy_says_so(
    world: World, controller: EngineController, engine: Engine
) -> None:
    left_running(controller)
    world.source.obeys = False
    world.policy = Policy(windows=WindowsPolicy(ntfs_dirty=DirtyNtfs.REPAIR, report_deadline=1))
    job = world.job()
    engine.start(job)
    reach(world, job, JobState.AWAITING_COMMIT)
    assert statuses(world, job) == [R.SCHEDULED, R.FAILED]


@pytest.mark.parametrize(
    ("break_it", "code", "words"),
    [
        (lambda volume: volume.hibernate(), "guest_refused", "is hibernated"),
        (lambda volume: volume.write(3, b"-FVE-FS-"), "", "BitLocker"),
    ],
    ids=["hibernated", "BitLocker"],
)
def test_a_refused_disk_stays_as_it_is(
    world: World,
    controller: EngineController,
    engine: Engine,
    break_it: Callable[[Volume], None],
    code: str,
    words: str,
) -> None:
    break_it(volume_of(ONE, Path(controller.disk)))
    before = digest(controller)
    job = world.job()
    engine.start(job)
    reach(world, job, JobState.REFUSED)
    error = world.store.job(job).error
    assert error is not None and error["hint"] and code in error["code"]
    assert words in error["message"]
    assert digest(controller) == before and world.source.changed == []
