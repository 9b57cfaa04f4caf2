"""What became of the remediation staged in the guest: its status over time, and the proof of its end.

Scheduled means: files are in place. Only the guest's own final word makes it succeeded, and silence until
the deadline makes it failed (partial where outside evidence proves the boot). Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from refloat.model import (
    ENDED,
    Facet,
    FacetState,
    Findings,
    GuestReport,
    Observer,
    Plan,
    Proof,
    Remediation,
    StageReport,
    Verdict,
    Word,
)

_WORDS = {
    Remediation.SUCCEEDED: "every stage is done",
    Remediation.PARTIAL: "an optional stage is not done",
    Remediation.FAILED: "a required stage is not done",
}
_BY_VERDICT = {
    Word.SUCCEEDED: Remediation.SUCCEEDED,
    Word.PARTIAL: Remediation.PARTIAL,
    Word.FAILED: Remediation.FAILED,
}


def status_of(report: GuestReport) -> Remediation:
    """The status that a report gives; of a guest that gives none (Linux), by its stage and problems."""
    if report.status is not None:
        return report.status
    if not report.final:
        return Remediation.RUNNING
    return Remediation.PARTIAL if report.problems else Remediation.SUCCEEDED


def status_at_the_end(last: Remediation, verdict: Verdict) -> Remediation:
    """The status once nobody listens any more: whoever has not ended by now is judged by the verdict,
    which is never `succeeded` then."""
    return last if last in (*ENDED, Remediation.NOT_REQUIRED) else _BY_VERDICT[verdict.word]


def remediation_facet(plan: Plan, findings: Findings, reports: Sequence[GuestReport]) -> Facet:
    """Required. Verified by the guest's final word alone, with no required stage failed; a partial end is
    an optional failure; anything else fails, unless a probe from outside proves at least the boot."""
    report = reports[-1] if reports else None
    if report is None or not report.final:
        return _not_ended(plan, findings, report)
    stages = [_stage_proof(stage) for stage in report.stages]
    status = status_of(report)
    failed = status is Remediation.FAILED or any(
        stage.required and not _done(stage) for stage in report.stages
    )
    ends = Proof(
        Observer.GUEST,
        status is Remediation.SUCCEEDED,
        f"the remediation ended as {status}: {_WORDS[status]}; {report.reboots} restarts",
    )
    # What is not done, and what nobody asked for, counts against it although the guest says succeeded.
    proofs = (ends, *stages, *_unannounced(reports))
    state = FacetState.VERIFIED if all(proof.holds for proof in proofs) else FacetState.FAILED
    return Facet("remediation", state, required=failed, proofs=proofs)


def _unannounced(reports: Sequence[GuestReport]) -> list[Proof]:
    """Restarts that neither the status before nor the guest's own count of them announced: a crash, or an
    update of Windows' own."""
    return [
        Proof(Observer.GUEST, False, f"boot {after.boot_id} came without being announced")
        for before, after in itertools.pairwise(reports)
        if after.boot_id != before.boot_id
        and before.status is not Remediation.AWAITING_REBOOT
        and after.reboots <= before.reboots
    ]


def _not_ended(plan: Plan, findings: Findings, report: GuestReport | None) -> Facet:
    said = f"its last word is {report.status or 'none'}" if report else "it has said nothing"
    text = f"the remediation did not end within {plan.report_deadline} s: {said}"
    outside = [
        Proof(Observer.OPERATOR, True, f"{probe.what} answered: it boots")
        for probe in findings.probes
        if probe.proves_boot
    ]
    state = FacetState.UNVERIFIED if outside else FacetState.FAILED
    return Facet("remediation", state, True, (Proof(Observer.GUEST, False, text), *outside))


def stage_proofs(report: GuestReport | None, name: str) -> list[Proof]:
    """What the guest says of its stage `name`; nothing of a guest without stages."""
    return [_stage_proof(stage) for stage in (report.stages if report else ()) if stage.name == name]


def _done(stage: StageReport) -> bool:
    """Skipped: the plan has nothing for it."""
    return stage.state in ("done", "skipped")


def _stage_proof(stage: StageReport) -> Proof:
    kind = "required" if stage.required else "optional"
    attempts = f" after {stage.attempts} attempts" if stage.attempts > 1 else ""
    text = f"stage {stage.name} ({kind}) is {stage.state}{attempts}"
    return Proof(Observer.GUEST, _done(stage), f"{text}: {stage.text}" if stage.text else text)
