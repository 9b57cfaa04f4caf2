"""Single deliveries over real sockets, to receivers with faults."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from refloat.errors import Failed, Refused
from refloat.notices import Kind
from refloat.notify import bounded, mail, webhook
from refloat.notify.channels import Mail, MailTls, Webhook
from refloat.notify.mail import send
from refloat.notify.render import body
from refloat.notify.webhook import post
from refloat.secret import SecretRef
from tests.unit.notify.receivers import MailServer, Receiver
from tests.unit.notify.test_notices import FAILED, SUBJECTS, URL

Pair = tuple[Path, Path]


def closed_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_a_webhook_is_signed(receiver: Callable[..., Receiver], secret: SecretRef) -> None:
    there = receiver()
    answer = post(Webhook("ops", there.url, secret), FAILED, URL)
    assert answer == "200 OK: said\ufffd[2J  the receiver"
    ((request, headers, content),) = there.got
    assert request == "POST /hook?a=b" and content == body(FAILED, URL)
    assert headers["Content-Type"] == "application/json" and headers["Host"] == f"127.0.0.1:{there.port}"
    at = headers["webhook-timestamp"]
    assert abs(int(at) - time.time()) < 60
    message = f"{FAILED.id}.{at}.".encode() + content
    digest = hmac.new(b"hush-hush", message, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert b"hush" not in content and "hush" not in str(headers)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (500, "500 Internal Server Error: said"),
        (401, "401 Unauthorized"),
        (302, "302 Found"),
        (308, "308 Permanent Redirect"),
        ("drop", "RemoteDisconnected"),
        ("noise", "BadStatusLine"),
    ],
)
def test_what_is_no_delivery(
    receiver: Callable[..., Receiver], secret: SecretRef, fault: int | str, said: str
) -> None:
    there = receiver(fault)
    with pytest.raises(Failed, match=said) as caught:
        post(Webhook("ops", there.url, secret), FAILED, URL)
    assert len(there.got) == 1, "a redirect is not followed, and nothing is sent again by itself"
    assert caught.value.hint and "\x1b" not in caught.value.message


def test_nobody_listens(secret: SecretRef) -> None:
    with pytest.raises(Failed, match="Connection refused"):
        post(Webhook("ops", f"http://127.0.0.1:{closed_port()}/", secret), FAILED, URL)


def test_one_that_hangs(
    receiver: Callable[..., Receiver], secret: SecretRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "QUIET", 0.3)
    with pytest.raises(Failed, match="no answer within"):
        post(Webhook("ops", receiver("hang").url, secret), FAILED, URL)


@pytest.mark.parametrize("over_tls", [False, True])
def test_one_that_dribbles(
    receiver: Callable[..., Receiver], secret: SecretRef, pair: Pair, over_tls: bool
) -> None:
    """Each byte comes in time; all of them do not."""
    there = receiver("drip", tls=pair if over_tls else None)
    begun = time.monotonic()
    with pytest.raises(Failed, match="not done within"):
        post(Webhook("ops", there.url, secret, ca=pair[0]), FAILED, URL, whole=0.4)
    assert time.monotonic() - begun < 5


def test_an_answer_without_end_is_not_read(receiver: Callable[..., Receiver], secret: SecretRef) -> None:
    answer = post(Webhook("ops", receiver("big").url, secret), FAILED, URL)
    assert answer == "200 OK: " + "y" * 200


def test_one_that_took_it_and_does_not_hang_up(
    receiver: Callable[..., Receiver], secret: SecretRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To send it again would be wrong."""
    monkeypatch.setattr(webhook, "_FOR_WORDS", 0.2)
    assert post(Webhook("ops", receiver("stay").url, secret), FAILED, URL) == "202 Accepted"


def test_certificates_are_checked(receiver: Callable[..., Receiver], secret: SecretRef, pair: Pair) -> None:
    there = receiver(tls=pair)
    with pytest.raises(Failed, match="not trusted"):
        post(Webhook("ops", there.url, secret), FAILED, URL)
    other = there.url.replace("127.0.0.1", "localhost")
    with pytest.raises(Failed, match="not trusted"):
        post(Webhook("ops", other, secret, ca=pair[0]), FAILED, URL)
    assert not there.got, "nothing was sent before"
    assert post(Webhook("ops", there.url, secret, ca=pair[0]), FAILED, URL).startswith("200")


