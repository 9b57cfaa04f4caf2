"""The verdict: every word has its cause, and nothing but full proof gives `succeeded`."""

from __future__ import annotations

import itertools

import pytest

from refloat.model import (
    Facet,
    FacetState,
    Findings,
    GuestReport,
    Hardware,
    Mode,
    MountReport,
    NicReport,
    Observation,
    Plan,
    PowerState,
    ProbeResult,
    Verdict,
    Word,
)
from refloat.verdict import facets, verdict
from tests.unit.builders import FINDINGS, MAC, PLAN, PROMOTED, REPORT, replace


def found(
    report: GuestReport | None = REPORT,
    findings: Findings = FINDINGS,
    plan: Plan = PLAN,
    promoted: Hardware = PROMOTED,
) -> Verdict:
    return verdict(facets(plan, promoted, findings, (report,) if report else ()))


def test_full_proof_from_inside_and_outside_succeeds() -> None:
    assert found().word is Word.SUCCEEDED


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


SILENT = replace(FINDINGS, probes=())
SABOTAGE = {
    "no report, nothing answers": (None, SILENT, Word.FAILED, "boot"),
    "no report, but the address answers": (None, FINDINGS, Word.PARTIAL, "disks"),
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
