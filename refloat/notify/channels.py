"""Who is told what: the rows of the setting `notify`.

Whoever may write the hub's settings says where it connects to; what is checked here is that a row means what
its writer thinks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from refloat.errors import Refused
from refloat.notices import ALL, GROUPS, Kind, kinds_of
from refloat.secret import SecretRef

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")
_URL = re.compile(r"https?://[!-~]{1,2000}")
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})")
_SERVER = re.compile(r"(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:]{2,39}\]):(?P<port>[0-9]{1,5})")
_MOST = 20  # channels, and receivers of a mail


class MailTls(StrEnum):
    """starttls: plain at first, then TLS or nothing is sent; tls: from the first byte; none: never."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


@dataclass(frozen=True)
class Webhook:
    """`ca` (PEM) is what is trusted instead of the system's authorities."""

    name: str
    url: str = field(repr=False)  # some services put a secret into it
    secret: SecretRef
    events: frozenset[Kind] = ALL
    ca: Path | None = None

    kind = "webhook"

    @property
    def where(self) -> str:
        """All that is shown of the address."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True)
class Mail:
    name: str
    to: tuple[str, ...]
    sender: str
    server: str
    tls: MailTls = MailTls.STARTTLS
    user: str = ""
    password: SecretRef | None = None
    events: frozenset[Kind] = ALL
    ca: Path | None = None

    kind = "mail"

    @property
    def where(self) -> str:
        return f"{', '.join(self.to)} by {self.server}"

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.server.rpartition(":")
        return host.strip("[]"), int(port)


Channel = Webhook | Mail


# ---------------------------------------------------------------- fields
# Each takes what the file says and returns what the row holds; ValueError says what is wrong.


def _url(value: Any) -> str:
    text = str(value)
    try:
        parts = urlsplit(text)
        usable = _URL.fullmatch(text) and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("it is not like https://alerts.example/refloat")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("a user, a password or a #fragment have no place in it")
    return text


def _secret(value: Any) -> SecretRef:
    known = isinstance(value, Mapping) and len(value) == 1 and set(value) <= {"file", "env"}
    if not known or not str(next(iter(value.values()))):
        raise ValueError("name a file or an environment variable: {file: /etc/refloat/hook-secret}")
    name = str(value.get("file", ""))
    if name and not name.startswith("/"):
        raise ValueError("name the file by its whole path")
    return SecretRef(file=name, env=str(value.get("env", "")))


def _address(value: Any) -> str:
    if not _ADDRESS.fullmatch(str(value)):
        raise ValueError(f"{str(value)!r} is no mail address like oncall@example.org")
    return str(value)


def _addresses(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    if not 1 <= len(listed) <= _MOST:
        raise ValueError(f"name one receiver to {_MOST}")
    return tuple(_address(one) for one in listed)


def _server(value: Any) -> str:
    found = _SERVER.fullmatch(str(value))
    if not found or not 0 < int(found["port"]) < 65536:
        raise ValueError("it is not like mail.example.org:587")
    return str(value)


def _events(value: Any) -> frozenset[Kind]:
    words = [str(one) for one in value] if isinstance(value, list) else [str(value)]
    try:
        return kinds_of(words)
    except ValueError as error:
        known = ", ".join((*GROUPS, *sorted(ALL)))
        raise ValueError(f"{error}; known: {known}") from None


def _tls(value: Any) -> MailTls:
    try:
        return MailTls(str(value))
    except ValueError:
        raise ValueError(f"known: {', '.join(MailTls)}") from None


# By kind of channel: what its key is called in the file, and field and reader for each key.
Reader = Callable[[Any], Any]
_SHARED: dict[str, tuple[str, Reader]] = {
    "events": ("events", _events),
    "ca": ("ca", lambda value: Path(str(value))),
}
_WEBHOOK: dict[str, tuple[str, Reader]] = {**_SHARED, "webhook": ("url", _url), "secret": ("secret", _secret)}
_MAIL: dict[str, tuple[str, Reader]] = {
    **_SHARED,
    "mail": ("to", _addresses),
    "from": ("sender", _address),
    "server": ("server", _server),
    "tls": ("tls", _tls),
    "user": ("user", str),
    "password": ("password", _secret),
}
_NEEDED = {"webhook": ("secret",), "mail": ("from", "server")}


def channels(rows: Any) -> tuple[Channel, ...]:
    """The setting `notify` as it was read from the file. Raises Refused (bad_config) naming row and key."""
    if not isinstance(rows, list) or len(rows) > _MOST:
        raise _bad(f"notify is no list of at most {_MOST} channels")
    found = tuple(_channel(row, number) for number, row in enumerate(rows, 1))
    names = [one.name for one in found]
    if double := next((name for name in names if names.count(name) > 1), ""):
        raise _bad(f"notify: two channels are called {double}")
    return found


def _channel(row: Any, number: int) -> Channel:
    if not isinstance(row, Mapping) or not _NAME.fullmatch(str(row.get("name", ""))):
        raise _bad(f"notify: channel {number} has no name of letters, digits, - and _")
    name = str(row["name"])
    kinds = [kind for kind in _NEEDED if kind in row]
    if len(kinds) != 1:
        raise _bad(f"notify: {name} has to have one of `webhook` and `mail`")
    readers = _WEBHOOK if kinds == ["webhook"] else _MAIL
    values = {}
    for key in (*row, *_NEEDED[kinds[0]]):
        if key != "name":
            values.update(_read(name, str(key), row.get(key), readers))
    made: Channel = Webhook(name, **values) if kinds == ["webhook"] else Mail(name, **values)
    if isinstance(made, Mail):
        _check_login(made)
    return made


def _read(name: str, key: str, value: Any, readers: Mapping[str, tuple[str, Reader]]) -> dict[str, Any]:
    if key not in readers:
        raise _bad(f"notify: {name}: unknown key {key!r}; known: name, {', '.join(readers)}")
    if value is None:
        raise _bad(f"notify: {name}: {key} is missing")
    column, reader = readers[key]
    try:
        return {column: reader(value)}
    except ValueError as error:
        raise _bad(f"notify: {name}: {key}: {error}") from error


def _check_login(mail: Mail) -> None:
    if bool(mail.user) != bool(mail.password):
        raise _bad(f"notify: {mail.name}: user and password go together")
    if mail.password and mail.tls is MailTls.NONE:
        raise _bad(f"notify: {mail.name}: a password is sent over TLS alone")


def _bad(message: str) -> Refused:
    return Refused(message, code="bad_config", hint="see docs/notifications.md")
