"""The verdict: one pure function over facets, each with its evidence and who observed it.

A required facet that failed: failed. Anything unverified, or an optional facet that failed: partial.
No report: failed, unless outside evidence proves the boot: then partial. Application health is not proven.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_interface

from refloat.console_proofs import console_proofs, greets_by_name
from refloat.guest_clock import clock_proofs
from refloat.model import (
    Action,
    Facet,
    FacetState,
    Findings,
    GuestReport,
    Hardware,
    Mode,
    NetworkMode,
    NicConfig,
    NicReport,
    Observer,
    Plan,
    PlannedNic,
    PowerState,
    ProbeKind,
    ProbeResult,
    Proof,
    Verdict,
    Word,
)
from refloat.remediation import remediation_facet, stage_proofs


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
    said = "; ".join(f"{proof.observer}: {proof.text}" for proof in against) or _missing(facet)
    return f"{facet.name} {facet.state}: {said}"


def _missing(facet: Facet) -> str:
    """Of a facet that nothing speaks against: what would have had to speak for it."""
    return "no evidence" if facet.name == "source" else "no report from inside the guest"


def facets(
    plan: Plan, promoted: Hardware, findings: Findings, reports: Sequence[GuestReport]
) -> tuple[Facet, ...]:
    """All facets of this failover from what the guest, the platform and the operator's probes showed."""
    report = reports[-1] if reports else None
    staged = plan.decision.action is Action.ADAPT
    return (
        *((_source(plan, findings),) if plan.mode is not Mode.TEST else ()),
        _boot(plan, findings, reports),
        _disks(plan, findings, promoted, report),
        _network(plan, promoted, findings, report),
        *_clock(findings, report),
        *((remediation_facet(plan, findings, reports),) if staged and plan.facts.windows else ()),
        *((_drivers(plan, report), _cleanup(report)) if staged else ()),
        *_operators_own(findings),
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


# ---------------------------------------------------------------- source


def _source(plan: Plan, findings: Findings) -> Facet:
    """That the VM does not run on both sides: by the source's own platform, or on an operator's word."""
    vm, proofs = plan.source.name, []
    if findings.source is not None:
        off = findings.source is PowerState.OFF
        proofs.append(Proof(Observer.PLATFORM, off, f"the source {vm} is {findings.source}"))
    elif findings.source_word:
        text = f"nobody answers for the source {vm}; {findings.source_word}"
        proofs.append(Proof(Observer.OPERATOR, True, text))
    return _facet("source", True, proofs, needs_guest=False)


# ---------------------------------------------------------------- boot


def _boot(plan: Plan, findings: Findings, reports: Sequence[GuestReport]) -> Facet:
    proofs, report = [], reports[-1] if reports else None
    last = findings.observations[-1] if findings.observations else None
    if last is not None:
        running = last.power is PowerState.RUNNING
        why = f" ({last.reason})" if last.reason not in ("", last.power) else ""
        proofs.append(Proof(Observer.PLATFORM, running, f"the VM is {last.power}{why}"))
    proofs += console_proofs(findings)
    if report is not None:
        text = f"boot {report.boot_id} reported after {report.uptime:.0f} s from root {report.root_device}"
        proofs.append(Proof(Observer.GUEST, True, text))
        return _facet("boot", True, [*proofs, *_one_boot(reports), *_system(report)])
    rejected = _rejected(findings)
    answered = [probe for probe in findings.probes if probe.proves_boot]
    if plan.decision.action is not Action.ADAPT:
        return _never_asked(proofs, answered)
    if (answered or greets_by_name(plan, findings)) and not rejected:
        # Outside evidence proves a boot, though not that it is the adapted guest's own word.
        proofs += [Proof(Observer.OPERATOR, True, f"{p.what} answered: {p.text}") for p in answered]
        return _facet("boot", True, proofs)
    text = f"no report from inside the guest within {plan.report_deadline} s"
    return _facet("boot", True, [*proofs, Proof(Observer.GUEST, False, text), *rejected])


def _rejected(findings: Findings) -> list[Proof]:
    """Where no report was accepted: something speaks in there, and it is not what this job prepared."""
    return [Proof(Observer.GUEST, False, f"a report was rejected: {why}") for why in findings.rejected]


def _never_asked(proofs: Sequence[Proof], answered: Sequence[ProbeResult]) -> Facet:
    """Nothing was staged in this guest, so that it has no way to report: what is seen from outside can speak
    against its boot; without that, it stays unverified."""
    seen = [Proof(Observer.OPERATOR, True, f"{p.what} answered: {p.text}") for p in answered]
    return _facet("boot", True, [*proofs, *seen])


def _one_boot(reports: Sequence[GuestReport]) -> list[Proof]:
    """Of a guest that has no restarts to make: reports of another boot mean that it did not stay up. (A
    remediation that restarts judges its boots itself.)"""
    boots = dict.fromkeys(report.boot_id for report in reports if report.status is None)
    if len(boots) < 2:
        return []
    return [Proof(Observer.GUEST, False, f"it restarted by itself: boots {', '.join(boots)}")]


# What systemd calls a system that did not come up as it should: systemctl(1), is-system-running.
_NOT_UP = frozenset({"initializing", "maintenance", "stopping", "offline"})


def _system(report: GuestReport) -> list[Proof]:
    """A rescue or emergency shell reports, too."""
    down = report.system_state in _NOT_UP
    text = f"its system is in the state {report.system_state!r}"
    return [Proof(Observer.GUEST, False, text)] if down and report.final else []


# ---------------------------------------------------------------- disks


def _disks(plan: Plan, findings: Findings, promoted: Hardware, report: GuestReport | None) -> Facet:
    proofs = [_attached(plan, promoted), *_boot_disk_read(plan, findings)]
    for mount in report.mounts if report else ():
        text = f"{mount.mountpoint} is {'mounted from ' + mount.device if mount.mounted else 'not mounted'}"
        proofs.append(Proof(Observer.GUEST, mount.mounted, text))
    return _facet("disks", True, [*proofs, *stage_proofs(report, "disks")])


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
    if report is not None:
        proofs += _gateways(plan, report)
    proofs += [
        Proof(Observer.OPERATOR, probe.answered, f"{probe.what} {_said(probe)}")
        for probe in findings.probes
        if _of_the_network(probe)
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
    if nic.mode is NetworkMode.PRESERVE:
        return [_preserved(nic, found)]
    if nic.mode is NetworkMode.DHCP:
        got = ", ".join(found.addresses) or "no address"
        text = f"{found.name} ({nic.mac}) got {got} by DHCP"
        return [Proof(Observer.GUEST, found.up and bool(found.addresses), text)]
    if not any(config.addresses for config in _planned(nic)):
        state = "up" if found.up else "down"
        return [Proof(Observer.GUEST, found.up, f"{found.name} ({nic.mac}) is {state}")]
    if not found.up:
        return [Proof(Observer.GUEST, False, f"{found.name} ({nic.mac}) is down")]
    return [*_held(nic, found, report), *_named_servers(nic, report)]


def _held(nic: PlannedNic, found: NicReport, report: GuestReport) -> list[Proof]:
    """Each planned address: the adapter's own on itself, those of what stands on it wherever they are
    (a VLAN is called ens4.10 now)."""
    proofs = []
    anywhere = {address for link in report.links for address in link.addresses} | {*found.addresses}
    for config in _planned(nic):
        own = config is nic.config
        where = f"{found.name} ({nic.mac})" if own else f"{config.name} on {found.name}"
        held = {_written(address) for address in (found.addresses if own else anywhere)}
        for address in config.addresses:
            holds = found.up and _written(address) in held
            text = f"{where} {'holds' if holds else 'lacks'} {address}"
            proofs.append(Proof(Observer.GUEST, holds, text))
    return proofs


def _planned(nic: PlannedNic) -> tuple[NicConfig, ...]:
    return (*((nic.config,) if nic.config else ()), *nic.above)


def _written(address: str) -> str:
    """One way to write an address: IPv6 has many."""
    try:
        return str(ip_interface(address))
    except ValueError:
        return address


def _preserved(nic: PlannedNic, found: NicReport) -> Proof:
    """Left alone: it must be up. One that is down under another name than its configuration has is the
    case of which the plan's reason warned."""
    name = nic.config.name if nic.config else ""
    if not found.up and name not in ("", found.name):
        text = f"{found.name} ({nic.mac}) is down: the guest's configuration is for {name}; {nic.reason}"
        return Proof(Observer.GUEST, False, text)
    state = "up" if found.up else "down"
    return Proof(Observer.GUEST, found.up, f"{found.name} ({nic.mac}) is {state}, as the guest configures it")


def _named_servers(nic: PlannedNic, report: GuestReport) -> list[Proof]:
    """The guest's resolver must know one of the planned servers, wherever it learned of it. Old names
    that nothing in the guest reads are no failure as long as there is a server at all."""
    wanted = {server for config in _planned(nic) for server in config.dns}
    if not wanted:
        return []
    known = ", ".join(report.dns) or "none"
    new = nic.mode is NetworkMode.READDRESS
    holds = bool(wanted & set(report.dns)) if new else bool(report.dns)
    return [Proof(Observer.GUEST, holds, f"name servers in use: {known}")]


def _said(probe: ProbeResult) -> str:
    if not probe.asked:
        return f"is not known: {probe.text}"
    held = ("held", "did not hold") if probe.kind is ProbeKind.COMMAND else ("answered", "did not answer")
    return f"{held[not probe.answered]}: {probe.text}"


def _gateways(plan: Plan, report: GuestReport) -> list[Proof]:
    """Of each IP version for which one is planned. In a test it may be absent by design: then only its
    answer is evidence."""
    configs = [config for nic in plan.nics for config in _planned(nic)]
    rows = (
        (any(config.gateway for config in configs), "gateway", report.gateway, report.gateway_answers),
        (
            any(config.gateway6 for config in configs),
            "IPv6 gateway",
            report.gateway6,
            report.gateway6_answers,
        ),
    )
    return [
        Proof(Observer.GUEST, answers, f"{what} {address or '(none)'} {_answers(answers)}")
        for wanted, what, address, answers in rows
        if wanted and (answers or plan.mode is not Mode.TEST)
    ]


def _answers(answers: bool) -> str:
    return "answers" if answers else "does not answer"


# ---------------------------------------------------------------- the operator's own


def _of_the_network(probe: ProbeResult) -> bool:
    """Required, made, and of the network: it counts there, beside what the guest says of it."""
    return probe.required and probe.asked and probe.kind is not ProbeKind.COMMAND


def _operators_own(findings: Findings) -> tuple[Facet, ...]:
    """The other probes: commands, the optional ones, and those that could not be made here. Of the last
    neither success nor failure is known."""
    probes = [probe for probe in findings.probes if not _of_the_network(probe)]
    if not probes:
        return ()
    failed = [probe for probe in probes if probe.asked and not probe.answered]
    state = FacetState.VERIFIED
    if failed:
        state = FacetState.FAILED
    elif not all(probe.asked for probe in probes):
        state = FacetState.UNVERIFIED
    proofs = tuple(
        Proof(Observer.OPERATOR, probe.answered, f"{probe.what} {_said(probe)}") for probe in probes
    )
    return (Facet("probes", state, any(probe.required for probe in failed), proofs),)


# ---------------------------------------------------------------- clock, drivers, clean-up


def _clock(findings: Findings, report: GuestReport | None) -> tuple[Facet, ...]:
    proofs = clock_proofs(findings.started, report)
    return (_facet("clock", False, proofs),) if proofs else ()


def _drivers(plan: Plan, report: GuestReport | None) -> Facet:
    proofs = []
    if report is not None:
        # The guest counts its virtio drivers alone.
        found = ", ".join(report.drivers) or "none"
        ours = _VIRTIO_OF_WINDOWS if plan.facts.windows else ("virtio",)
        good = any(part in name.lower() for name in report.drivers for part in ours)
        text = f"drivers in use: {found}"
        if not _needs_virtio(plan):
            good, text = True, f"{text}; {plan.disk_bus} and {plan.nic_model} need no virtio driver"
        proofs.append(Proof(Observer.GUEST, good, text))
        proofs += [Proof(Observer.GUEST, False, problem) for problem in report.problems]
    return _facet("drivers", False, proofs)


_VIRTIO_OF_WINDOWS = ("viostor", "vioscsi", "netkvm")


def _needs_virtio(plan: Plan) -> bool:
    return "virtio" in plan.disk_bus or "virtio" in plan.nic_model


def _cleanup(report: GuestReport | None) -> Facet:
    if report is None:
        return Facet("clean-up", FacetState.UNVERIFIED, False, ())
    if not report.final:
        text = f"the guest never said that its boot ended: its last report is {report.stage!r}"
        return _facet("clean-up", False, [Proof(Observer.GUEST, False, text)])
    text = "the first-boot files are gone" if report.cleaned else "the first-boot files could not be removed"
    return _facet("clean-up", False, [Proof(Observer.GUEST, report.cleaned, text)])
