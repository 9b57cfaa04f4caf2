"""The API's JSON of the estate and its versions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from refloat.estate.diff import What
from refloat.estate.text import LARGEST


class _Record(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EstateVersionOut(_Record):
    number: int = Field(description="From 1; 0 is an estate that was not applied, but given at the start")
    sha256: str = Field(description="Of the text, in UTF-8")
    at: str
    who: str
    reason: str


class EstateOut(EstateVersionOut):
    text: str = Field(description="YAML, see docs/estate.md")


class EstateVersionsOut(BaseModel):
    versions: list[EstateVersionOut]
    next: int = Field(description="Give it as `before` for the next page; 0: this was the last")


class EstateIn(_Asked):
    text: str = Field(max_length=LARGEST, description="YAML without anchors and tags, of 1 MiB at most")
    name: str = Field(default="estate", max_length=200, description="What errors call it, such as its file")


class NewEstateIn(EstateIn):
    base: int = Field(ge=0, le=2**31 - 1, description="The version that it was compared with")
    reason: str = Field(default="", max_length=2000)


class FieldChangeOut(_Record):
    field: str
    old: str = Field(description="Empty: it has no value; a secret is `(hidden)`")
    new: str


class EstateChangeOut(_Record):
    what: What
    kind: str = Field(description="site, mapping, policy, protected or target")
    name: str
    fields: list[FieldChangeOut] = Field(description="None of what is removed")


class EstateDiffOut(_Record):
    base: int = Field(description="The version in use: give it as `base` when you apply the text")
    changes: list[EstateChangeOut] = Field(description="Empty: it means the same")
    blocked: list[str] = Field(description="Why it would be refused now, such as a job that relies on it")
    reach: list[str] = Field(
        description="New programs, files and site addresses of the hub's own machine: they need its own token"
    )


class EstateAppliedOut(_Record):
    number: int = Field(description="The version in use now")
    changes: list[EstateChangeOut] = Field(description="Empty: the text means what was in use already")
