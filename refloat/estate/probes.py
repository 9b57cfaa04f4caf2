"""Probes as the estate file states them: one form a kind, told apart by `kind`.

Here alone: the API takes no probes, so that nobody who may start a failover can run a command on the hub.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, IPvAnyAddress, Tag, field_validator

from refloat import model
from refloat.estate.forms import AbsolutePath, Domain, Form
from refloat.policy import HttpCheck, Probe, Redirects, Tls

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class _Common(Form):
    """What every kind has: how often and for how long it is repeated, and what its failure means."""

    name: Annotated[str, Field(max_length=80)] = ""
    address: IPvAnyAddress | None = None
    required: bool = True
    within: Annotated[float, Field(ge=0, le=3600)] = 30
    every: Seconds = 1
    times: Annotated[int, Field(ge=1, le=100)] = 1
    timeout: Seconds = 10

    @field_validator("address", mode="before")
    @classmethod
    def _none_named(cls, address: object) -> object:
        return None if address == "" else address

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("a name is one line of text")
        return name

    def _probe(self, kind: model.ProbeKind, **own: Any) -> Probe:
        return Probe(
            address="" if self.address is None else str(self.address),
            kind=kind,
            name=self.name,
            required=self.required,
            within=self.within,
            every=self.every,
            times=self.times,
            timeout=self.timeout,
            **own,
        )


class TcpForm(_Common):
    kind: Literal["tcp"] = "tcp"
    port: Port
    expect: Annotated[str, Field(max_length=4096)] = ""

    def record(self) -> Probe:
        return self._probe(model.ProbeKind.TCP, port=self.port, expect=self.expect)


class IcmpForm(_Common):
    kind: Literal["icmp"]

    def record(self) -> Probe:
        return self._probe(model.ProbeKind.ICMP)


Status = Annotated[int, Field(ge=100, le=599)]
# RFC 9110, token; what the request itself sets is not for the operator to set twice.
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "user-agent", "accept"})


def _path(path: str) -> str:
    if not path.startswith("/") or " " in path or not (path.isascii() and path.isprintable()):
        raise ValueError(f"{path!r} is no path: it starts with / and is percent-encoded ASCII")
    return path


class HttpForm(_Common):
    kind: Literal["http", "https"]
    port: Port | None = None
    path: Annotated[str, Field(max_length=2000), AfterValidator(_path)] = "/"
    status: Annotated[list[Status], Field(min_length=1)] = [200]
    contains: Annotated[str, Field(max_length=4096)] = ""
    host: Domain | None = None
    verify: bool = True
    ca: AbsolutePath | None = None
    redirects: Redirects = Redirects.NEVER
    headers: dict[str, AbsolutePath] = {}
    largest: Annotated[int, Field(ge=1, le=16 << 20)] = 1 << 20

    @field_validator("headers")
    @classmethod
    def _names(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if not _HEADER.fullmatch(name) or name.lower() in _OURS:
                raise ValueError(f"{name!r} is no header that a probe can set")
        return headers

    @field_validator("ca")
    @classmethod
    def _for_https(cls, ca: str | None, info: Any) -> str | None:
        if ca is not None and (info.data.get("kind") != "https" or not info.data.get("verify")):
            raise ValueError("ca is for https with verify")
        return ca

    def record(self) -> Probe:
        secure = self.kind == "https"
        http = HttpCheck(
            self.path,
            tuple(self.status),
            self.contains,
            self.host or "",
            Tls.OFF if not secure else Tls.VERIFY if self.verify else Tls.ANY,
            self.ca or "",
            self.redirects,
            dict(self.headers),
            self.largest,
        )
        return self._probe(model.ProbeKind.HTTP, port=self.port or (443 if secure else 80), http=http)


_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
_KNOWN = frozenset({"address", "host", "port"})


class CommandForm(_Common):
    kind: Literal["command"]
    command: Annotated[list[str], Field(min_length=1, max_length=100)]
    port: Port | None = None

    @field_validator("command")
    @classmethod
    def _words(cls, words: list[str]) -> list[str]:
        if not words[0].startswith("/"):
            raise ValueError("a command is named by its absolute path: no shell looks for it")
        for word in words:
            if "\0" in word:
                raise ValueError("a word of a command holds no zero byte")
            for name in _PLACEHOLDER.findall(word):
                if name not in _KNOWN:
                    raise ValueError(
                        f"unknown placeholder {{{name}}}: there are {{address}}, {{host}}, {{port}}"
                    )
        return words

    @field_validator("port")
    @classmethod
    def _needed(cls, port: int | None, info: Any) -> int | None:
        used = {name for word in info.data.get("command", []) for name in _PLACEHOLDER.findall(word)}
        if port is None and used & {"host", "port"}:
            raise ValueError("{host} and {port} need the probe's port: which of the VM's is meant?")
        return port

    model_config = Form.model_config | {"validate_default": True}

    def record(self) -> Probe:
        return self._probe(model.ProbeKind.COMMAND, port=self.port or 0, argv=tuple(self.command))


def _kind(value: Any) -> str:
    """A probe without a kind is of TCP, as the first ones were."""
    found = value.get("kind", "tcp") if isinstance(value, dict) else getattr(value, "kind", "")
    return "http" if found == "https" else str(found)


ProbeForm = Annotated[
    Annotated[TcpForm, Tag("tcp")]
    | Annotated[IcmpForm, Tag("icmp")]
    | Annotated[HttpForm, Tag("http")]
    | Annotated[CommandForm, Tag("command")],
    Discriminator(
        _kind,
        custom_error_type="unknown_kind",
        custom_error_message="a probe's kind is tcp, icmp, http, https or command",
    ),
]
