"""Jobs from start to end on the durable engine, over a world in memory that can be made to fail."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from refloat.errors import Failed, RefloatError, Refused
from refloat.evidence.collect import bundle
from refloat.failover import RUNS_LIVE, check_invariants
from refloat.guest.linux.cpu import LEVELS
from refloat.jobs import engine as engine_module
from refloat.jobs import steps
from refloat.jobs.engine import Engine
from refloat.jobs.states import finish_job
from refloat.model import (
    DiskBus,
    Hardware,
    JobState,
    NicModel,
    Plan,
    PowerState,
    TargetState,
    Verdict,
    Word,
)
from refloat.policy import AdaptChoice, AfterDeadline, OnFailure, Policy, Rebuild
from refloat.run import Run
from tests.unit.builders import FACTS, replace
from tests.unit.fakes import World, make_world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("refloat.validate.STABLE_FOR", 0.0)
    made = make_world(tmp_path)
    yield made
    made.store.engine.dispose()


@pytest.fixture
def engine(world: World, tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path / "jobs.sqlite", world.run)
    made.launch()
    yield made
    made.close()


def reach(world: World, job: str, *states: JobState) -> JobState:
    deadline = time.monotonic() + 30
    while (state := world.store.job(job).state) not in states:
        assert time.monotonic() < deadline, f"{job} is {state}: {world.store.steps(job)[-1:]}"
        time.sleep(0.05)
    return state


def wait_for_step(world: World, job: str, name: str) -> None:
    deadline = time.monotonic() + 30
    while not any(step.step == name for step in world.store.steps(job)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def started(world: World, engine: Engine) -> str:
    job = world.job()
    world.destination.hear = lambda: world.good_report(job)
    engine.start(job)
    return job


def test_a_failover_waits_for_its_commit_and_leaves_nothing(world: World, engine: Engine) -> None:
    job = started(world, engine)
    reach(world, job, JobState.AWAITING_COMMIT)
    verdict = world.store.load(job, "verdict", Verdict)
    assert verdict is not None and verdict.word is Word.SUCCEEDED, verdict
    engine.tell(job, "commit", "1")
    reach(world, job, JobState.COMMITTED)
    assert world.destination.deleted == ["/own"]
    assert not world.destination.overlays
    assert world.store.target("web").state is TargetState.FAILED_OVER
    assert world.source.power is PowerState.OFF and not world.source.starts


def test_a_rollback_puts_everything_back(world: World, engine: Engine) -> None:
    before = world.destination.hardware("")
    job = started(world, engine)
    reach(world, job, JobState.AWAITING_COMMIT)
    engine.tell(job, "rollback", "1")
    reach(world, job, JobState.ROLLED_BACK)
    assert world.destination.hardware("") == before
    assert world.destination.power is PowerState.RUNNING
    assert world.source.power is PowerState.RUNNING and world.source.starts
    assert world.store.target("web").state is TargetState.READY
    assert world.store.target("web").holder == ""


@pytest.mark.parametrize(
    "verb", ["snapshot", "set_compute", "set_disks", "set_nics", "set_firmware", "start"]
)
def test_a_step_that_fails_is_rolled_back_with_its_cause(world: World, engine: Engine, verb: str) -> None:
    before = world.destination.hardware("")
    world.destination.fail = {verb: 1}
    job = started(world, engine)
    reach(world, job, JobState.ROLLED_BACK)
    error = world.store.job(job).error
    assert error is not None and error["message"] == f"{verb} went wrong"
    assert world.destination.hardware("") == before
    assert world.source.power is PowerState.RUNNING


def test_a_failed_adaptation_is_rolled_back(world: World, engine: Engine) -> None:
    world.controller.fail = "no space in the guest's /boot"
    job = started(world, engine)
    reach(world, job, JobState.ROLLED_BACK)
    assert not world.destination.overlays
    assert "start" not in [step.step for step in world.store.steps(job)]


def two_systems(world: World) -> None:
    world.controller.facts = replace(FACTS, problems=("two systems are installed",))


def no_system(world: World) -> None:
    """The replica holds something else than an installed system: the guest engine itself looks at it."""
    world.controller.image = world.directory / "replica.raw"
    world.controller.image.write_bytes(random.Random(1).randbytes(1 << 20))


def boot_is_full(world: World) -> None:
    full = "/boot has 3 MiB free, a new initramfs of kernel 6.1.0-1-amd64 needs 30 MiB"
    world.controller.facts = replace(FACTS, problems=(full,))


def pool_is_full(world: World) -> None:
    world.destination.free = 1 << 20


def controller_is_full(world: World) -> None:
    world.controller.cannot_look = Failed(
        "the controller's own disk is full", code="no_space", hint="give it more room, then try again"
    )


def disk_cannot_come_back(world: World) -> None:
    world.destination.refusal = Refused(
        "disk rf-controller is qcow2, and its name does not say so", code="unknown_format", hint="rename it"
    )


def processor(level: int) -> frozenset[str]:
    return frozenset(flag for number, flags in LEVELS.items() if number <= level for flag in flags)


def processor_is_too_old(world: World) -> None:
    world.controller.facts = replace(FACTS, cpu_level=3)
    world.destination.flags = processor(2)


def no_such_disks(world: World) -> None:
    world.policy = Policy(disk_bus=DiskBus.NVME)


def nothing_can_be_appended(world: World) -> None:
    kernels = tuple(replace(kernel, cannot_extend="no archive") for kernel in FACTS.kernels)
    world.controller.facts = replace(FACTS, kernels=kernels)


UUID = "c0ffee00-1111-4222-8333-444455556666"


def key_policy(file: Path) -> Policy:
    return Policy(report_deadline=5, luks_keys={UUID: str(file)})


def no_key_file(world: World) -> None:
    world.policy = key_policy(world.directory / "none.key")


def key_file_with(content: bytes) -> Callable[[World], None]:
    def make(world: World) -> None:
        file = world.directory / "luks.key"
        file.write_bytes(content)
        world.policy = key_policy(file)

    return make


def key_file_is_a_pipe(world: World) -> None:
    os.mkfifo(world.directory / "luks.key")
    world.policy = key_policy(world.directory / "luks.key")


@pytest.mark.parametrize(
    ("break_it", "code", "words"),
    [
        (processor_is_too_old, "guest_refused", "x86-64-v3, the destination's has x86-64-v2"),
        (no_such_disks, "disk_bus", "no disks by nvme here"),
        (no_key_file, "luks_key_file", "none.key: No such file or directory"),
        (key_file_with(b"\n"), "luks_key_file", "it is empty"),
        (key_file_with(b"\xff\xfe"), "luks_key_file", "it is not UTF-8 text"),
        (key_file_with(b"a" * 70_000), "luks_key_file", "it is too large"),
        (key_file_is_a_pipe, "luks_key_file", "it is not a plain file"),
        (two_systems, "guest_refused", "two systems are installed"),
        (
            no_system,
            "guest_root_missing",
            "no root filesystem of Linux or Windows was found on the guest's disks (sda",
        ),
        (boot_is_full, "guest_refused", "/boot has 3 MiB free"),
        (nothing_can_be_appended, "guest_refused", "with `rebuild: allowed` in its policy"),
        (pool_is_full, "no_space", "1 MiB are free for the disks of web-controller, overlays need 512 MiB"),
        (controller_is_full, "no_space", "the controller's own disk is full"),
        (disk_cannot_come_back, "unknown_format", "rf-controller is qcow2"),
    ],
)
def test_a_refusal_in_preflight_changes_nothing(
    world: World, engine: Engine, break_it: Callable[[World], None], code: str, words: str
) -> None:
    break_it(world)
    job = started(world, engine)
    reach(world, job, JobState.REFUSED)
    known, target = world.store.job(job), world.store.target("web")
    assert known.error is not None and known.finished
    assert known.error["code"] == code and words in known.error["message"] and known.error["hint"]
    assert [step.step for step in world.store.steps(job)] == ["preflight"]
    assert world.destination.calls == [] and world.controller.adapted == 0
    assert world.source.changed == [] and world.source.power is PowerState.RUNNING
    assert (target.holder, target.state) == ("", TargetState.READY)
    assert words in target.message, "the target says why, too"


@pytest.mark.parametrize("word", list(Rebuild))
def test_the_policys_word_on_the_guests_own_tool_reaches_the_controller(
    world: World, engine: Engine, word: Rebuild
) -> None:
    world.policy = Policy(report_deadline=5, rebuild=word)
    allowed = word is Rebuild.ALLOWED
    if allowed:
        nothing_can_be_appended(world)
    job = started(world, engine)
    reach(world, job, JobState.AWAITING_COMMIT)
    plan, request = world.run(job).need("plan", Plan), world.controller.request
    assert request is not None and request.rebuild is plan.rebuild is allowed
    assert any("the guest's own tool makes it anew" in one for one in plan.decision.reasons) is allowed


def test_what_was_refused_can_be_mended_and_started_again(world: World, engine: Engine) -> None:
    pool_is_full(world)
    job = started(world, engine)
    reach(world, job, JobState.REFUSED)
    world.destination.free = 1 << 40
    reach(world, started(world, engine), JobState.AWAITING_COMMIT)


PASSPHRASE = "correct horse battery staple"


def test_passphrases_reach_the_controller_and_nothing_else(
    world: World, engine: Engine, caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("keys") / "luks.key"
    file.write_text(f"{PASSPHRASE}\n")
    caplog.set_level(logging.DEBUG)
    world.policy = key_policy(file)
    job = started(world, engine)
    reach(world, job, JobState.AWAITING_COMMIT)
    assert [keys for _, _, keys in world.controller.asked] == [{UUID: PASSPHRASE}] * 2
    written = [path for path in world.directory.rglob("*") if path.is_file()]
    assert any(path.name.startswith("refloat.sqlite") for path in written)
    for path in written:
        assert PASSPHRASE.encode() not in path.read_bytes(), path
    assert PASSPHRASE not in str(bundle(world.store, job, world.directory))
    assert PASSPHRASE not in caplog.text
    assert PASSPHRASE not in repr((world.run(job), world.controller.request))


def test_a_passphrase_that_is_gone_when_it_is_needed_again(world: World, engine: Engine) -> None:
    key_file_with(b"secret")(world)
    just_before_adapting = world.controller.stop_exports

    def stop_exports() -> str:
        (world.directory / "luks.key").unlink()
        return just_before_adapting()

    world.controller.stop_exports = stop_exports  # type: ignore[method-assign]
    job = started(world, engine)
    reach(world, job, JobState.ROLLED_BACK)
    error = world.store.job(job).error
    assert error is not None and error["code"] == "luks_key_file"
    assert world.controller.adapted == 0 and not world.destination.overlays


@pytest.mark.parametrize(
    ("bus", "nic"), [(DiskBus.VIRTIO_SCSI, NicModel.VIRTIO), (DiskBus.SATA, NicModel.E1000E)]
)
def test_the_policys_hardware_is_the_recovered_vms_until_a_rollback(
    world: World, engine: Engine, bus: DiskBus, nic: NicModel
) -> None:
    world.policy = Policy(report_deadline=5, disk_bus=bus, nic_model=nic)
    before = world.destination.hardware("")
    job = started(world, engine)
    reach(world, job, JobState.AWAITING_COMMIT)
    assert [(one, other) for one, other, _ in world.controller.asked] == [(bus, nic)] * 2
    promoted = world.store.load(job, "promoted", Hardware)
    assert promoted is not None
    assert {disk.bus for disk in promoted.disks} == {bus}
    assert {adapter.model for adapter in promoted.nics} == {nic}
    engine.tell(job, "rollback", "1")
    reach(world, job, JobState.ROLLED_BACK)
    assert world.destination.hardware("") == before


@pytest.mark.parametrize(
    ("flags", "choice", "words"),
    [
        (None, AdaptChoice.AUTO, "whether the destination's has it is not known"),
        (processor(1), AdaptChoice.NEVER, "the destination's has x86-64-v1"),
        (processor(2), AdaptChoice.AUTO, ""),
        (processor(4), AdaptChoice.AUTO, ""),
    ],
)
def test_what_is_not_known_of_the_processor_is_a_warning(
    world: World, flags: frozenset[str] | None, choice: AdaptChoice, words: str
) -> None:
    world.controller.facts = replace(FACTS, cpu_level=2)
    world.destination.flags = flags
    world.policy = Policy(adapt=choice)
    run = world.run(world.job())
    assert steps.perform(run, "preflight") is None
    warnings = run.need("plan", Plan).warnings
    assert any(words in warning for warning in warnings) if words else not warnings


def test_an_undo_that_fails_blocks_but_the_source_comes_back(world: World, engine: Engine) -> None:
    world.destination.fail = {"revert": 1}
    job = started(world, engine)
    reach(world, job, JobState.AWAITING_COMMIT)
    engine.tell(job, "rollback", "1")
    reach(world, job, JobState.BLOCKED)
    assert world.source.power is PowerState.RUNNING
    assert world.store.target("web").holder == job, "a blocked job keeps its target"
    engine.tell(job, "rollback", "2")
    reach(world, job, JobState.ROLLED_BACK)
    assert not world.destination.overlays


def test_a_job_that_was_rolled_back_says_what_it_failed_of(world: World, engine: Engine) -> None:
    """Not what its rollback had trouble with on the way."""
    world.destination.fail = {"set_nics": 1, "revert": 1}
    job = started(world, engine)
    reach(world, job, JobState.BLOCKED)
    blocked = world.store.job(job).error
    assert blocked is not None and "revert" in blocked["message"]
    engine.tell(job, "rollback", "1")
    reach(world, job, JobState.ROLLED_BACK)
    error = world.store.job(job).error
    assert error is not None and "set_nics" in error["message"]


def test_the_policy_can_hold_a_failed_job_for_a_person(world: World, engine: Engine) -> None:
    world.policy = Policy(on_failure=OnFailure.HOLD)
    world.destination.fail = {"set_nics": 1}
    job = started(world, engine)
    reach(world, job, JobState.BLOCKED)
    assert world.destination.overlays, "nothing was undone"
    engine.tell(job, "rollback", "1")
    reach(world, job, JobState.ROLLED_BACK)


def test_a_source_that_does_not_shut_down_ends_the_job_by_policy(world: World, engine: Engine) -> None:
    world.policy = Policy(shutdown_then=AfterDeadline.ABORT)
    world.source.obeys = False
    job = started(world, engine)
    reach(world, job, JobState.ROLLED_BACK)
    error = world.store.job(job).error
    assert error is not None and error["code"] == "shutdown_deadline"
    assert world.source.power is PowerState.RUNNING and world.source.starts


def test_no_report_is_no_success(world: World, engine: Engine) -> None:
    world.policy = Policy(report_deadline=1)
    job = world.job()
    engine.start(job)
    reach(world, job, JobState.AWAITING_COMMIT)
    verdict = world.store.load(job, "verdict", Verdict)
    assert verdict is not None and verdict.word is Word.FAILED
    assert any("no report" in reason for reason in verdict.reasons)


def test_an_abort_rolls_back_also_where_the_policy_holds_failures(world: World, engine: Engine) -> None:
    world.policy = Policy(on_failure=OnFailure.HOLD)
    job = world.job()
    world.store.request_abort(job)
    # Past preflight: an abort there is a refusal.
    world.store.mark(job, "preflight", "do")
    world.store.finish(job, "preflight", "do")
    engine.start(job)
    reach(world, job, JobState.ROLLED_BACK)


def test_trouble_of_the_hub_itself_does_not_end_a_job(
    world: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or a locked database: the job is tried again until somebody has mended it."""
    monkeypatch.setattr("refloat.jobs.engine.ASK_AGAIN", 0.05)
    real, failures = world.store.mark, [OSError("no space left on device")] * 3

    def mark(job: str, step: str, phase: str) -> bool:
        if step == "snapshot-disks" and failures:
            raise failures.pop()
        return real(job, step, phase)

    monkeypatch.setattr(world.store, "mark", mark)
    job = started(world, engine)
    reach(world, job, JobState.AWAITING_COMMIT)
    assert not failures


