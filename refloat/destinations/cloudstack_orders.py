"""Orders for one VM, each given once: asked first whether it is already true, journaled, waited for, asked
again.

An answer that was lost says nothing about the order. So the jobs on the VM and its volumes are waited out,
then the platform's state says whether it was carried out; only where it says no, the order is given again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from refloat.destinations.cloudstack_api import Api, Item, JobState
from refloat.destinations.cloudstack_errors import LOST, Then, Trouble
from refloat.destinations.cloudstack_journal import Journal, Journals
from refloat.errors import Failed, Unreachable

log = logging.getLogger(__name__)

Known = Callable[[], Sequence[str]]  # the ids of the VM and of all that belongs to it


class Orders:
    """Held by who may give orders for one VM: see `alone`."""

    def __init__(self, api: Api, vm: str, journal: Journal, known: Known) -> None:
        self.api, self.vm, self.journal = api, vm, journal
        self._settings = api.settings
        self._known = known

    # ------------------------------------------------------------ giving

    def give(self, command: str, done: Callable[[], bool], about: str, **params: Any) -> None:
        """Returns when `done` holds. Raises Refused where CloudStack said no, Failed or Unreachable else."""
        deadline, pause = time.monotonic() + self._settings.patience, self._settings.poll / 2
        while not done():
            trouble = self._once(command, about, params)
            if trouble is None:
                self._confirm(command, done, about)
                return
            if done():
                return
            if trouble.row.then not in (Then.RETRY, Then.LOST) or time.monotonic() + pause > deadline:
                raise trouble.error(about)
            log.info("%s of %s: %s; once more", command, about, trouble)
            time.sleep(pause)
            pause = min(pause * 2, self._settings.poll * 15)

    def again(self, command: str, about: str, **params: Any) -> None:
        """An order that is safe to repeat, and whose effect cannot be asked for."""
        carried_out = False

        def done() -> bool:
            return carried_out

        deadline, pause = time.monotonic() + self._settings.patience, self._settings.poll / 2
        while not carried_out:
            trouble = self._once(command, about, params)
            carried_out = trouble is None
            if trouble is not None:
                if trouble.row.then not in (Then.RETRY, Then.LOST) or time.monotonic() + pause > deadline:
                    raise trouble.error(about)
                time.sleep(pause)
                pause = min(pause * 2, self._settings.poll * 15)

    def _once(self, command: str, about: str, params: Item) -> Trouble | None:
        """The trouble that came of it; None where it was carried out."""
        self.journal.begin(command, about)
        try:
            answer = self.api.order(command, **params)
        except Trouble as trouble:
            if trouble.row.then is Then.LOST:
                self.wait_out(time.monotonic() + self._settings.settle)
            self.journal.ended()
            return trouble
        job = str(answer.get("jobid") or "")
        if job:
            self.journal.named(job)
            outcome = self._wait(job, command)
            if outcome is not None and outcome.row.then is Then.LOST:
                self.wait_out(time.monotonic() + self._settings.settle)
            self.journal.ended()
            return outcome
        self.journal.ended()
        return None

    def _confirm(self, command: str, done: Callable[[], bool], about: str) -> None:
        """The state may follow its job by a moment."""
        deadline = time.monotonic() + self._settings.settle
        while not done():
            if time.monotonic() > deadline:
                raise Failed(
                    f"CloudStack carried out {command} of {about}, and its state does not show it",
                    code="not_as_ordered",
                    hint="look at this VM in CloudStack: somebody or something else changes it",
                )
            time.sleep(self._settings.poll / 2)

    # ------------------------------------------------------------ waiting

    def _wait(self, job: str, command: str) -> Trouble | None:
        deadline, pause = time.monotonic() + self._settings.job_timeout, self._settings.poll / 4
        while True:
            result = self.api.job(job)
            if result is None:
                return Trouble(LOST, command, f"CloudStack knows the job {job} no longer")
            if result.state is JobState.DONE:
                return None
            if result.state is JobState.FAILED:
                return result.trouble
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"CloudStack: {command} (job {job}) does not end",
                    code="cloudstack_job_endless",
                    hint="look at this job in CloudStack; the hub gives no other order for the VM "
                    "before its end",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, self._settings.poll * 10)

    def settle(self) -> None:
        """What an earlier hub ordered comes to its end before anything else is ordered."""
        for entry in self.journal.pending():
            log.info("waiting for %s of %s, ordered before", entry.command, entry.about)
            if entry.job:
                self._wait(entry.job, entry.command)
            else:
                left = max(0.0, self._settings.settle - max(0.0, time.time() - entry.at))
                self.wait_out(time.monotonic() + left)
        if self.journal.pending():
            self.wait_out(time.monotonic())
            self.journal.ended()

    def wait_out(self, until: float) -> None:
        """Until `until`, and until no job works on the VM or on what belongs to it."""
        deadline = time.monotonic() + self._settings.job_timeout
        while True:
            jobs = self._under_way()
            if not jobs and time.monotonic() >= until:
                return
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"CloudStack: the jobs {', '.join(jobs)} on {self.vm} do not end",
                    code="cloudstack_job_endless",
                    hint="look at these jobs in CloudStack",
                )
            time.sleep(self._settings.poll / 2)

    def _under_way(self) -> list[str]:
        """Pending jobs on the VM or its volumes, and those of which CloudStack does not say on what."""
        ours = set(self._known())
        start = min((entry.at for entry in self.journal.pending()), default=time.time()) - 86400
        since = datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d")
        jobs = self.api.items("listAsyncJobs", "asyncjobs", startdate=since)
        return [
            str(job.get("jobid", "?"))
            for job in jobs
            if int(job.get("jobstatus", 0)) == JobState.PENDING
            and (job.get("jobinstanceid") or "") in ({""} | ours)
        ]


@contextmanager
def alone(
    api: Api, journals: Journals, vm: str, known: Callable[[Journal], Sequence[str]]
) -> Iterator[Orders]:
    """The right to give orders for this VM, once everything that was ordered before has come to its end."""
    with journals.alone(vm) as journal:
        orders = Orders(api, vm, journal, lambda: known(journal))
        orders.settle()
        yield orders