def test_a_secret_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no secret in the file"):
        post(Webhook("ops", "http://127.0.0.1:1/", SecretRef(str(tmp_path / "none"))), FAILED, URL)
    with pytest.raises(Failed, match="cannot use"):
        bounded.trusting(tmp_path / "none.pem")


# ---------------------------------------------------------------- mail


def test_a_password_that_cannot_be_sent(
    mail_server: Callable[..., MailServer], pair: Pair, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("h\u00fcsh")
    login = {"user": "refloat", "password": SecretRef(str(tmp_path / "password")), "ca": pair[0]}
    with pytest.raises(Failed, match="not ASCII") as caught:
        send(channel(mail_server(tls=pair), tls=MailTls.STARTTLS, **login), FAILED, URL)
    assert "fc" not in caught.value.message and "\u00fc" not in caught.value.message


def channel(there: MailServer, **more: object) -> Mail:
    plain = Mail(
        "night",
        ("oncall@example.org", "boss@example.org"),
        "refloat@hub.example",
        f"127.0.0.1:{there.port}",
        MailTls.NONE,
    )
    return replace(plain, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("tls", MailTls)
def test_a_mail(mail_server: Callable[..., MailServer], secret: SecretRef, pair: Pair, tls: MailTls) -> None:
    there = mail_server(tls=pair, at_once=tls is MailTls.TLS)
    login = {} if tls is MailTls.NONE else {"user": "refloat", "password": secret, "ca": pair[0]}
    answer = send(channel(there, tls=tls, **login), FAILED, URL)
    assert answer == f"127.0.0.1:{there.port} took it for oncall@example.org, boss@example.org"
    ((receivers, content),) = there.mails
    assert receivers == ["<oncall@example.org>", "<boss@example.org>"]
    assert f"Subject: {SUBJECTS[Kind.FAILED][:40]}".encode() in content
    assert there.encrypted == [tls is not MailTls.NONE]
    before = there.said[: next(i for i, one in enumerate(there.said) if one.upper().startswith("MAIL"))]
    said = {one.partition(" ")[0].upper() for one in before}
    assert ("AUTH" in said) == (tls is not MailTls.NONE)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("greet", "554 not today"),
        ("no-starttls", "STARTTLS"),
        ("auth", r"does not take the user and password \(535\)"),
        ("rcpt", "not taken for boss@example.org: 550 nobody"),
        ("data", "452 no room"),
    ],
)
def test_mails_that_are_not_taken(
    mail_server: Callable[..., MailServer], secret: SecretRef, pair: Pair, fault: str, said: str
) -> None:
    there = mail_server(fault, tls=pair)
    login = {"user": "refloat", "password": secret, "ca": pair[0]}
    with pytest.raises(Failed, match=said) as caught:
        send(channel(there, tls=MailTls.STARTTLS, **login), FAILED, URL)
    assert "\x1b" not in caught.value.message and "hush" not in str(caught.value)
    if fault == "no-starttls":
        assert not [line for line in there.said if line.upper().startswith(("AUTH", "MAIL"))], (
            "told in the clear"
        )


def test_a_mail_servers_certificate_is_checked(mail_server: Callable[..., MailServer], pair: Pair) -> None:
    for at_once, tls in ((False, MailTls.STARTTLS), (True, MailTls.TLS)):
        there = mail_server(tls=pair, at_once=at_once)
        with pytest.raises(Failed, match="not trusted"):
            send(channel(there, tls=tls), FAILED, URL)
        assert not there.mails


def test_a_mail_server_that_dribbles_or_is_not_there(mail_server: Callable[..., MailServer]) -> None:
    there = mail_server("drip")
    begun = time.monotonic()
    with pytest.raises(Failed, match="not done within"):
        send(channel(there), FAILED, URL, whole=0.4)
    assert time.monotonic() - begun < 5
    with pytest.raises(Failed, match="Connection refused"):
        send(replace(channel(there), server=f"127.0.0.1:{closed_port()}"), FAILED, URL)


def test_one_that_accepts_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "QUIET", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        where = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(Failed, match="timed out"):
            send(Mail("night", ("a@b",), "c@d", where, MailTls.NONE), FAILED, URL)
