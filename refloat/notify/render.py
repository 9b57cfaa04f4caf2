"""A notice in the words of each channel: pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime

from refloat.errors import Failed
from refloat.notices import Kind, Notice
from refloat.text import instant, safe

FORMAT = 1  # of the webhook's `data`; a new field is no new format
_LONGEST = 140  # characters of a subject

# What each kind says after the target's name. `because` is empty or like " in adapt-guest: no_space".
_SAYS = {
    Kind.STARTED: "{mode} failover started",
    Kind.REFUSED: "{mode} failover refused{because}; nothing was changed",
    Kind.VERDICT_SUCCEEDED: "{mode} failover succeeded; {waits}",
    Kind.VERDICT_PARTIAL: "{mode} failover is only partly proven; {waits}",
    Kind.VERDICT_FAILED: "{mode} failover failed: the recovered VM is not proven; {waits}",
    Kind.REMINDER: "{mode} failover still waits: its commit deadline is over",
    Kind.FAILED: "{mode} failover failed{because}; it is being rolled back",
    Kind.ABORTED: "{mode} failover aborted by its operator",
    Kind.BLOCKED: "{mode} failover is blocked{because}; it needs you",
    Kind.COMMITTED: "{mode} failover committed",
    Kind.ROLLED_BACK: "{mode} failover rolled back{because}",
    Kind.RPO_EXCEEDED: "replica too old: {detail}",
    Kind.RPO_MET: "replica fresh again: {detail}",
    Kind.CONTROLLER_ILL: "controller ill: {detail}",
    Kind.CONTROLLER_WELL: "controller well again: {detail}",
    Kind.TEST: "this is a test of the channel {detail}",
}
_WAITS = {"test_active": "roll it back when you have looked", "awaiting_commit": "commit it or roll it back"}


def sentence(notice: Notice) -> str:
    """What happened, on one line, without the target."""
    where = f" in {notice.step}" if notice.step else ""
    because = f"{where}: {notice.error}" if notice.error else ""
    said = _SAYS[notice.kind].format(
        mode=notice.mode or "",
        because=because,
        waits=_WAITS.get(notice.state or "", "look at it"),
        detail=notice.detail,
    )
    return safe(said)


def link(notice: Notice, url: str) -> str:
    """Where the page shows it; `url` is the hub's."""
    if notice.job:
        return f"{url}/jobs/{notice.job}"
    return url if notice.kind is Kind.TEST else f"{url}/targets/{notice.target}"


# ---------------------------------------------------------------- webhook


def body(notice: Notice, url: str) -> bytes:
    """The JSON that docs/notifications.md describes; the same bytes at every delivery."""
    data = {
        "format": FORMAT,
        "id": notice.id,
        "target": notice.target,
        "job": notice.job,
        "mode": notice.mode or "",
        "state": notice.state or "",
        "verdict": notice.verdict or "",
        "step": notice.step,
        "error": notice.error,
        "text": sentence(notice),
        "url": link(notice, url),
    }
    whole = {"type": notice.kind, "timestamp": notice.at, "data": data}
    return json.dumps(whole, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def signed(notice: Notice, content: bytes, secret: str, at: int) -> dict[str, str]:
    """The headers of the Standard Webhooks specification 1.0 (standardwebhooks.com), so that its libraries
    can check them. `at` is the time of this delivery in seconds since 1970."""
    message = b".".join((notice.id.encode(), str(at).encode(), content))
    digest = hmac.new(_key(secret), message, hashlib.sha256).digest()
    return {
        "webhook-id": notice.id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _key(secret: str) -> bytes:
    """By the specification "whsec_" goes before base64; anything else is taken as it is."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise Failed(
            "the channel's secret begins with whsec_, but no base64 follows",
            code="bad_secret",
            hint="give it as the receiver shows it",
        ) from None


# ---------------------------------------------------------------- mail


def subject(notice: Notice) -> str:
    """On one line, of printable characters: whatever a target is called, it makes no header of its own."""
    said = safe(f"[refloat] {notice.target}: {sentence(notice)}")
    return said if len(said) <= _LONGEST else said[: _LONGEST - 3] + "..."


def mail(notice: Notice, url: str, sender: str, to: tuple[str, ...]) -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = subject(notice)
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Date"] = format_datetime(datetime.fromisoformat(notice.at))
    message["Message-ID"] = f"<{notice.id}@{sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies
    message["X-Refloat-Event"] = notice.kind
    message.set_content(_text(notice, url))
    return message


def _text(notice: Notice, url: str) -> str:
    rows = (
        ("what", notice.kind),
        ("target", notice.target),
        ("job", notice.job),
        ("state", notice.state),
        ("verdict", notice.verdict),
        ("step", notice.step),
        ("error", notice.error),
        ("when", f"{instant(notice.at)} UTC"),
        ("look", link(notice, url)),
    )
    lines = [f"{name + ':':<9}{safe(value)}" for name, value in rows if value]
    return "\n".join((f"{safe(notice.target)}: {sentence(notice)}", "", *lines, ""))
