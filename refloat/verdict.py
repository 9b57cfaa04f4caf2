"""The verdict: one pure function over facets, each with its evidence and who observed it.

A required facet that failed: failed. Anything unverified, or an optional facet that failed: partial.
No report: failed, unless outside evidence proves the boot: then partial. Application health is not proven.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from refloat.model import (
    Action,
    Facet,
    FacetState,
    Findings,
    GuestReport,
    Hardware,
    Mode,
    NetworkMode,
    Observer,
    Plan,
    PlannedNic,
    PowerState,
    ProbeResult,
    Proof,
    Verdict,
    Word,
)


def verdict(facets: Sequence[Facet]) -> Verdict:
    """The word for these facets, with a reason for everything that keeps it from `succeeded`."""
    failed = [facet for facet in facets if facet.state is FacetState.FAILED]
    unverified = [facet for facet in facets if facet.state is FacetState.UNVERIFIED]
    reasons = tuple(_reason(facet) for facet in (*failed, *unverified))
    if not facets or any(facet.required for facet in failed):
        word = Word.FAILED
    elif failed or unverified:
        word = Word.PARTIAL
    else:
        word = Word.SUCCEEDED
        reasons = ("every facet was verified by reports from inside the guest and from outside",)
    return Verdict(word, reasons, tuple(facets))


def _reason(facet: Facet) -> str:
    against = [proof for proof in facet.proofs if not proof.holds]
    said = "; ".join(f"{proof.observer}: {proof.text}" for proof in against) or "no evidence"
    return f"{facet.name} {facet.state}: {said}"


def facets(
    plan: Plan, promoted: Hardware, findings: Findings, reports: Sequence[GuestReport]
) -> tuple[Facet, ...]:
    """All facets of this failover from what the guest, the platform and the operator's probes showed."""
    report = reports[-1] if reports else None
    return (
        _boot(plan, findings, report),
        _disks(plan, findings, promoted, report),
        _network(plan, promoted, findings, report),
        *((_drivers(plan, report), _cleanup(report)) if plan.decision.action is Action.ADAPT else ()),
    )


def _facet(name: str, required: bool, proofs: Iterable[Proof], needs_guest: bool = True) -> Facet:
    """Any proof against fails the facet; a needed guest that said nothing leaves it unverified."""
    proofs = tuple(proofs)
    said_by_guest = any(proof.observer is Observer.GUEST for proof in proofs)
    if any(not proof.holds for proof in proofs):
        state = FacetState.FAILED
    elif not proofs or (needs_guest and not said_by_guest):
        state = FacetState.UNVERIFIED
    else:
        state = FacetState.VERIFIED
    return Facet(name, state, required, proofs)


# ---------------------------------------------------------------- boot


def _boot(plan: Plan, findings: Findings, report: GuestReport | None) -> Facet:
    proofs = []
    last = findings.observations[-1] if findings.observations else None
    if last is not None:
        running = last.power is PowerState.RUNNING
        why = f" ({last.reason})" if last.reason not in ("", last.power) else ""
        proofs.append(Proof(Observer.PLATFORM, running, f"the VM is {last.power}{why}"))
    if report is not None:
        text = f"boot {report.boot_id} reported after {report.uptime:.0f} s from root {report.root_device}"
        proofs.append(Proof(Observer.GUEST, True, text))
        return _facet("boot", True, proofs)
    answered = [probe for probe in findings.probes if probe.answered]
    if answered:
        # Outside evidence proves a boot, though not that it is the adapted guest's own word.
        proofs += [
            Proof(Observer.OPERATOR, True, f"{p.address}:{p.port} answered: {p.text}") for p in answered
        ]
        return _facet("boot", True, proofs)
    text = f"no report from inside the guest within {plan.report_deadline} s"
    return _facet("boot", True, [*proofs, Proof(Observer.GUEST, False, text)])


# ---------------------------------------------------------------- disks


def _disks(plan: Plan, findings: Findings, promoted: Hardware, report: GuestReport | None) -> Facet:
    proofs = [_attached(plan, promoted), *_boot_disk_read(plan, findings)]
    for mount in report.mounts if report else ():
        text = f"{mount.mountpoint} is {'mounted from ' + mount.device if mount.mounted else 'not mounted'}"
        proofs.append(Proof(Observer.GUEST, mount.mounted, text))
    return _facet("disks", True, proofs)


