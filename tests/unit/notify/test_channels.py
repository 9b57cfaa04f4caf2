"""The setting `notify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refloat.config import load_config
from refloat.errors import Refused
from refloat.notices import ALL, GROUPS
from refloat.notify.channels import Mail, MailTls, Webhook, channels
from refloat.secret import SecretRef

HOOK: dict[str, Any] = {
    "name": "ops",
    "webhook": "https://alerts.example/refloat",
    "secret": {"file": "/etc/refloat/hook"},
}
MAIL: dict[str, Any] = {
    "name": "night",
    "mail": ["oncall@example.org", "boss@example.org"],
    "from": "refloat@example.org",
    "server": "mail.example.org:587",
}


def test_rows() -> None:
    login = {"user": "refloat", "password": {"env": "MAIL_PASSWORD"}, "tls": "tls"}
    hook, night = channels([{**HOOK, "events": "trouble", "ca": "/etc/ca.pem"}, {**MAIL, **login}])
    assert hook == Webhook(
        "ops", HOOK["webhook"], SecretRef("/etc/refloat/hook"), GROUPS["trouble"], Path("/etc/ca.pem")
    )
    assert isinstance(night, Mail)
    assert (night.events, night.tls, night.password) == (ALL, MailTls.TLS, SecretRef(env="MAIL_PASSWORD"))
    assert night.place == ("mail.example.org", 587)
    (plain,) = channels([MAIL])
    assert isinstance(plain, Mail) and plain.tls is MailTls.STARTTLS
    (six,) = channels([{**MAIL, "server": "[::1]:25"}])
    assert isinstance(six, Mail) and six.place == ("::1", 25)


def test_an_address_is_not_shown_whole() -> None:
    """Some services put a secret into its path."""
    (hook,) = channels([{**HOOK, "webhook": "https://alerts.example:8443/T0/hush?token=hush"}])
    assert hook.where == "https://alerts.example:8443" and "hush" not in repr(hook)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({}, "no list"),
        ("ops", "no list"),
        ([HOOK] * 21, "at most 20"),
        ([HOOK, HOOK], "two channels are called ops"),
        (["ops"], "channel 1 has no name"),
        ([{**HOOK, "name": "a b"}], "channel 1 has no name"),
        ([{"name": "ops"}], "one of `webhook` and `mail`"),
        ([{**HOOK, **MAIL}], "one of `webhook` and `mail`"),
        ([{**HOOK, "colour": "red"}], "unknown key 'colour'"),
        ([{**HOOK, "server": "mail.example.org:587"}], "unknown key 'server'"),
        ([{"name": "ops", "webhook": HOOK["webhook"]}], "secret is missing"),
        ([{**HOOK, "secret": "hush"}], "name a file or an environment"),
        ([{**HOOK, "secret": {"file": "hook"}}], "whole path"),
        ([{**HOOK, "secret": {"file": "/a", "env": "B"}}], "name a file or an environment"),
        ([{**HOOK, "events": ["cakes"]}], "known: all, job"),
        ([{key: value for key, value in MAIL.items() if key != "from"}], "from is missing"),
        ([{**MAIL, "mail": []}], "one receiver"),
        ([{**MAIL, "mail": "a@b\nBcc: c@d"}], "no mail address"),
        ([{**MAIL, "from": "Refloat <a@b>"}], "no mail address"),
        ([{**MAIL, "server": "mail.example.org"}], "not like mail.example.org:587"),
        ([{**MAIL, "server": "mail.example.org:0"}], "not like mail.example.org:587"),
        ([{**MAIL, "tls": "maybe"}], "known: starttls"),
        ([{**MAIL, "user": "refloat"}], "go together"),
        ([{**MAIL, "tls": "none", "user": "a", "password": {"env": "P"}}], "over TLS alone"),
    ],
)
def test_what_is_refused(rows: Any, said: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        channels(rows)
    assert caught.value.code == "bad_config" and "hush" not in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://alerts.example/",
        "gopher://alerts.example/",
        "https://",
        "https:///path",
        "https://user:hush@alerts.example/",
        "https://alerts.example/#part",
        "https://alerts.example/a b",
        "https://alerts.example/\r\nX: y",
        "https://alerts.example:99999/",
        "https://alerts.example:0/",
        "https://[::1/",
        "https://alerts.ex\u00e4mple/",
        "alerts.example",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(Refused, match="ops: webhook") as caught:
        channels([{**HOOK, "webhook": url}])
    assert "hush" not in caught.value.message


def test_in_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "refloat.yaml"
    file.write_text(
        "notify:\n"
        "  - name: ops\n"
        "    webhook: https://alerts.example/refloat\n"
        "    secret: {file: /etc/refloat/hook}\n"
        "    events: [waiting, health]\n"
    )
    (hook,) = load_config(file, {}).notify
    assert (hook.name, hook.events) == ("ops", GROUPS["waiting"] | GROUPS["health"])
    assert load_config(None, {}).notify == ()
    with pytest.raises(Refused, match="no list"):
        load_config(file, {"REFLOAT_NOTIFY": "ops"})
