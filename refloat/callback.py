"""Reports by HTTPS: what is accepted of a guest, and how the reporting step hears it.

The hub keeps an accepted report before it acknowledges it; the step reads what is kept, so that reports which
came while it was not running are not lost. A report counts only while the step may still use it: from the
VM's start until the verdict, and no longer than the plan's deadline.
"""

from __future__ import annotations

import logging
import secrets
import time

from refloat.clock import now, seconds_between
from refloat.errors import NotFound, Refused
from refloat.model import JobState, Plan, Secrets, Verdict
from refloat.reports import REPORT_LIMIT, ReportRejected, parse_report
from refloat.store.inbox import count_lines, lines_after, put_line
from refloat.store.store import Store

log = logging.getLogger(__name__)

MOST = 128  # reports of one job: more than any remediation has
GRACE = 30.0  # seconds beyond the deadline: the guest counts from its own start
_POLL = 0.2


def accept(store: Store, job: str, body: bytes) -> int:
    """The sequence number that is acknowledged: of a report that is kept now, or was before.

    Raises ReportRejected: report_forged, report_foreign or report_rejected for what does not come from this
    job's guest (an unknown job among them), report_over for what comes too late. Nothing is kept then.
    """
    line = body.strip()
    if len(line) > REPORT_LIMIT or b"\n" in line or b"\r" in line:
        raise ReportRejected("not one line")
    report = parse_report(line, job, _secrets(store, job), None)
    if not is_open(store, job):
        raise ReportRejected("the job does not wait for reports", code="report_over")
    count, highest = count_lines(store, job)
    if report.sequence > highest:
        if count >= MOST:
            raise ReportRejected(f"more than {MOST} reports", code="report_over")
        put_line(store, job, report.sequence, line)
    return report.sequence


def is_open(store: Store, job: str) -> bool:
    """Whether a report of this job's guest can still have a part in its verdict."""
    try:
        state = store.job(job).state
    except NotFound:
        return False
    started, plan = store.load(job, "started", str), store.load(job, "plan", Plan)
    if state is not JobState.RUNNING or started is None or plan is None:
        return False
    late = seconds_between(started, now()) > plan.report_deadline + GRACE
    return not late and store.load(job, "verdict", Verdict) is None


def _secrets(store: Store, job: str) -> Secrets:
    """Of a job that is not known, or has none, such as nobody can have: that takes as long."""
    try:
        known = store.load(job, "secrets", Secrets)
    except Refused as error:  # its key is gone: nobody can prove anything, and no guest is told why
        log.error("no report of this job can be accepted: %s", error.message)
        known = None
    return known or Secrets(secrets.token_urlsafe(32), secrets.token_urlsafe(32))


class Inbox:
    """A Channel (destinations/base.py) of the reports that came by HTTPS. All were acknowledged when they
    came: nothing is written."""

    def __init__(self, store: Store, job: str) -> None:
        self._store, self._job, self._read = store, job, 0

    def read(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        while True:
            found = lines_after(self._store, self._job, self._read)
            if found:
                self._read = found[-1][0]
                return b"".join(line + b"\n" for _, line in found)
            if time.monotonic() >= deadline:
                return b""
            time.sleep(_POLL)

    def write(self, data: bytes) -> None: ...
