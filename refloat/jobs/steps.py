"""What it means to perform and to undo one step. No engine here: plain synchronous functions.

They return the error instead of raising it, so that the engine keeps it as the step's outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import InterfaceError, OperationalError

from refloat.errors import Failed, RefloatError
from refloat.failover import COMMIT, OBSERVING, STEPS, Step, check_invariants
from refloat.logs import within
from refloat.run import Run
from refloat.store.store import Store

log = logging.getLogger(__name__)

BY_NAME = {step.name: step for step in (*STEPS, *COMMIT)}


def perform(run: Run, name: str) -> RefloatError | None:
    """Does one step of the failover: mark, abort and invariant checks, the effect, done."""
    step = BY_NAME[name]
    if run.mode not in step.modes or not run.store.mark(run.job, name, "do"):
        return None
    with _logged(run, name, "do"):
        run.kill_point(name, "before")
        return _finish(run, step, "do", _try(lambda: _checked(run, step)))


def _checked(run: Run, step: Step) -> None:
    if step.name not in OBSERVING:
        run.check_abort()
        check_invariants(run, before=step.name)
    step.do(run)


def undo(run: Run, name: str) -> RefloatError | None:
    """Undoes one step that has a mark: it may have acted even when it never finished."""
    step = BY_NAME[name]
    if commit_begun(run.store, run.job):
        return Failed(
            "the commit has begun: there is nothing to go back to",
            code="commit_begun",
            hint="resume the job: it goes forward only",
        )
    marked = any(record.step == name and record.phase == "do" for record in run.store.steps(run.job))
    if not marked or not run.store.mark(run.job, name, "undo"):
        return None
    with _logged(run, name, "undo"):
        return _finish(run, step, "undo", _try(lambda: step.undo(run)))


def commit(run: Run, name: str) -> RefloatError | None:
    """Does one step of the commit. The source is proven to be off before each."""
    step = BY_NAME[name]
    # Before the mark: a commit that was not allowed to begin can still be rolled back.
    refused = _try(lambda: check_invariants(run, before=name))
    if refused is not None or not run.store.mark(run.job, name, "commit"):
        return refused
    with _logged(run, name, "commit"):
        return _finish(run, step, "commit", _try(lambda: step.do(run)))


def commit_begun(store: Store, job: str) -> bool:
    return any(record.phase == "commit" for record in store.steps(job))


def _try(act: Callable[[], None]) -> RefloatError | None:
    try:
        act()
    except RefloatError as error:
        return error
    except (OperationalError, InterfaceError):
        raise  # the store's trouble is not the step's: it is done again when the store answers
    except Exception as error:
        # A defect is not hidden: it is logged whole and shown, and handled as any failed step.
        log.exception("unexpected error")
        return Failed(
            f"{type(error).__name__}: {error}",
            code="internal",
            hint="this is a defect: please report it with the hub's log",
        )
    return None


@contextmanager
def _logged(run: Run, name: str, phase: str) -> Iterator[None]:
    """What is logged inside says of which job and step it is."""
    with within(job=run.job, target=run.target.name, step=name, phase=phase):
        log.info("begins")
        yield


def _finish(run: Run, step: Step, phase: str, error: RefloatError | None) -> RefloatError | None:
    if error is None:
        log.info("done")
    else:
        log.warning("ends with %s: %s", error.code, error.message)
    run.kill_point(step.name, f"after-{phase}")
    store: Store = run.store
    store.finish(run.job, step.name, phase, error)
    return error
