"""The lifecycle of a target and its failovers, through the hub, on the simulated estate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refloat.clock import now
from refloat.destinations.simulated_faults import Fault, FaultKind
from refloat.errors import Busy, Failed, NotFound, Refused
from refloat.guest.intended import intended
from refloat.model import (
    Adaptation,
    Fence,
    HealthState,
    Intended,
    JobState,
    Mode,
    OperatorDecision,
    Plan,
    PowerState,
    TargetState,
    Word,
)
from refloat.simulated.world import BUBBLE, PRODUCTION, Protected
from tests.unit.simulated.rig import Site, until

ONE = Protected(1)
SILENT = Fault("*", FaultKind.UNREACHABLE, times=-1)

Make = Callable[..., Site]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Site] = []

    def site(**policy: Any) -> Site:
        made.append(Site(tmp_path, ONE, **policy))
        return made[-1]

    yield site
    for one in made:
        one.close()


def known_off() -> OperatorDecision:
    return OperatorDecision("tester", now(), "override", "the site burnt down")


# ---------------------------------------------------------------- tests


def test_tests_run_beside_the_source_and_replication_catches_up(make: Make) -> None:
    site = make()
    site.sync(ONE)
    for _ in range(2):
        before = site.replicas(ONE)
        job = site.fail_over(ONE, Mode.TEST)
        assert site.hub.job(job).state is JobState.TEST_ACTIVE, site.hub.job(job).error
        found = site.hub.outcome(job)[1]
        assert found and found.word is Word.SUCCEEDED, found
        assert site.world.source.power_state(ONE.name) is PowerState.RUNNING
        assert [nic.network for nic in site.world.destination.hardware(ONE.controller).nics] == [BUBBLE]
        with pytest.raises(Busy):
            site.hub.start_sync(ONE.name)
        with pytest.raises(Busy):
            site.hub.commit(job, "tester")
        site.world.source.guest_writes(ONE.name, "sdb", 4096, b"\x09" * 4096)
        site.roll_back(job)
        assert site.replicas(ONE) == before
        site.sync(ONE)
        point = site.hub.target(ONE.name).sync_point
        assert point and point.how == "changed"
        assert site.replicas(ONE)["sdb"] == site.world.source.content(ONE.name, "sdb")


def test_a_test_ends_by_itself(make: Make) -> None:
    site = make(test_duration=1)
    site.sync(ONE)
    job = site.fail_over(ONE, Mode.TEST)
    site.rest(job, JobState.ROLLED_BACK)
    decisions = site.hub.store.load(job, "decisions", tuple[OperatorDecision, ...])
    assert decisions and decisions[0].who == "the hub" and "policy" in decisions[0].reason


# ---------------------------------------------------------------- emergencies


def test_an_emergency_with_a_source_that_runs_is_refused(make: Make) -> None:
    site = make()
    site.sync(ONE)
    for override in (None, known_off()):
        job = site.fail_over(ONE, Mode.EMERGENCY, override)
        refused = site.hub.job(job)
        assert refused.state is JobState.REFUSED and refused.error
        assert refused.error["code"] == "not_fenced" and "is running" in refused.error["message"]
    assert site.world.source.power_state(ONE.name) is PowerState.RUNNING


def test_an_emergency_with_proof_that_the_source_is_off(make: Make) -> None:
    site = make()
    site.sync(ONE)
    site.world.source.power_off(ONE.name)
    job = site.fail_over(ONE, Mode.EMERGENCY)
    assert site.hub.job(job).state is JobState.AWAITING_COMMIT, site.hub.job(job).error
    assert [n.network for n in site.world.destination.hardware(ONE.controller).nics] == [PRODUCTION]
    fence = site.hub.store.load(job, "fence", Fence)
    assert fence and "off" in fence.proof and fence.override is None
    assert not site.world.source.autostart(ONE.name)
    plan = site.hub.store.load(job, "plan", Plan)
    assert plan and any("old" in warning for warning in plan.warnings)
    site.roll_back(job, discard=True)
    assert site.world.source.autostart(ONE.name)
    assert site.world.source.power_state(ONE.name) is PowerState.OFF, "it was off before"


def test_an_emergency_with_a_silent_source_needs_the_operators_word(make: Make) -> None:
    site = make()
    site.sync(ONE)
    site.world.source.power_off(ONE.name)
    site.world.source.faults.set(SILENT)
    job = site.fail_over(ONE, Mode.EMERGENCY)
    error = site.hub.job(job).error
    assert site.hub.job(job).state is JobState.REFUSED and error and error["code"] == "not_fenced"
    assert "--source-is-off" in error["hint"]

    job = site.fail_over(ONE, Mode.EMERGENCY, known_off())
    assert site.hub.job(job).state is JobState.AWAITING_COMMIT, site.hub.job(job).error
    fence = site.hub.store.load(job, "fence", Fence)
    assert fence and fence.override and fence.override.reason == "the site burnt down"

    # The source comes back: said, and no commit beside it.
    site.world.source.faults.set()
    site.world.source.power_on(ONE.name)
    until(lambda: any(event.kind == "source" for event in site.hub.events(job)), "the source is noticed")
    with pytest.raises(Refused) as caught:
        site.hub.commit(job, "tester")
    assert caught.value.code == "invariant_1"
    site.world.source.power_off(ONE.name)
    site.hub.commit(job, "tester")
    site.rest(job, JobState.COMMITTED)


def test_an_override_without_an_emergency_is_refused(make: Make) -> None:
    site = make()
    site.sync(ONE)
    with pytest.raises(Refused) as caught:
        site.hub.start_failover(ONE.name, Mode.PLANNED, known_off())
    assert caught.value.code == "override_unused" and not site.hub.jobs()


# ---------------------------------------------------------------- replication


def test_syncs_by_schedule_until_paused(make: Make) -> None:
    site = make(sync_every=1, rpo=3600)
    until(lambda: site.hub.target(ONE.name).sync_point is not None, "the first sync by schedule")
    first = site.hub.target(ONE.name).sync_point
    until(lambda: site.hub.target(ONE.name).sync_point != first, "the second")
    until(lambda: not site.hub.target(ONE.name).holder)
    paused = False
    while not paused:  # a sync may just begin
        try:
            paused = site.hub.pause(ONE.name).paused
        except Busy:
            site.idle(ONE)
    site.idle(ONE)
    assert site.hub.target(ONE.name).state is TargetState.PAUSED
    assert site.hub.due_syncs() == [] and site.hub.replication(ONE.name).next_sync is None
    assert not site.hub.replication(ONE.name).late
    with pytest.raises(Refused) as caught:
        site.hub.start_sync(ONE.name)
    assert caught.value.code == "paused"
    site.hub.resume_replication(ONE.name)
    last = site.hub.target(ONE.name).sync_point
    until(lambda: site.hub.target(ONE.name).sync_point != last, "a sync after the pause")


def test_a_full_resync_repairs_a_replica_that_was_damaged(make: Make) -> None:
    site = make()
    site.sync(ONE)
    site.world.destination.guest_writes(ONE.controller, ONE.serial("sdb"), 0, b"damaged")
    site.sync(ONE)
    assert site.replicas(ONE)["sdb"] != site.world.source.content(ONE.name, "sdb")
    site.sync(ONE, full=True)
    point = site.hub.target(ONE.name).sync_point
    assert point and point.how == "full"
    assert site.replicas(ONE)["sdb"] == site.world.source.content(ONE.name, "sdb")


def test_readiness_is_known_after_each_sync(make: Make) -> None:
    site = make()
    site.sync(ONE)
    ready = site.hub.target(ONE.name).readiness
    point = site.hub.target(ONE.name).sync_point
    assert ready and point and ready.ready and ready.point == point.id
    assert any("virtio_blk" in reason for reason in ready.reasons)


def test_what_a_failover_would_do_is_known_after_each_sync(make: Make) -> None:
    """The changes in the guest are worked out again only when what they follow from is another."""
    site = make()
    with pytest.raises(NotFound, match="is not known"):
        site.hub.plan(ONE.name, Mode.TEST)
    site.sync(ONE)
    first = site.hub.plan(ONE.name, Mode.TEST)
    assert first.known.intended and [one.network for one in first.nics] == ["bubble"]
    site.sync(ONE)
    second = site.hub.plan(ONE.name, Mode.PLANNED)
    point = site.hub.target(ONE.name).sync_point
    assert point and second.known.point == point.id != first.known.point
    assert second.known.intended_at == first.known.intended_at
    assert [one.network for one in second.nics] == ["production"]
    job = site.fail_over(ONE, Mode.TEST)
    done = site.hub.store.load(job, "adaptation", Adaptation)
    assert done and intended(done.changes) == first.known.intended


def test_how_a_controller_is_comes_with_each_sync(make: Make) -> None:
    """Nobody asks for it alone; a filter finds those that are silent."""
    site = make()
    assert site.hub.target(ONE.name).health is None
    site.sync(ONE)
    health = site.hub.target(ONE.name).health
    assert health and health.state is HealthState.OK and health.text.startswith("answers, up for")
    assert [one.name for one in site.hub.targets(health=HealthState.OK)] == [ONE.name]
    assert not site.hub.targets(health=HealthState.SILENT)


def test_a_silent_controller_is_known_by_the_sync_that_met_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refloat.syncs.CONTROLLER_WITHIN", 0.0)
    site = make()
    site.world.destination.stop(ONE.controller, graceful=0)
    site.hub.start_sync(ONE.name)
    site.idle(ONE)
    assert [one.name for one in site.hub.targets(health=HealthState.SILENT)] == [ONE.name]
    health = site.hub.target(ONE.name).health
    assert health and "does not run as a controller" in health.text and health.hint


def test_changes_that_cannot_be_worked_out_are_no_trouble_for_the_replica(make: Make) -> None:
    site = make()
    controller = site.world.controller(ONE.controller)

    def no_room(*_: object) -> Intended:
        raise Failed("the controller's own disk is full", code="no_space", hint="give it room")

    controller.intend = no_room  # type: ignore[assignment]
    site.sync(ONE)
    ahead, readiness = site.hub.plan(ONE.name, Mode.PLANNED), site.hub.target(ONE.name).readiness
    assert readiness and readiness.ready
    assert ahead.known.intended is None and "disk is full" in ahead.known.trouble


def test_trouble_is_known_before_the_disaster(make: Make) -> None:
    site = make(disk_bus="nvme")
    site.sync(ONE)
    ready = site.hub.target(ONE.name).readiness
    assert ready and not ready.ready and "nvme" in ready.reasons[0]


def test_a_commit_deadline_reminds_once(make: Make) -> None:
    site = make(commit_deadline=1)
    site.sync(ONE)
    job = site.fail_over(ONE, Mode.PLANNED)
    until(lambda: any(event.kind == "reminder" for event in site.hub.events(job)), "the reminder")
    site.hub.take_care(job)
    assert len([event for event in site.hub.events(job) if event.kind == "reminder"]) == 1
    assert site.hub.job(job).state is JobState.AWAITING_COMMIT
