"""The words that the estate file is made of: names, addresses, files."""

from __future__ import annotations

from ipaddress import ip_interface
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from refloat.secret import Opened, SecretRef

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$"
MAC = r"^(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$"
DOMAIN = r"^[A-Za-z0-9._-]{1,253}$"
UUID = r"^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"

# What fits each of them, in words.
FITS = {
    NAME: "a name has 1 to 41 letters, digits, - and _, and begins with a letter or digit",
    MAC: 'a MAC address is like "52:54:00:12:34:56", quoted: YAML takes some for numbers',
    DOMAIN: "a host name has letters, digits, dots, - and _",
    UUID: "a UUID is like 12345678-1234-4234-8234-123456789abc",
    VARIABLE: "an environment variable has letters, digits and _",
}

Name = Annotated[str, Field(pattern=NAME)]
Mac = Annotated[str, Field(pattern=MAC)]
Domain = Annotated[str, Field(pattern=DOMAIN)]


def _interface(text: str) -> str:
    if "/" not in text:
        raise ValueError(f"{text} has no prefix: write {text}/24")
    return str(ip_interface(text))


Interface = Annotated[str, AfterValidator(_interface)]


def _absolute(path: str) -> str:
    if not Path(path).is_absolute() or "\0" in path:
        raise ValueError(f"{path!r} is no absolute path")
    return path


Uuid = Annotated[str, Field(pattern=UUID)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretForm(Form):
    """Where a secret is: the estate file itself never holds one."""

    file: AbsolutePath | None = None
    env: Annotated[str, Field(pattern=VARIABLE)] | None = None

    sealed: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> SecretForm:
        if [self.file, self.env, self.sealed].count(None) != 2:
            raise ValueError("name a file, an environment variable or a sealed secret, one of the three")
        return self

    def record(self, opened: Opened) -> SecretRef:
        return SecretRef(self.file or "", self.env or "", self.sealed or "", opened)
