"""Which changes are told, and in which words: pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from email import message_from_bytes
from email.policy import SMTP

import pytest

from refloat.errors import Failed
from refloat.failover import TRANSITIONS
from refloat.model import ControllerHealth, HealthState, JobState, Mode, TargetState, Word
from refloat.notices import (
    ALL,
    GROUPS,
    Kind,
    Notice,
    controller_detail,
    kinds_of,
    of_state,
    rpo_alarm,
    rpo_detail,
)
from refloat.notify.render import body, link, mail, sentence, signed, subject

S, URL = JobState, "https://hub.example:8410"
AT = "2026-03-01T02:59:00.000+00:00"
FAILED = Notice(
    "0123456789abcdef0123456789abcdef",
    Kind.FAILED,
    AT,
    "web-01",
    "web-01-05a219",
    Mode.PLANNED,
    S.ROLLING_BACK,
    None,
    "adapt-guest",
    "no_space",
)


@pytest.mark.parametrize(
    ("state", "before", "more", "kind"),
    [
        (S.RUNNING, S.QUEUED, {}, Kind.STARTED),
        (S.REFUSED, S.RUNNING, {"error": "target_not_ready"}, Kind.REFUSED),
        (S.REFUSED, S.QUEUED, {"error": "not_started"}, Kind.REFUSED),
        (S.REFUSED, S.RUNNING, {"error": "aborted"}, Kind.ABORTED),
        (S.TEST_ACTIVE, S.RUNNING, {"verdict": Word.SUCCEEDED}, Kind.VERDICT_SUCCEEDED),
        (S.AWAITING_COMMIT, S.RUNNING, {"verdict": Word.PARTIAL}, Kind.VERDICT_PARTIAL),
        (S.AWAITING_COMMIT, S.RUNNING, {"verdict": Word.FAILED}, Kind.VERDICT_FAILED),
        (S.AWAITING_COMMIT, S.RUNNING, {}, Kind.VERDICT_FAILED),
        (S.ROLLING_BACK, S.RUNNING, {"error": "no_space"}, Kind.FAILED),
        (S.ROLLING_BACK, S.RUNNING, {"error": "aborted", "aborted": True}, Kind.ABORTED),
        (S.ROLLING_BACK, S.RUNNING, {"aborted": True}, Kind.ABORTED),
        # What an operator decided is told when it is done.
        (S.ROLLING_BACK, S.AWAITING_COMMIT, {"verdict": Word.FAILED}, None),
        (S.ROLLING_BACK, S.TEST_ACTIVE, {}, None),
        (S.ROLLING_BACK, S.BLOCKED, {"aborted": True}, None),
        (S.COMMITTING, S.AWAITING_COMMIT, {}, None),
        (S.COMMITTING, S.BLOCKED, {}, None),
        (S.BLOCKED, S.RUNNING, {"error": "no_space"}, Kind.BLOCKED),
        (S.BLOCKED, S.ROLLING_BACK, {"error": "unreachable"}, Kind.BLOCKED),
        (S.BLOCKED, S.COMMITTING, {"error": "unreachable"}, Kind.BLOCKED),
        (S.COMMITTED, S.COMMITTING, {}, Kind.COMMITTED),
        (S.ROLLED_BACK, S.ROLLING_BACK, {}, Kind.ROLLED_BACK),
    ],
)
def test_what_a_state_tells(
    state: JobState, before: JobState, more: dict[str, object], kind: Kind | None
) -> None:
    assert of_state(state, before, **more) is kind  # type: ignore[arg-type]


def test_every_state_where_somebody_has_to_act_is_told() -> None:
    """Of all legal transitions."""
    for before, state in TRANSITIONS:
        told = of_state(state, before)
        if state in (S.AWAITING_COMMIT, S.TEST_ACTIVE, S.BLOCKED):
            assert told in GROUPS["waiting"]
        assert told is not None or state in (S.ROLLING_BACK, S.COMMITTING)


def test_kinds_by_word() -> None:
    assert kinds_of(["all"]) == ALL == GROUPS["job"] | GROUPS["health"]
    assert kinds_of(["verdict", "job.started"]) == GROUPS["verdict"] | {Kind.STARTED}
    assert Kind.TEST not in ALL and Kind.VERDICT_SUCCEEDED not in GROUPS["trouble"]
    with pytest.raises(ValueError, match="cakes"):
        kinds_of(["cakes"])


@pytest.mark.parametrize("state", TargetState)
def test_a_replicas_age(state: TargetState) -> None:
    """While a failover has the target, or nothing is protected, it is no news."""
    silent = (TargetState.FAILOVER, TargetState.FAILED_OVER, TargetState.PROVISIONING)
    assert rpo_alarm(state, True, 900.0) is (None if state in silent else True)
    assert rpo_alarm(state, False, 9.0) is (None if state in silent else False)
    # A first sync that failed leaves nothing to fail over to; one that is under way is no news.
    assert rpo_alarm(state, True, None) is (True if state is TargetState.ERROR else None)


def test_details() -> None:
    assert rpo_detail(1200, 300) == "the last complete sync point is 20 min 00 s old; the aim is 5 min 00 s"
    assert rpo_detail(None, 300) == "there is no complete sync point; the aim is 5 min 00 s"
    assert "no aim" in rpo_detail(3, None)
    silent = ControllerHealth(AT, HealthState.SILENT, "ssh: root@10.0.0.4: whatever it printed", "")
    assert controller_detail(silent) == "it does not answer"
    warned = ControllerHealth(AT, HealthState.WARNING, "its clock is 9 s off", "")
    assert controller_detail(warned) == "its clock is 9 s off"


# ---------------------------------------------------------------- words

SUBJECTS = {
    Kind.STARTED: "[refloat] web-01: planned failover started",
    Kind.REFUSED: "[refloat] web-01: planned failover refused in adapt-guest: no_space; nothing was changed",
    Kind.VERDICT_SUCCEEDED: "[refloat] web-01: planned failover succeeded; commit it or roll it back",
    Kind.VERDICT_PARTIAL: "[refloat] web-01: planned failover is only partly proven; "
    "commit it or roll it back",
    Kind.VERDICT_FAILED: "[refloat] web-01: planned failover failed: the recovered VM is not proven; "
    "commit it or roll it back",
    Kind.REMINDER: "[refloat] web-01: planned failover still waits: its commit deadline is over",
    Kind.FAILED: "[refloat] web-01: planned failover failed in adapt-guest: no_space; "
    "it is being rolled back",
    Kind.ABORTED: "[refloat] web-01: planned failover aborted by its operator",
    Kind.BLOCKED: "[refloat] web-01: planned failover is blocked in adapt-guest: no_space; it needs you",
    Kind.COMMITTED: "[refloat] web-01: planned failover committed",
    Kind.ROLLED_BACK: "[refloat] web-01: planned failover rolled back in adapt-guest: no_space",
    Kind.RPO_EXCEEDED: "[refloat] web-01: replica too old: 20 min",
    Kind.RPO_MET: "[refloat] web-01: replica fresh again: 20 min",
    Kind.CONTROLLER_ILL: "[refloat] web-01: controller ill: 20 min",
    Kind.CONTROLLER_WELL: "[refloat] web-01: controller well again: 20 min",
    Kind.TEST: "[refloat] web-01: this is a test of the channel 20 min",
}


@pytest.mark.parametrize("kind", Kind)
def test_subjects(kind: Kind) -> None:
    assert subject(replace(FAILED, kind=kind, state=S.AWAITING_COMMIT, detail="20 min")) == SUBJECTS[kind]


def test_a_test_says_what_to_do() -> None:
    active = replace(FAILED, kind=Kind.VERDICT_SUCCEEDED, mode=Mode.TEST, state=S.TEST_ACTIVE)
    assert sentence(active) == "test failover succeeded; roll it back when you have looked"


def test_the_body_is_as_documented() -> None:
    told = json.loads(body(FAILED, URL))
    assert told == {
        "type": "job.failed",
        "timestamp": AT,
        "data": {
            "format": 1,
            "id": FAILED.id,
            "target": "web-01",
            "job": "web-01-05a219",
            "mode": "planned",
            "state": "rolling_back",
            "verdict": "",
            "step": "adapt-guest",
            "error": "no_space",
            "text": "planned failover failed in adapt-guest: no_space; it is being rolled back",
            "url": "https://hub.example:8410/jobs/web-01-05a219",
        },
    }
    assert body(FAILED, URL) == body(replace(FAILED), URL)


def test_links() -> None:
    health = replace(FAILED, kind=Kind.RPO_EXCEEDED, job="")
    assert link(health, URL) == f"{URL}/targets/web-01"
    assert link(replace(health, kind=Kind.TEST), URL) == URL


def test_the_signature_is_the_standards() -> None:
    key = b"k" * 24
    headers = signed(FAILED, b"{}", "whsec_" + base64.b64encode(key).decode(), 1772334000)
    wanted = hmac.new(key, f"{FAILED.id}.1772334000.{{}}".encode(), hashlib.sha256).digest()
    assert headers == {
        "webhook-id": FAILED.id,
        "webhook-timestamp": "1772334000",
        "webhook-signature": "v1," + base64.b64encode(wanted).decode(),
    }
    assert signed(FAILED, b"{}", key.decode(), 1772334000) == headers
    assert signed(FAILED, b"{ }", key.decode(), 1772334000) != headers
    with pytest.raises(Failed, match="no base64"):
        signed(FAILED, b"{}", "whsec_!!", 1)


def test_the_mail() -> None:
    message = mail(FAILED, URL, "refloat@hub.example", ("oncall@example.org", "b@example.org"))
    assert message["Subject"] == SUBJECTS[Kind.FAILED]
    assert message["To"] == "oncall@example.org, b@example.org"
    assert message["Date"] == "Sun, 01 Mar 2026 02:59:00 +0000"
    assert message["Message-ID"] == f"<{FAILED.id}@hub.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content() == (
        "web-01: planned failover failed in adapt-guest: no_space; it is being rolled back\n"
        "\n"
        "what:    job.failed\n"
        "target:  web-01\n"
        "job:     web-01-05a219\n"
        "state:   rolling_back\n"
        "step:    adapt-guest\n"
        "error:   no_space\n"
        "when:    2026-03-01 02:59:00 UTC\n"
        "look:    https://hub.example:8410/jobs/web-01-05a219\n"
    )


EVIL = ("web\r\nBcc: all@example.org", "web\nX: y\x00\x1b[2J", "\u202eweb\u2028x\x85y\x0bz", "w" * 500)


@pytest.mark.parametrize("evil", EVIL)
def test_no_name_makes_a_header(evil: str) -> None:
    notice = replace(FAILED, target=evil, error=evil, detail=evil)
    raw = mail(notice, URL, "refloat@hub.example", ("oncall@example.org",)).as_bytes(policy=SMTP)
    read = message_from_bytes(raw, policy=SMTP)
    plain = mail(FAILED, URL, "refloat@hub.example", ("oncall@example.org",))
    assert read.keys() == plain.keys() and read["To"] == "oncall@example.org"
    assert len(read["Subject"]) <= 140 and str(read["Subject"]).isprintable()
    text = read.get_content()
    assert "\nBcc" not in text and "\x1b" not in text
