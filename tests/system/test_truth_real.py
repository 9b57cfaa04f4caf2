"""Each sabotage of the table on a real booted guest, one after another over one replica: a test failover is
rolled back to every byte of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from refloat.lab.hub import start_hub, stop_hub
from refloat.model import Verdict, Word
from tests.system.real_site import Hooks, RealSite
from tests.system.rig import Rig
from tests.truth.real_sabotages import ROWS, Sabotage

pytestmark = pytest.mark.timeout(900)

ALL = bool(os.environ.get("REFLOAT_TEST_ALL"))
CONTROL = Sabotage("nothing-at-all", "", Word.SUCCEEDED, deadline=300)
TABLE = {row.name: row for row in ROWS}


@pytest.fixture(scope="module")
def site(rig: Rig) -> Iterator[RealSite]:
    stop_hub(rig.lab)
    site = RealSite(rig.lab)
    try:
        yield site
    finally:
        site.close()
        start_hub(rig.lab)


def verdict_of(site: RealSite, row: Sabotage) -> Verdict:
    """Of one failover under this sabotage, which is rolled back afterwards. Raises where the replica is not
    what it was, or where the sabotage did not happen."""
    before = site.replica()
    site.policy(report_deadline=row.deadline, **({} if row.probed else {"probes": []}))
    wanted = site.sabotage(row)
    job = site.fail_over(row.mode)
    verdict = site.hub.outcome(job)[1]
    done, site.platforms.hooks = site.platforms.hooks.done, Hooks()
    site.roll_back(job)
    assert done == wanted
    assert row.mode is not row.mode.TEST or site.replica() == before
    assert verdict is not None
    return verdict


def holds(row: Sabotage, verdict: Verdict) -> bool:
    return verdict.word is row.word and any(row.cause in reason for reason in verdict.reasons)


def test_no_row_may_succeed() -> None:
    assert len(TABLE) == len(ROWS) >= 10
    assert all(row.word is not Word.SUCCEEDED and row.cause for row in ROWS)


@pytest.mark.skipif(not ALL, reason="a boot each: script/test --all")
def test_without_a_sabotage_it_succeeds(site: RealSite) -> None:
    assert verdict_of(site, CONTROL).word is Word.SUCCEEDED


@pytest.mark.parametrize("name", [row.name for row in ROWS if row.quick or ALL])
def test_the_verdict_names_the_cause(site: RealSite, name: str) -> None:
    verdict = verdict_of(site, TABLE[name])
    assert holds(TABLE[name], verdict), (verdict.word, verdict.reasons)