def test_an_abort_rolls_back(world: World, engine: Engine) -> None:
    world.policy = Policy(report_deadline=600)
    job = world.job()
    engine.start(job)
    wait_for_step(world, job, "await-report")
    world.store.request_abort(job)
    reach(world, job, JobState.ROLLED_BACK)
    assert world.source.power is PowerState.RUNNING


# ---------------------------------------------------------------- an abort between two steps of the engine

ABORTABLE = (JobState.QUEUED, JobState.RUNNING)


def just_before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object]) -> None:
    """`act` runs once, right before the first call of this function."""
    real, once = getattr(owner, name), [act]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if once:
            once.pop()()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


def test_an_abort_before_the_mark_of_the_start_keeps_the_vm_from_starting(
    world: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, said = world.job(), []
    just_before(
        monkeypatch,
        world.destination,
        "set_firmware",
        lambda: said.append(world.store.request_abort(job, ABORTABLE, RUNS_LIVE)),
    )
    engine.start(job)
    reach(world, job, JobState.ROLLED_BACK)
    assert said == [True]
    assert world.destination.calls.count("start") == 1, "of the controller, never of the recovered VM"
    error = world.store.job(job).error
    assert error is not None and error["code"] == "aborted"


@pytest.mark.parametrize("where", ["check_invariants", "start"], ids=["after its check", "while it starts"])
def test_an_abort_that_meets_the_start_of_the_vm_is_acknowledged_or_not_taken(
    world: World, engine: Engine, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """From the mark on the VM may run: what a rollback discards has to be acknowledged."""
    job, said = world.job(), []

    def ask() -> None:
        said.append(world.store.request_abort(job, ABORTABLE, RUNS_LIVE))
        said.append(world.store.request_abort(job, ABORTABLE))

    def invariants(run: Run, before: str) -> None:
        if before == RUNS_LIVE and where == "check_invariants":
            ask()
        check_invariants(run, before)

    monkeypatch.setattr("refloat.jobs.steps.check_invariants", invariants)
    if where == "start":
        just_before(monkeypatch, world.destination, "start", ask)
    engine.start(job)
    reach(world, job, JobState.ROLLED_BACK)
    assert said == [False, True]
    assert world.source.power is PowerState.RUNNING and not world.destination.overlays


def test_an_abort_in_the_last_moment_is_not_lost(
    world: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last look for an abort, before the job waits for the operator."""
    just_before(monkeypatch, engine_module, "settle", lambda: world.store.request_abort(job, ABORTABLE))
    job = started(world, engine)
    reach(world, job, JobState.ROLLED_BACK)
    states = [event.data["state"] for event in world.store.events(job) if event.kind == "state"]
    assert states == ["running", "rolling_back", "rolled_back"]


def test_an_abort_after_the_last_moment_is_refused(world: World, engine: Engine) -> None:
    job = started(world, engine)
    reach(world, job, JobState.AWAITING_COMMIT)
    assert not world.store.request_abort(job, ABORTABLE)
    assert not world.store.job(job).abort_requested


def test_an_abort_beside_a_failure_rolls_back_where_the_policy_would_hold(
    world: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the very entry into the state in which the job would wait."""
    world.policy = Policy(on_failure=OnFailure.HOLD)
    world.destination.fail = {"set_nics": 1}
    job = world.job()

    def entering(run: Run, state: JobState, error: RefloatError | None) -> JobState:
        if state is JobState.BLOCKED:
            world.store.request_abort(job, ABORTABLE)
        return finish_job(run, state, error)

    monkeypatch.setattr("refloat.jobs.engine.finish_job", entering)
    engine.start(job)
    reach(world, job, JobState.ROLLED_BACK)
    error = world.store.job(job).error
    assert error is not None and error["message"] == "set_nics went wrong"


def test_a_store_that_does_not_answer_a_step_is_no_failure_of_it(
    world: World, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is rolled back for it: the step is done again when the store answers."""
    monkeypatch.setattr(engine_module, "ASK_AGAIN", 0.05)
    asked: list[str] = []
    step = steps.BY_NAME["snapshot-disks"]

    def do(run: Run) -> None:
        asked.append(run.job)
        if len(asked) < 3:
            raise OperationalError("SELECT 1", {}, Exception("the server closed the connection"))
        step.do(run)

    monkeypatch.setitem(steps.BY_NAME, step.name, replace(step, do=do))
    job = started(world, engine)
    assert reach(world, job, JobState.AWAITING_COMMIT, JobState.ROLLED_BACK) is JobState.AWAITING_COMMIT
    assert len(asked) == 3
    (done,) = [one for one in world.store.steps(job) if one.step == step.name]
    assert (done.attempts, done.error) == (3, None)


def test_jobs_go_on_after_the_engine_was_stopped_in_the_middle(world: World, tmp_path: Path) -> None:
    """Once inside a step, once while it waits for the operator: a stop must not end a job."""
    first = Engine(tmp_path / "jobs.sqlite", world.run)
    first.launch()
    job = world.job()
    first.start(job)
    wait_for_step(world, job, "await-report")
    first.close()
    world.destination.hear = lambda: world.good_report(job)
    second = Engine(tmp_path / "jobs.sqlite", world.run)
    second.launch()
    reach(world, job, JobState.AWAITING_COMMIT)
    second.close()
    third = Engine(tmp_path / "jobs.sqlite", world.run)
    third.launch()
    third.start(job)
    third.tell(job, "commit", "1")
    reach(world, job, JobState.COMMITTED)
    third.close()
    assert world.controller.adapted == 1
