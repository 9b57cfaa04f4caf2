"""A destination without any channel: the guest is heard by HTTPS, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.adapt import CHANNEL
from refloat.errors import Refused
from refloat.model import Callback, Facet, FacetState, GuestReport, Mode, Plan, Secrets, Verdict, Word
from refloat.reports import ReportRejected
from refloat.simulated.world import Protected
from tests.unit.simulated.rig import Site, until

ONE = Protected(1)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path, ONE, report_deadline=10)
    made.hub.callback = Callback("https://10.0.0.2:8411/api/v1/reports/", "certificate")

    def none(vm: str, name: str) -> None:
        raise Refused("this platform has no channel", code="no_channel")

    monkeypatch.setattr(made.world.destination, "channel", none)
    made.sync(ONE)
    yield made
    made.close()


def spoken(site: Site) -> list[bytes]:
    """What the guest would have sent: it speaks on the channel that nobody hears."""
    site.world.guests.speak(ONE.controller, CHANNEL)
    said = site.world.destination._channels(ONE.controller) / CHANNEL / "to-host"
    return [line for line in said.read_bytes().splitlines() if line] if said.exists() else []


def verdict(site: Site, job: str) -> Verdict:
    site.rest(job)
    found = site.hub.store.load(job, "verdict", Verdict)
    assert found is not None, site.hub.job(job).error
    return found


def boot(found: Verdict) -> Facet:
    return next(facet for facet in found.facets if facet.name == "boot")


def test_heard_by_https_alone(site: Site) -> None:
    job = site.hub.start_failover(ONE.name, Mode.TEST).id
    until(lambda: site.hub.store.load(job, "started", str) is not None, "the start")
    accepted: set[bytes] = set()

    def tell() -> bool:
        for line in set(spoken(site)) - accepted:
            number = site.hub.take_report(job, line)
            accepted.add(line)
            _acknowledge(site, number)
        return len(accepted) == 2

    until(tell, "two reports")
    assert verdict(site, job).word is Word.SUCCEEDED
    reports = site.hub.store.load(job, "reports", tuple[GuestReport, ...]) or ()
    assert [report.stage for report in reports] == ["configured", "final"]
    plan = site.hub.store.load(job, "plan", Plan)
    assert plan is not None and plan.callback is not None and plan.callback.certificate == "certificate"
    with pytest.raises(ReportRejected) as late:
        site.hub.take_report(job, next(iter(accepted)))
    assert late.value.code == "report_over"
    secrets = site.hub.store.load(job, "secrets", Secrets)
    assert secrets is not None
    for path in (site.directory / "hub").rglob("*"):  # neither the store nor the jobs' journal tells them
        content = path.read_bytes() if path.is_file() else b""
        assert secrets.token.encode() not in content and secrets.nonce.encode() not in content, path


def _acknowledge(site: Site, number: int) -> None:
    directory = site.world.destination._channels(ONE.controller) / CHANNEL
    with (directory / "to-guest").open("ab") as handle:
        handle.write(f"ack {number}\n".encode())


def test_no_channel_and_no_address_is_never_a_success(site: Site) -> None:
    site.hub.callback = None
    job = site.hub.start_failover(ONE.name, Mode.TEST).id
    found = verdict(site, job)
    assert found.word in (Word.PARTIAL, Word.FAILED)
    assert boot(found).state is not FacetState.VERIFIED
    said = [event.data.get("message", "") for event in site.hub.events(job)]
    assert any("no report can come" in str(one) for one in said)
