"""The API's JSON of notifications."""

from __future__ import annotations

from pydantic import BaseModel, Field

from refloat.notices import Kind


class ChannelOut(BaseModel):
    name: str
    kind: str = Field(description="webhook or mail; empty where the settings do not name it any more")
    where: str = Field(description="The receiver, without what may be secret in its address")
    events: list[Kind]
    waiting: int = Field(description="Notices that are still to be delivered")
    delivered: int = Field(description="Of the last 30 days")
    given_up: int = Field(description="Of the last 30 days: not delivered within 24 hours")
    oldest_waiting: str
    last_delivered: str
    last_error: str = Field(description="Of what is waiting or was given up")


class DeliveryOut(BaseModel):
    delivered: bool
    answer: str
    hint: str
