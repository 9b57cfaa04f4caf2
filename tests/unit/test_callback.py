"""Which reports by HTTPS are kept, and how the reporting step hears them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refloat.callback import GRACE, MOST, Inbox, accept, is_open
from refloat.clock import now
from refloat.model import Facet, JobState, Mode, Plan, Secrets, TargetState
from refloat.reports import REPORT_LIMIT, ReportRejected
from refloat.store.store import Store
from refloat.verdict import verdict
from tests.unit.builders import PLAN

SECRETS = Secrets("the token", "the nonce")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(tmp_path / "s.sqlite")
    made.ensure_target("web")
    yield made
    made.engine.dispose()


@pytest.fixture
def job(store: Store) -> str:
    """A job whose VM runs and which waits for reports."""
    made = store.create_job("web", Mode.TEST).id
    store.set_state(made, JobState.RUNNING)
    store.save(made, "secrets", SECRETS)
    store.save(made, "plan", replace(PLAN, report_deadline=300))
    store.save(made, "started", now())
    return made


def report(of_job: str, sequence: int = 1, **changes: Any) -> bytes:
    said = {
        "v": 1,
        "job": of_job,
        "token": SECRETS.token,
        "nonce": SECRETS.nonce,
        "seq": sequence,
        "boot_id": "boot",
        "stage": "final",
        "uptime": 12.5,
    }
    return json.dumps({**said, **changes}).encode()


def lines(store: Store, job: str) -> list[bytes]:
    return Inbox(store, job).read(0).splitlines()


def test_kept_and_heard_in_order(store: Store, job: str) -> None:
    inbox = Inbox(store, job)
    assert inbox.read(0) == b""
    assert accept(store, job, report(job, 1) + b"\n") == 1
    assert accept(store, job, report(job, 4)) == 4
    assert [json.loads(line)["seq"] for line in inbox.read(0).splitlines()] == [1, 4]
    assert inbox.read(0) == b""
    assert accept(store, job, report(job, 5)) == 5
    assert json.loads(inbox.read(1))["seq"] == 5
    assert len(lines(store, job)) == 3, "another step, as after a restart, hears them all again"


def test_a_repetition_or_replay_is_acknowledged_and_not_kept(store: Store, job: str) -> None:
    accept(store, job, report(job, 3))
    assert accept(store, job, report(job, 3, stage="configured")) == 3
    assert accept(store, job, report(job, 2)) == 2
    assert [json.loads(line)["stage"] for line in lines(store, job)] == ["final"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"token": "x"}, "report_forged"),
        ({"nonce": ""}, "report_forged"),
        ({"token": None}, "report_forged"),
        ({"job": "other"}, "report_foreign"),
        ({"seq": -1}, "report_rejected"),
        ({"seq": True}, "report_rejected"),
        ({"stage": "x"}, "report_rejected"),
        ({"kernel": "x" * 300}, "report_rejected"),
        ({"v": 2}, "report_rejected"),
    ],
)
def test_what_does_not_fit_is_not_kept(store: Store, job: str, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ReportRejected) as rejected:
        accept(store, job, report(job, **changes))
    assert rejected.value.code == code
    assert lines(store, job) == []


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"[]", b"{" * 9999, b"\xff\xfe", b" " * (REPORT_LIMIT + 9) + b"x", b"\n\n"]
)
def test_malformed_bodies(store: Store, job: str, body: bytes) -> None:
    with pytest.raises(ReportRejected):
        accept(store, job, body)


def test_two_reports_in_one_are_none(store: Store, job: str) -> None:
    with pytest.raises(ReportRejected):
        accept(store, job, report(job, 1) + b"\n" + report(job, 2))
    assert lines(store, job) == []


def test_an_unknown_job_looks_like_a_wrong_token(store: Store) -> None:
    with pytest.raises(ReportRejected) as rejected:
        accept(store, "web-ffffff", report("web-ffffff"))
    assert rejected.value.code == "report_forged"


@pytest.mark.parametrize("state", [one for one in JobState if one is not JobState.RUNNING])
def test_only_a_running_job_hears(store: Store, job: str, state: JobState) -> None:
    store.set_state(job, state, release=TargetState.READY)
    with pytest.raises(ReportRejected) as rejected:
        accept(store, job, report(job))
    assert rejected.value.code == "report_over"
    assert lines(store, job) == []


def test_the_token_ends_with_the_verdict(store: Store, job: str) -> None:
    assert is_open(store, job)
    facet: tuple[Facet, ...] = ()
    store.save(job, "verdict", verdict(facet))
    with pytest.raises(ReportRejected) as rejected:
        accept(store, job, report(job))
    assert rejected.value.code == "report_over"


def test_the_token_ends_with_the_deadline(store: Store, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for late, open_ in ((300 + GRACE - 1, True), (300 + GRACE + 1, False)):
        monkeypatch.setattr("refloat.callback.seconds_between", lambda *_, late=late: late)
        assert is_open(store, job) is open_


def test_before_the_vm_has_started_nothing_counts(store: Store) -> None:
    early = store.create_job("web", Mode.TEST).id
    store.set_state(early, JobState.RUNNING)
    store.save(early, "secrets", SECRETS)
    store.save(early, "plan", PLAN)
    with pytest.raises(ReportRejected):
        accept(store, early, report(early))
    assert store.load(early, "plan", Plan) == PLAN


def test_the_inbox_is_bounded(store: Store, job: str) -> None:
    for sequence in range(1, MOST + 1):
        accept(store, job, report(job, sequence))
    with pytest.raises(ReportRejected):
        accept(store, job, report(job, MOST + 1))
    assert len(lines(store, job)) == MOST
