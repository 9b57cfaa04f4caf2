"""What a change of a job's state means for the job, its target and the operator."""

from __future__ import annotations

from refloat.errors import Failed, RefloatError
from refloat.failover import OBSERVING, may
from refloat.model import Facet, FacetState, JobState, Mode, Observer, Proof, TargetState, Verdict
from refloat.run import Run
from refloat.verdict import verdict

# Where the target ends when its job does. A blocked job keeps its target.
RELEASES = {
    JobState.REFUSED: TargetState.READY,
    JobState.ROLLED_BACK: TargetState.READY,
    JobState.COMMITTED: TargetState.FAILED_OVER,
}


# Where a job waits for the operator. One that the operator wants to end goes on to its rollback instead.
AT_REST = frozenset({JobState.TEST_ACTIVE, JobState.AWAITING_COMMIT, JobState.BLOCKED})


def finish_job(run: Run, state: JobState, error: RefloatError | None) -> JobState:
    """Enters a state, once: a repetition after a restart changes nothing.

    Returns the state in which the job is now. It is another one where the job was to come to rest, but the
    abort was asked for: it still runs; and where it was to run, but the hub has refused it meanwhile.
    """
    before = run.store.job(run.job).state
    if before is state or (before, state) == (JobState.REFUSED, JobState.RUNNING):
        return before
    if not may(before, state):
        raise Failed(f"job {run.job} cannot go from {before} to {state}", code="illegal_transition")
    if state in RELEASES:
        run.controller.disconnect()
    if state is JobState.ROLLED_BACK:
        error = error or _cause(run)
    aborts = before is JobState.RUNNING and state in AT_REST
    entered = run.store.set_state(
        run.job, state, error, release=RELEASES.get(state), before=before, unless_aborted=aborts
    )
    return state if entered else run.store.job(run.job).state


def _cause(run: Run) -> RefloatError | None:
    """What the failover failed of. An undo may have failed since, but that has been mended."""
    failed = (
        record.error
        for record in run.store.steps(run.job)
        if record.phase == "do" and record.step not in OBSERVING
    )
    return next((RefloatError.from_dict(error) for error in failed if error), None)


def settle(run: Run) -> JobState:
    """The job reaches the operator with the verdict that was found; when the observing steps themselves
    broke, with the verdict that they could not prove anything. Returns as `finish_job`."""
    if run.load("verdict", Verdict) is None:
        errors = [record.error for record in run.store.steps(run.job) if record.error]
        text = str(errors[-1]["message"]) if errors else "the observing steps did not run"
        proof = Proof(Observer.PLATFORM, False, text)
        run.save("verdict", verdict((Facet("boot", FacetState.FAILED, True, (proof,)),)))
    state = JobState.TEST_ACTIVE if run.mode is Mode.TEST else JobState.AWAITING_COMMIT
    return finish_job(run, state, None)