def _attached(plan: Plan, promoted: Hardware) -> Proof:
    wanted = [disk.serial for disk in plan.disks]
    found = [disk.serial for disk in promoted.disks]
    return Proof(Observer.PLATFORM, wanted == found, f"attached in this order: {', '.join(found)}")


def _boot_disk_read(plan: Plan, findings: Findings) -> list[Proof]:
    if not findings.observations:
        return []
    read = findings.observations[-1].disk_bytes_read
    if not read:
        return []
    boot = plan.disks[0].serial
    text = f"{read.get(boot, 0) >> 10} KiB were read from {boot}"
    return [Proof(Observer.PLATFORM, read.get(boot, 0) > 0, text)]


# ---------------------------------------------------------------- network


def _network(plan: Plan, promoted: Hardware, findings: Findings, report: GuestReport | None) -> Facet:
    proofs: list[Proof] = []
    for nic in plan.nics:
        proofs.append(_nic_linked(nic, promoted, findings))
        if report is not None:
            proofs += _nic_reported(nic, report)
    if report is not None and any(nic.config and nic.config.gateway for nic in plan.nics):
        proofs += _gateway(plan, report)
    proofs += [
        Proof(Observer.OPERATOR, probe.answered, f"{probe.address}:{probe.port} {_said(probe)}")
        for probe in findings.probes
    ]
    return _facet("network", True, proofs)


def _nic_linked(nic: PlannedNic, promoted: Hardware, findings: Findings) -> Proof:
    known = {attached.mac: attached.network for attached in promoted.nics}
    linked = findings.observations[-1].nics_linked if findings.observations else ()
    holds = known.get(nic.mac) == nic.network and nic.mac in linked
    return Proof(
        Observer.PLATFORM,
        holds,
        f"adapter {nic.mac} is {'linked' if holds else 'not linked'} to {nic.network}",
    )


def _nic_reported(nic: PlannedNic, report: GuestReport) -> list[Proof]:
    found = next((item for item in report.nics if item.mac == nic.mac), None)
    if found is None:
        return [Proof(Observer.GUEST, False, f"no adapter has the planned MAC {nic.mac}")]
    if nic.config is None or not nic.config.addresses:
        return [
            Proof(Observer.GUEST, found.up, f"{found.name} ({nic.mac}) is {'up' if found.up else 'down'}")
        ]
    return [
        Proof(
            Observer.GUEST,
            found.up and address in found.addresses,
            f"{found.name} ({nic.mac}) {'holds' if address in found.addresses else 'lacks'} {address}",
        )
        for address in (nic.config.addresses if nic.mode is NetworkMode.RESTORE else ())
    ] or [Proof(Observer.GUEST, found.up, f"{found.name} ({nic.mac}) is up, its configuration preserved")]


def _said(probe: ProbeResult) -> str:
    return f"{'answered' if probe.answered else 'did not answer'}: {probe.text}"


def _gateway(plan: Plan, report: GuestReport) -> list[Proof]:
    """In a test the gateway may be absent by design: then only its answer is evidence."""
    if plan.mode is Mode.TEST and not report.gateway_answers:
        return []
    said = "answers" if report.gateway_answers else "does not answer"
    return [Proof(Observer.GUEST, report.gateway_answers, f"gateway {report.gateway or '(none)'} {said}")]


# ---------------------------------------------------------------- drivers, clean-up


def _drivers(plan: Plan, report: GuestReport | None) -> Facet:
    proofs = []
    if report is not None:
        found = ", ".join(report.drivers) or "none"
        proofs.append(
            Proof(
                Observer.GUEST, any("virtio" in name for name in report.drivers), f"drivers in use: {found}"
            )
        )
        proofs += [Proof(Observer.GUEST, False, problem) for problem in report.problems]
    return _facet("drivers", False, proofs)


def _cleanup(report: GuestReport | None) -> Facet:
    if report is None or report.stage != "final":
        return Facet("clean-up", FacetState.UNVERIFIED, False, ())
    text = "the first-boot files are gone" if report.cleaned else "the first-boot files could not be removed"
    return _facet("clean-up", False, [Proof(Observer.GUEST, report.cleaned, text)])
