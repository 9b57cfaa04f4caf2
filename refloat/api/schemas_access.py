"""The API's JSON of users, tokens and the audit log."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from refloat.access import Permission, Role


class _Record(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MeOut(BaseModel):
    name: str
    role: Role
    may: list[Permission]


class UserOut(_Record):
    name: str
    role: Role
    disabled: bool
    has_password: bool = Field(description="Without one only tokens let them in")
    created: str


class UserIn(_Asked):
    name: str = Field(max_length=32, examples=["anna"])
    role: Role
    password: SecretStr = Field(default=SecretStr(""), max_length=1024)


class UserChange(_Asked):
    role: Role | None = None
    disabled: bool | None = None
    password: SecretStr | None = Field(default=None, max_length=1024)


class SecretIn(_Asked):
    value: SecretStr = Field(min_length=1, max_length=65536)


class SecretOut(BaseModel):
    name: str
    changed: str
    who: str
    used_by: list[str] = Field(description="Sites of the estate that name it")


class TokenOut(_Record):
    id: str
    owner: str
    label: str
    role: Role
    scopes: list[Permission] = Field(description="Empty: all that the role may")
    created: str
    expires: str
    used: str
    revoked: str


class IssuedOut(TokenOut):
    token: str = Field(description="Shown this once")


class TokenIn(_Asked):
    label: str = Field(min_length=1, max_length=80, description="What it is for", examples=["monitoring"])
    days: int = Field(ge=1, le=366, examples=[90])
    owner: str = Field(default="", max_length=32, description="Empty: yourself")
    role: Role | None = Field(default=None, description="Of the owner, or a lower one")
    scopes: list[Permission] = Field(default=[], description="Empty: all that the role may")


class AuditOut(_Record):
    id: int
    at: str
    who: str
    origin: str = Field(description="Network address; empty for the hub itself")
    what: str
    subject: str
    reason: str
    data: dict[str, Any]
    sha256: str


class AuditPage(BaseModel):
    entries: list[AuditOut]
    next: int = Field(description="Give it as `before` for the next page; 0: this was the last")


class VerifiedOut(_Record):
    entries: int
    head: str = Field(description="Note it elsewhere: a later `verify` compares")
