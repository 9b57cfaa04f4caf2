"""A vSphere site: how vCenter (or one ESXi host) is reached, and how a VM's disks are read there."""

from __future__ import annotations

import string
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from refloat.estate.forms import AbsolutePath, Form, SecretForm
from refloat.secret import Opened, none_sealed
from refloat.sources.vsphere_settings import PLACEHOLDERS, ChangeTracking, Quiesce, VsphereSettings

_DIGITS = {40: "SHA-1", 64: "SHA-256"}


def _thumbprint(text: str) -> str:
    plain = text.replace(":", "").lower()
    if len(plain) not in _DIGITS or set(plain) - set("0123456789abcdef"):
        raise ValueError("a thumbprint has 64 (SHA-256) or 40 (SHA-1) hexadecimal digits")
    return plain


class VsphereSite(Form):
    """`server` is trusted by `thumbprint`, by the authorities in `ca_file`, or else by the system's own.

    `reader` is the program that serves a disk of a snapshot over NBD: see docs/vsphere.md.
    """

    platform: Literal["vsphere"]
    server: Annotated[str, Field(pattern=r"^(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 443
    user: Annotated[str, Field(min_length=1)]
    password: SecretForm
    thumbprint: Annotated[str, AfterValidator(_thumbprint)] = ""
    ca_file: AbsolutePath | None = None
    reader: list[str] = []
    change_tracking: ChangeTracking = ChangeTracking.ENABLE
    quiesce: Quiesce = Quiesce.TRY
    timeout: Annotated[int, Field(ge=1, le=600)] = 60
    task_timeout: Annotated[int, Field(ge=10)] = 1800
    networks: dict[str, str] = Field(default={}, max_length=0)  # a source only

    @property
    def uri(self) -> str:
        return f"vsphere://{self.server}:{self.port}"

    @field_validator("reader")
    @classmethod
    def _known_placeholders(cls, words: list[str]) -> list[str]:
        used = {
            name for word in words for _, name, _, _ in string.Formatter().parse(word) if name is not None
        }
        unknown = sorted(used - PLACEHOLDERS)
        if unknown:
            raise ValueError(
                f"unknown placeholder {{{unknown[0]}}}: known are {', '.join(sorted(PLACEHOLDERS))}"
            )
        if words and "socket" not in used:
            raise ValueError("it does not say {socket}, where the disk is to be served")
        return words

    @model_validator(mode="after")
    def _one_trust(self) -> VsphereSite:
        if self.thumbprint and self.ca_file:
            raise ValueError("a thumbprint and a ca_file: name one of the two")
        return self

    def settings(self, opened: Opened = none_sealed) -> VsphereSettings:
        return VsphereSettings(
            self.server.strip("[]"),
            self.port,
            self.user,
            self.password.record(opened),
            self.thumbprint,
            self.ca_file or "",
            tuple(self.reader),
            self.change_tracking,
            self.quiesce,
            float(self.timeout),
            float(self.task_timeout),
        )
