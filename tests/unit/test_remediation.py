"""A Windows guest's remediation: only its own final word, with every required stage done, is success."""

from __future__ import annotations

import itertools

import pytest

from refloat.model import (
    ENDED,
    BitLocker,
    Findings,
    GuestReport,
    PowerState,
    Remediation,
    StageReport,
    Verdict,
    WindowsFacts,
    Word,
)
from refloat.remediation import status_at_the_end, status_of
from refloat.verdict import facets, verdict
from tests.unit.builders import FACTS, FINDINGS, PLAN, PROMOTED, REPORT, replace

WINDOWS = WindowsFacts(
    version="2022",
    product="Windows Server 2022 Standard",
    edition="ServerStandard",
    build=20348,
    revision=2113,
    server=True,
    core=False,
    architecture="amd64",
    control_set="ControlSet001",
    driver_database=True,
    bitlocker=BitLocker.NONE,
)
WPLAN = replace(PLAN, facts=replace(FACTS, windows=WINDOWS))
DONE = (
    StageReport("drivers", "done", True, 1, "7 of 7"),
    StageReport("disks", "done", True, 1, "C: is disk 0"),
    StageReport("agent", "done", False, 1),
    StageReport("network", "done", True, 1),
)
GOOD = replace(
    REPORT,
    stage="verify",
    status=Remediation.SUCCEEDED,
    stages=DONE,
    mounts=(),
    root_device="C:",
    drivers=("viostor", "netkvm"),
    reboots=1,
)
UNPROBED = Findings(FINDINGS.observations, source=PowerState.OFF)


def judged(*reports: GuestReport, findings: Findings = FINDINGS) -> Verdict:
    return verdict(facets(WPLAN, PROMOTED, findings, reports))


def test_a_final_word_with_every_stage_done_is_success() -> None:
    assert judged(GOOD).word is Word.SUCCEEDED, judged(GOOD).reasons


def test_silence_fails_unless_the_boot_is_proven_from_outside() -> None:
    assert judged(findings=UNPROBED).word is Word.FAILED
    assert judged().word is Word.PARTIAL
    assert any("it has said nothing" in reason for reason in judged().reasons)


@pytest.mark.parametrize("status", sorted(set(Remediation) - ENDED - {Remediation.NOT_REQUIRED}))
def test_whoever_did_not_end_never_succeeds(status: Remediation) -> None:
    unended = replace(GOOD, status=status)
    assert judged(unended, findings=UNPROBED).word is Word.FAILED
    assert judged(unended).word is Word.PARTIAL
    assert any(f"its last word is {status}" in reason for reason in judged(unended).reasons)


def test_a_partial_end_is_a_partial_verdict_and_a_failed_one_fails() -> None:
    assert judged(replace(GOOD, status=Remediation.PARTIAL)).word is Word.PARTIAL
    assert judged(replace(GOOD, status=Remediation.FAILED)).word is Word.FAILED


STATES = ("done", "failed", "skipped", "pending", "anything")


@pytest.mark.parametrize(
    ("status", "required", "state"), list(itertools.product(sorted(ENDED), (True, False), STATES))
)
def test_no_success_without_the_required_stages(status: Remediation, required: bool, state: str) -> None:
    stages = (*DONE[:2], StageReport("agent", state, required, 3, "1603"), DONE[3])
    word = judged(replace(GOOD, status=status, stages=stages)).word
    done = state in ("done", "skipped")
    if status is Remediation.FAILED or (required and not done):
        assert word is Word.FAILED
    else:
        assert word is (Word.SUCCEEDED if done and status is Remediation.SUCCEEDED else Word.PARTIAL)


def test_a_restart_that_nobody_asked_for_is_no_full_success() -> None:
    first = replace(GOOD, status=Remediation.RUNNING, boot_id="b0", reboots=0)
    last = replace(GOOD, boot_id="b1", reboots=1)
    assert judged(first, last).word is Word.SUCCEEDED, "the announcement was lost"
    assert judged(replace(first, status=Remediation.AWAITING_REBOOT), last).word is Word.SUCCEEDED
    crashed = judged(first, replace(last, reboots=0))
    assert crashed.word is Word.PARTIAL and "b1 came without being announced" in crashed.reasons[0]


def test_the_stages_say_what_the_facets_are_about() -> None:
    silent = replace(GOOD, drivers=())
    facet = {facet.name: facet for facet in judged(silent).facets}
    assert facet["drivers"].state == "failed" and not facet["drivers"].required
    assert any("C: is disk 0" in proof.text for proof in facet["disks"].proofs)


def test_the_status_of_any_guest() -> None:
    assert status_of(replace(REPORT, stage="configured")) is Remediation.RUNNING
    assert status_of(REPORT) is Remediation.SUCCEEDED
    assert status_of(replace(REPORT, problems=("no driver",))) is Remediation.PARTIAL
    assert status_of(GOOD) is Remediation.SUCCEEDED


@pytest.mark.parametrize("word", list(Word))
@pytest.mark.parametrize("last", list(Remediation))
def test_the_status_once_nobody_listens(last: Remediation, word: Word) -> None:
    end = status_at_the_end(last, Verdict(word, (), ()))
    if last in ENDED or last is Remediation.NOT_REQUIRED:
        assert end is last
    else:
        assert end.value == word.value
