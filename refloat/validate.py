"""Steps 13 and 14: watch the recovered VM from outside, hear the guest, and find the verdict.

Neither step undoes anything, whatever it finds: the operator decides.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from refloat.adapt import CHANNEL, note_status
from refloat.callback import Inbox
from refloat.clock import now, seconds_between
from refloat.console_watch import Watch
from refloat.destinations.base import Channel
from refloat.errors import RefloatError, Refused
from refloat.fence import override
from refloat.model import (
    Action,
    Findings,
    GuestReport,
    Hardware,
    Observation,
    PowerState,
    ProbeResult,
    Secrets,
    StatusChange,
)
from refloat.probes import ask
from refloat.remediation import status_at_the_end, status_of
from refloat.reports import Lines, ReportRejected, check_boot, parse_report, sequence_of
from refloat.run import Run
from refloat.verdict import facets, verdict

log = logging.getLogger(__name__)

STABLE_FOR = 3.0  # seconds that the VM must keep running before validate ends; await-report watches on
LISTEN_ANEW = 20.0  # seconds after which the ways of reports are opened again
LISTEN_FOR = 1.0  # seconds in which each way of reports is asked once
MOST_REJECTED = 8  # reasons that are kept


# ---------------------------------------------------------------- 13 validate


def validate(run: Run) -> None:
    """The VM runs and stays running; the first picture of its console."""
    deadline = time.monotonic() + STABLE_FOR
    seen = run.destination.observe(run.vm)
    while seen.power is PowerState.RUNNING and time.monotonic() < deadline:
        time.sleep(0.5)
        seen = run.destination.observe(run.vm)
    Watch(run).look("start")
    _add_observation(run, seen)


# ---------------------------------------------------------------- 14 await-report


def await_report(run: Run) -> None:
    """Waits for the guest's final report or the deadline, probes from outside, and finds the verdict."""
    watch = Watch(run)
    if run.plan.decision.action is Action.ADAPT:
        _hear_guest(run, watch)
    _add_observation(run, run.destination.observe(run.vm))
    _probe(run, watch)
    watch.look("end")
    _look_at_source(run)
    reports = run.load("reports", tuple[GuestReport, ...]) or ()
    findings = replace(run.load("findings", Findings) or Findings(), started=run.need("started", str))
    run.save("findings", findings)
    found = facets(run.plan, run.need("promoted", Hardware), findings, reports)
    judged = verdict(found)
    known = run.load("remediation", tuple[StatusChange, ...])
    if known:
        note_status(run, status_at_the_end(known[-1].status, judged), "no final word came by the deadline")
    run.save("verdict", judged)


def _hear_guest(run: Run, watch: Watch) -> None:
    """Reads reports until the final one. The deadline counts from the VM's start, also when the hub was
    restarted in between."""
    deadline = run.plan.report_deadline
    while not _final(run) and seconds_between(run.need("started", str), now()) < deadline:
        if run.abort_requested():
            return
        try:
            if run.destination.observe(run.vm).power is not PowerState.RUNNING:
                run.progress(message=f"{run.vm} stopped running")
                return
            with contextlib.ExitStack() as stack:
                ears = _ears(run, stack)
                _listen(run, ears, watch, until=time.monotonic() + min(LISTEN_ANEW, deadline))
        except RefloatError as error:
            # The platform may be away for a moment (libvirtd restarted, a guest that reboots): the
            # deadline bounds it.
            log.warning("listening to %s: %s", run.vm, error)
            time.sleep(1)
            watch.look_if_due()


@dataclass(frozen=True)
class _Ear:
    """A way in which reports come. Acknowledgements go only where nothing else reads what is written: on a
    serial line that may be somebody's console."""

    channel: Channel
    lines: Lines
    serial: bool = False

    def heard(self, timeout: float, watch: Watch) -> Iterator[bytes]:
        data = self.channel.read(timeout)
        if self.serial and data:
            watch.heard(data)
        for line in self.lines.feed(data):
            if not self.serial:
                yield line
            elif b'{"v":' in line:  # else it is a firmware, a loader or a console that speaks
                watch.reported()
                yield line[line.index(b'{"v":') :].rstrip(b"\r")

    def acknowledge(self, sequence: int) -> None:
        if not self.serial:
            self.channel.write(f"ack {sequence}\n".encode())


