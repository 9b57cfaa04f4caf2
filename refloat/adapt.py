"""Step 6: the guest is adapted inside the controller, on the rollback point's layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from refloat import windows
from refloat.clock import now
from refloat.errors import Failed
from refloat.model import (
    Action,
    Adaptation,
    AdaptRequest,
    Callback,
    GuestCaps,
    GuestFacts,
    Plan,
    Remediation,
    Secrets,
    StatusChange,
    WindowsRequest,
)
from refloat.prepare import luks_keys
from refloat.run import Run
from refloat.windows_plan import send_drivers

CHANNEL = "org.refloat.report"


def adapt_guest(run: Run) -> None:
    """Adapts, or records why nothing was done. A retry attaches to the run that is still going."""
    plan = run.plan
    if plan.decision.action is Action.SKIP:
        run.save("adaptation", _nothing_done(run))
        note_status(run, Remediation.NOT_REQUIRED, "nothing was staged in the guest")
        return
    adaptation = run.controller.adapt(
        request_of(run, plan, run.job, run.need("secrets", Secrets)),
        run.need("facts", GuestFacts),
        progress=_progress(run),
    )
    run.save("adaptation", adaptation)
    _require_capable(run, adaptation.caps)
    note_status(run, adaptation.caps.remediation, "files for its first boot are staged in the guest")


def request_of(run: Run, plan: Plan, job: str, secrets: Secrets) -> AdaptRequest:
    """All that the guest engine is told. It holds passphrases: for the controller, and never kept."""
    return AdaptRequest(
        job=job,
        disks=plan.disks,
        disk_bus=plan.disk_bus,
        nic_model=plan.nic_model,
        nics=plan.nics,
        secrets=secrets,
        channel=CHANNEL,
        report_deadline=_guests_deadline(plan),
        serial_console=plan.serial_console,
        luks_keys=luks_keys(run),
        windows=_for_windows(run, plan, job),
        rebuild=plan.rebuild,
        callback=_for_job(plan, job),
    )


def _for_job(plan: Plan, job: str) -> Callback | None:
    known = plan.callback
    return replace(known, url=f"{known.url}{job}") if known else None


def _guests_deadline(plan: Plan) -> int:
    """Windows ends its remediation by itself at its deadline, and still has to be heard then."""
    return int(plan.report_deadline * windows.GUEST_SHARE) if plan.facts.windows else plan.report_deadline


def _for_windows(run: Run, plan: Plan, job: str) -> WindowsRequest | None:
    if plan.drivers is None:
        return None
    asked = windows.request(plan.source, run.policy.windows, plan.drivers, send_drivers(run, plan))
    known = _for_job(plan, job)
    # PowerShell trusts what Windows trusts: not a certificate that the hub made for itself.
    tell = known is not None and not known.own and known.url.startswith("https:")
    return replace(asked, callback=known.url) if known and tell else asked


def note_status(run: Run, status: Remediation, why: str) -> None:
    """Keeps what becomes of the guest's remediation; the same status again says nothing new."""
    known = run.load("remediation", tuple[StatusChange, ...]) or ()
    if not known or known[-1].status is not status:
        run.save("remediation", (*known, StatusChange(now(), status, why)))


def _progress(run: Run) -> Callable[[dict[str, Any]], None]:
    def report(data: dict[str, Any]) -> None:
        run.progress(step="adapt-guest", **data)
        run.kill_point("adapt-guest")

    return report


def _nothing_done(run: Run) -> Adaptation:
    plan = run.plan
    caps = GuestCaps(
        disk_buses=(plan.disk_bus,),
        nic_models=(plan.nic_model,),
        firmware=plan.firmware,
        reporter=False,
        remediation=Remediation.NOT_REQUIRED,
    )
    return Adaptation(caps, (), run.need("facts", GuestFacts))


def _require_capable(run: Run, caps: GuestCaps) -> None:
    """Promotion relies on these capabilities: what the plan needs and the guest lacks ends here."""
    plan = run.plan
    if plan.disk_bus not in caps.disk_buses or plan.nic_model not in caps.nic_models:
        raise Failed(
            f"the adapted guest cannot run on {plan.disk_bus} with {plan.nic_model}",
            code="guest_not_capable",
            hint="the change journal in the evidence shows what was done; the job rolls back",
        )
