"""The guest's clock: what it says must lie between the VM's start and the hearing of the report."""

from __future__ import annotations

from datetime import datetime

import pytest

from refloat.guest_clock import clock_proofs
from refloat.model import FacetState, Word
from refloat.verdict import facets, verdict
from tests.unit.builders import FINDINGS, PLAN, PROMOTED, REPORT, replace

STARTED, RECEIVED = "2026-01-01T00:00:00+00:00", "2026-01-01T00:02:00+00:00"
AT = datetime.fromisoformat(RECEIVED).timestamp()


@pytest.mark.parametrize(
    ("clock", "holds"),
    [(AT - 60, True), (AT + 299, True), (AT + 301, False), (AT - 120 - 299, True), (AT - 120 - 301, False)],
)
def test_it_must_lie_between_the_start_and_the_hearing(clock: float, holds: bool) -> None:
    (proof,) = clock_proofs(STARTED, replace(REPORT, received=RECEIVED, clock=clock))
    assert proof.holds is holds, proof


def test_the_way_and_the_distance_are_said() -> None:
    (early,) = clock_proofs(STARTED, replace(REPORT, received=RECEIVED, clock=0.0))
    assert "behind" in early.text
    (late,) = clock_proofs(STARTED, replace(REPORT, received=RECEIVED, clock=AT + 7200))
    assert late.text == "its clock is at least 2 h 00 min ahead"
    (absurd,) = clock_proofs(STARTED, replace(REPORT, received=RECEIVED, clock=2.0**53 - 1))
    assert not absurd.holds


def test_a_guest_that_does_not_say_its_time_is_not_judged_by_it() -> None:
    assert clock_proofs(STARTED, None) == clock_proofs(STARTED, REPORT) == []
    assert clock_proofs("", replace(REPORT, clock=AT)) == []


def test_a_wrong_clock_is_no_success() -> None:
    findings = replace(FINDINGS, started=STARTED)
    for clock, word in ((AT, Word.SUCCEEDED), (0.0, Word.PARTIAL)):
        report = replace(REPORT, received=RECEIVED, clock=clock)
        found = facets(PLAN, PROMOTED, findings, (report,))
        assert verdict(found).word is word, verdict(found)
        (facet,) = (one for one in found if one.name == "clock")
        assert facet.state is (FacetState.VERIFIED if word is Word.SUCCEEDED else FacetState.FAILED)