def _ears(run: Run, stack: contextlib.ExitStack) -> list[_Ear]:
    """The channel; for Windows its first serial line as well, as it may lack the channel's driver."""
    destination, ears = run.destination, []
    if run.plan.callback is not None:
        ears.append(_Ear(Inbox(run.store, run.job), Lines()))
    try:
        ears.append(_Ear(stack.enter_context(destination.channel(run.vm, CHANNEL)), Lines()))
    except Refused as error:
        if error.code != "no_channel":
            raise
        if not ears:
            run.progress(message="no report can come: no channel here, and no report_url is configured")
            ears.append(_Ear(Inbox(run.store, run.job), Lines()))
    if run.plan.facts.windows:
        try:
            ears.append(_Ear(stack.enter_context(destination.serial(run.vm)), Lines(), serial=True))
        except RefloatError as error:
            log.warning("no serial line of %s: %s", run.vm, error)
    return ears


def _listen(run: Run, ears: Sequence[_Ear], watch: Watch, until: float) -> None:
    while time.monotonic() < until and not _final(run):
        for ear in ears:
            for line in ear.heard(LISTEN_FOR / len(ears), watch):
                _take(run, line, ear)
        watch.look_if_due()
        if run.abort_requested():
            return


def _take(run: Run, line: bytes, ear: _Ear) -> None:
    """Keeps an accepted report before it is acknowledged; a repetition is acknowledged again."""
    known = run.load("reports", tuple[GuestReport, ...]) or ()
    try:
        report = parse_report(line, run.job, run.need("secrets", Secrets), known[-1] if known else None)
        check_boot(report, known)
    except ReportRejected as error:
        sequence = sequence_of(line)
        if error.code == "report_replayed" and sequence is not None:
            ear.acknowledge(sequence)
            return
        run.progress(message=f"a report was rejected: {error.message}")
        _note_rejected(run, error.message)
        return
    run.save("reports", (*known, report))
    note_status(run, status_of(report), f"report {report.sequence} of the guest")
    run.kill_point("await-report")
    ear.acknowledge(report.sequence)
    run.progress(guest=_heard(report), uptime=report.uptime)


def _note_rejected(run: Run, why: str) -> None:
    """Each reason once, and few of them: a guest may send what it likes, as often as it likes."""
    known = run.load("findings", Findings) or Findings()
    if why not in known.rejected and len(known.rejected) < MOST_REJECTED:
        run.save("findings", replace(known, rejected=(*known.rejected, why)))


def _heard(report: GuestReport) -> str:
    return report.stage if report.status is None else f"{report.status} {report.stage}".rstrip()


def _final(run: Run) -> bool:
    reports = run.load("reports", tuple[GuestReport, ...]) or ()
    return bool(reports) and reports[-1].final


# ---------------------------------------------------------------- evidence from outside


def _add_observation(run: Run, seen: Observation) -> None:
    known = run.load("findings", Findings) or Findings()
    run.save("findings", replace(known, observations=(*known.observations, seen)))


def _look_at_source(run: Run) -> None:
    known, word = run.load("findings", Findings) or Findings(), override(run)
    power: PowerState | None = None
    try:
        power = run.source.power_state(run.target.source_vm)
    except RefloatError as error:
        log.warning("the source of %s: %s", run.vm, error)
    said = f"{word.who}: {word.reason}" if word else ""
    run.save("findings", replace(known, source=power, source_word=said))


def _probe(run: Run, watch: Watch) -> None:
    """Pictures go on meanwhile: a VM that does not report is watched as long as its probes are repeated."""

    def stop() -> bool:
        watch.look_if_due()
        return run.abort_requested()

    results: list[ProbeResult] = []
    for probe in run.policy.probes:
        for address in [probe.address] if probe.address else _planned_addresses(run) or [""]:
            results.append(ask(probe, address, partial(run.destination.reach, run.vm), stop))
    known = run.load("findings", Findings) or Findings()
    run.save("findings", replace(known, probes=tuple(results)))


def _planned_addresses(run: Run) -> list[str]:
    return [
        address.partition("/")[0] for nic in run.plan.nics if nic.config for address in nic.config.addresses
    ]
