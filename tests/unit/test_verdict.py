"""The verdict: every word has its cause, and nothing but full proof gives `succeeded`."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from refloat.console_states import STATES, Meaning
from refloat.model import (
    Action,
    Decision,
    DiskBus,
    Facet,
    FacetState,
    Findings,
    GuestReport,
    Hardware,
    LinkReport,
    Mode,
    MountReport,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    NicReport,
    Observation,
    Plan,
    PlannedNic,
    PowerState,
    ProbeKind,
    ProbeResult,
    Sight,
    Verdict,
    Word,
)
from refloat.verdict import facets, verdict
from tests.unit.builders import CONFIG, FINDINGS, MAC, PLAN, PROMOTED, REPORT, replace


def found(
    report: GuestReport | None = REPORT,
    findings: Findings = FINDINGS,
    plan: Plan = PLAN,
    promoted: Hardware = PROMOTED,
) -> Verdict:
    return verdict(facets(plan, promoted, findings, (report,) if report else ()))


def test_full_proof_from_inside_and_outside_succeeds() -> None:
    assert found().word is Word.SUCCEEDED


def test_hardware_without_virtio_needs_no_virtio_driver() -> None:
    plan = replace(PLAN, disk_bus=DiskBus.SATA, nic_model=NicModel.E1000E)
    disks = tuple(replace(disk, bus=DiskBus.SATA) for disk in PROMOTED.disks)
    nics = tuple(replace(nic, model=NicModel.E1000E) for nic in PROMOTED.nics)
    silent = replace(REPORT, drivers=())
    assert found(silent, plan=plan, promoted=replace(PROMOTED, disks=disks, nics=nics)).word is Word.SUCCEEDED
    assert found(silent).word is Word.PARTIAL


@pytest.mark.parametrize(
    ("states", "word"),
    [
        ((FacetState.VERIFIED, FacetState.VERIFIED), Word.SUCCEEDED),
        ((FacetState.VERIFIED, FacetState.UNVERIFIED), Word.PARTIAL),
        ((FacetState.UNVERIFIED, FacetState.VERIFIED), Word.PARTIAL),
        ((FacetState.VERIFIED, FacetState.FAILED), Word.PARTIAL),
        ((FacetState.FAILED, FacetState.VERIFIED), Word.FAILED),
        ((FacetState.FAILED, FacetState.FAILED), Word.FAILED),
    ],
)
def test_word_of_a_required_and_an_optional_facet(states: tuple[FacetState, FacetState], word: Word) -> None:
    assert verdict((Facet("boot", states[0], True, ()), Facet("agent", states[1], False, ()))).word is word


def test_word_over_all_combinations_of_facets() -> None:
    """Succeeded if and only if all are verified; failed if and only if a required one failed."""
    kinds = [(state, required) for state in FacetState for required in (True, False)]
    for combination in itertools.product(kinds, repeat=4):
        made = tuple(Facet(str(index), state, need, ()) for index, (state, need) in enumerate(combination))
        word = verdict(made).word
        assert (word is Word.SUCCEEDED) == all(state is FacetState.VERIFIED for state, _ in combination)
        assert (word is Word.FAILED) == any(
            state is FacetState.FAILED and need for state, need in combination
        )


def test_no_facets_at_all_is_no_success() -> None:
    assert verdict(()).word is Word.FAILED


def test_what_keeps_a_silent_guest_from_success_is_named() -> None:
    answers = found(None)
    assert "boot unverified: no report from inside the guest" in answers.reasons
    foreign = found(None, replace(FINDINGS, rejected=("from another job",)))
    assert any("a report was rejected: from another job" in reason for reason in foreign.reasons)
    assert found(REPORT, replace(FINDINGS, rejected=("not JSON",))).word is Word.SUCCEEDED


SILENT = replace(FINDINGS, probes=())
SABOTAGE = {
    "no report, nothing answers": (None, SILENT, Word.FAILED, "boot"),
    "no report, but the address answers": (None, FINDINGS, Word.PARTIAL, "disks"),
    "reports of another boot, and the address answers": (
        None,
        replace(FINDINGS, rejected=("wrong nonce",)),
        Word.FAILED,
        "boot",
    ),
    "the VM stopped": (
        REPORT,
        replace(FINDINGS, observations=(Observation(PowerState.OFF, "crashed"),)),
        Word.FAILED,
        "boot",
    ),
    "a mount of fstab is missing": (
        replace(REPORT, mounts=(MountReport("/", True, "/dev/vda1"), MountReport("/srv/data", False))),
        FINDINGS,
        Word.FAILED,
        "disks",
    ),
    "no adapter has the planned MAC": (
        replace(REPORT, nics=(NicReport("52:54:00:00:00:01", "enp1s0", True, ()),)),
        SILENT,
        Word.FAILED,
        "network",
    ),
    "the address is absent": (
        replace(REPORT, nics=(NicReport(MAC, "enp1s0", True, ("169.254.1.1/16",)),)),
        FINDINGS,
        Word.FAILED,
        "network",
    ),
    "the guest claims the address, but nobody answers there": (
        REPORT,
        replace(FINDINGS, probes=(ProbeResult("10.20.30.40", 22, False, "timed out", ""),)),
        Word.FAILED,
        "network",
    ),
    "the gateway does not answer": (replace(REPORT, gateway_answers=False), FINDINGS, Word.FAILED, "network"),
    "no virtio driver in use": (replace(REPORT, drivers=("e1000",)), FINDINGS, Word.PARTIAL, "drivers"),
    "first-boot files left behind": (replace(REPORT, cleaned=False), FINDINGS, Word.PARTIAL, "clean-up"),
    "only the early report": (replace(REPORT, stage="configured"), FINDINGS, Word.PARTIAL, "clean-up"),
    "the boot disk was never read": (
        REPORT,
        replace(
            FINDINGS,
            observations=(Observation(PowerState.RUNNING, "", {"rf-sda": 0, "rf-sdb": 1}, {}, (MAC,)),),
        ),
        Word.FAILED,
        "disks",
    ),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage_never_succeeds_and_names_its_cause(name: str) -> None:
    report, findings, word, cause = SABOTAGE[name]
    result = found(report, findings)
    assert result.word is word, result.reasons
    assert any(reason.startswith(cause) for reason in result.reasons), result.reasons


def test_another_disk_order_than_planned_fails() -> None:
    swapped = replace(PROMOTED, disks=PROMOTED.disks[::-1])
    assert found(promoted=swapped).word is Word.FAILED


def test_in_a_test_failover_a_silent_gateway_is_no_failure() -> None:
    plan = replace(PLAN, mode=Mode.TEST)
    assert found(replace(REPORT, gateway_answers=False), plan=plan).word is Word.SUCCEEDED


def network(report: GuestReport, nic: PlannedNic, mode: Mode = Mode.PLANNED) -> Facet:
    plan = replace(PLAN, nics=(nic,), mode=mode)
    return next(facet for facet in facets(plan, PROMOTED, FINDINGS, (report,)) if facet.name == "network")


def reported(**changes: Any) -> GuestReport:
    return replace(REPORT, nics=(replace(REPORT.nics[0], **changes),))


NIC = PLAN.nics[0]
LOST = "; nothing ties the name ens192 to the adapter (pin_names: never)"
STACKED = replace(
    NIC,
    config=NicConfig("ens192", NicMethod.NONE),
    above=(NicConfig("ens192.7", NicMethod.STATIC, ("10.7.0.1/24", "fd00:0:0::7/64")),),
)
NEW = replace(
    NIC,
    mode=NetworkMode.READDRESS,
    config=NicConfig("ens192", NicMethod.STATIC, ("192.168.7.40/24",), "192.168.7.1", ("192.168.7.53",)),
)
THERE = replace(reported(addresses=("192.168.7.40/24",)), gateway="192.168.7.1", dns=("192.168.7.53",))
CASES: dict[str, tuple[PlannedNic, GuestReport, bool]] = {
    "readdressed": (NEW, THERE, True),
    "readdressed, but the old servers": (NEW, replace(THERE, dns=("10.20.30.3",)), False),
    "readdressed, but the old address": (NEW, REPORT, False),
    "by DHCP": (replace(NIC, mode=NetworkMode.DHCP), reported(addresses=("10.0.2.15/24",)), True),
    "by DHCP, which nobody answered": (replace(NIC, mode=NetworkMode.DHCP), reported(addresses=()), False),
    "IPv6 in other words": (
        replace(NIC, config=NicConfig("e", NicMethod.NONE, ("fd00:1:0:0::5/64",))),
        reported(addresses=("fd00:1::5/64",)),
        True,
    ),
    "a VLAN that holds its addresses": (
        STACKED,
        replace(REPORT, links=(LinkReport("enp1s0.7", True, ("10.7.0.1/24", "fd00::7/64")),)),
        True,
    ),
    "a VLAN that does not": (STACKED, replace(REPORT, links=()), False),
    "an IPv6 gateway that is silent": (
        replace(NIC, config=replace(CONFIG, gateway6="fe80::1")),
        replace(REPORT, gateway6="fe80::1"),
        False,
    ),
    "preserved and up": (replace(NIC, mode=NetworkMode.PRESERVE), REPORT, True),
    "preserved, renamed and down": (
        replace(NIC, mode=NetworkMode.PRESERVE, reason=f"ens192 uses dhcp{LOST}"),
        reported(up=False, addresses=()),
        False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_network_by_what_was_planned(case: str) -> None:
    nic, report, holds = CASES[case]
    assert network(report, nic).state is (FacetState.VERIFIED if holds else FacetState.FAILED)


def test_an_adapter_that_stayed_offline_is_told_with_the_reason() -> None:
    nic, report, _ = CASES["preserved, renamed and down"]
    said = " ".join(proof.text for proof in network(report, nic).proofs)
    assert "enp1s0" in said and "the guest's configuration is for ens192" in said and LOST in said


def test_a_silent_ipv6_gateway_is_no_failure_in_a_test() -> None:
    nic, report, _ = CASES["an IPv6 gateway that is silent"]
    assert network(report, nic, Mode.TEST).state is FacetState.VERIFIED


# ---------------------------------------------------------------- the operator's own probes


def probed(kind: ProbeKind, answered: bool, required: bool = True, asked: bool = True) -> ProbeResult:
    return ProbeResult("10.20.30.40", 443, answered, "said so", "", kind, "", required, asked)


OUTCOMES = [
    (answered, required, asked)
    for answered, required, asked in itertools.product((True, False), repeat=3)
    if asked or not answered
]


@pytest.mark.parametrize("kind", ProbeKind)
@pytest.mark.parametrize(("answered", "required", "asked"), OUTCOMES)
def test_one_probe_of_every_kind_and_outcome(
    kind: ProbeKind, answered: bool, required: bool, asked: bool
) -> None:
    """Failed: at least partial. Not asked: it is not known, so partial. Never a success without all."""
    result = found(findings=replace(FINDINGS, probes=(probed(kind, answered, required, asked),)))
    if answered:
        assert result.word is Word.SUCCEEDED
    elif asked and required:
        assert result.word is Word.FAILED
    else:
        assert result.word is Word.PARTIAL
    mine = [proof for facet in result.facets for proof in facet.proofs if proof.observer == "operator"]
    assert len(mine) == 1 and mine[0].holds is answered


def test_two_probes_in_all_combinations() -> None:
    for first, second in itertools.product(itertools.product(ProbeKind, OUTCOMES), repeat=2):
        probes = (probed(first[0], *first[1]), probed(second[0], *second[1]))
        word = found(findings=replace(FINDINGS, probes=probes)).word
        assert (word is Word.SUCCEEDED) == all(probe.answered for probe in probes)
        assert (word is Word.FAILED) == any(
            probe.asked and probe.required and not probe.answered for probe in probes
        )


@pytest.mark.parametrize("kind", ProbeKind)
def test_what_proves_a_boot_without_any_report(kind: ProbeKind) -> None:
    """A program in the guest answered. An echo or a command says less."""
    word = found(None, replace(FINDINGS, probes=(probed(kind, True),))).word
    assert word is (Word.PARTIAL if kind in (ProbeKind.TCP, ProbeKind.HTTP) else Word.FAILED)


def test_a_probe_that_was_not_asked_says_why() -> None:
    result = found(findings=replace(FINDINGS, probes=(probed(ProbeKind.ICMP, False, True, False),)))
    assert result.reasons == ("probes unverified: operator: icmp 10.20.30.40:443 is not known: said so",)


# ---------------------------------------------------------------- the console


def shown(*states: str, words: str = "so it says", where: str = "screen") -> tuple[Sight, ...]:
    return tuple(Sight(state, words, "", where) for state in states)


LOGIN = f"{PLAN.facts.hostname} login:"
ALL_STATES = sorted({(state.name, state.meaning, state.lasting) for state in STATES}, key=str)


@pytest.mark.parametrize(("name", "meaning", "lasting"), ALL_STATES)
@pytest.mark.parametrize("probes", [(), FINDINGS.probes], ids=["no probe", "a probe answered"])
@pytest.mark.parametrize("report", [REPORT, None], ids=["report", "no report"])
def test_every_state_with_and_without_other_evidence(
    name: str, meaning: Meaning, lasting: bool, probes: tuple[ProbeResult, ...], report: GuestReport | None
) -> None:
    """It never makes a verdict better than the same without it, but for a login by the guest's own name,
    which is as much as an answered probe; a boot that is stuck fails."""
    words = LOGIN if meaning is Meaning.UP else "so it says"
    without = found(report, replace(FINDINGS, probes=probes))
    result = found(report, replace(FINDINGS, probes=probes, console=shown(name, words=words)))
    if meaning is Meaning.STUCK:
        assert result.word is Word.FAILED
        assert any("so it says" in reason and reason.startswith("boot failed") for reason in result.reasons)
    elif meaning is Meaning.UP and without.word is Word.FAILED:
        assert result.word is Word.PARTIAL
    else:
        assert result.word is without.word
    assert report is not None or result.word is not Word.SUCCEEDED


def test_what_is_overcome_counts_no_more_but_a_panic() -> None:
    for name, meaning, lasting in ALL_STATES:
        for after in ("booting", "login", ""):
            word = found(findings=replace(FINDINGS, console=shown(name, after))).word
            assert word is (Word.FAILED if lasting else Word.SUCCEEDED), (name, after)
        if meaning is Meaning.STUCK:
            assert found(findings=replace(FINDINGS, console=shown("login", name))).word is Word.FAILED


def test_the_serial_line_counts_beside_the_screen() -> None:
    both = (*shown("no-boot-device", where="serial"), *shown("login"))
    result = found(findings=replace(FINDINGS, console=both))
    assert result.word is Word.FAILED and "its serial line shows firmware" in result.reasons[0]


@pytest.mark.parametrize("words", ["refloat-controller login:", "login:", ""])
def test_a_login_by_another_name_proves_no_boot(words: str) -> None:
    assert found(None, replace(SILENT, console=shown("login", words=words))).word is Word.FAILED


def test_a_login_prompt_and_no_report_is_partial_and_is_told_by_the_platform() -> None:
    result = found(None, replace(SILENT, console=shown("login", words=LOGIN)))
    boot = next(facet for facet in result.facets if facet.name == "boot")
    assert (result.word, boot.state) == (Word.PARTIAL, FacetState.UNVERIFIED)
    assert any(proof.observer == "platform" and LOGIN in proof.text for proof in boot.proofs)


def test_a_state_of_another_version_is_no_evidence() -> None:
    assert found(findings=replace(FINDINGS, console=shown("unheard-of"))).word is Word.SUCCEEDED


@pytest.mark.parametrize(
    ("console", "probes", "word"),
    [
        ((), (), Word.PARTIAL),
        ((), FINDINGS.probes, Word.PARTIAL),
        (shown("login", words=LOGIN), FINDINGS.probes, Word.PARTIAL),
        (shown("kernel-panic"), FINDINGS.probes, Word.FAILED),
    ],
)
def test_a_guest_that_was_left_alone_does_not_report(
    console: tuple[Sight, ...], probes: tuple[ProbeResult, ...], word: Word
) -> None:
    """Nothing was staged: no report is no failure, and never a success."""
    plan = replace(PLAN, decision=Decision(Action.SKIP, ("nothing differs",)))
    result = found(None, replace(FINDINGS, console=console, probes=probes), plan)
    assert result.word is word
    assert not any("within" in reason for reason in result.reasons)
