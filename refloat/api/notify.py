"""Routes of those who are told what happens: how the deliveries go, and a test."""

from __future__ import annotations

from fastapi import APIRouter, Request

from refloat.api.common import PROBLEMS, EstateName, hub_of
from refloat.api.door import Audits, ManagesEstate
from refloat.api.schemas_notify import ChannelOut, DeliveryOut
from refloat.errors import RefloatError

router = APIRouter(prefix="/api/v1/channels", tags=["notifications"], responses=PROBLEMS)


@router.get("", summary="Who is told what, and how the deliveries go")
def list_channels(request: Request, _: Audits) -> list[ChannelOut]:
    found = hub_of(request).courier.statuses()
    return [ChannelOut.model_validate({**vars(one), **vars(one.tally)}) for one in found]


@router.post("/{name}/test", summary="Send a test notice, and say what the other side answered")
def test_channel(request: Request, who: ManagesEstate, name: EstateName) -> DeliveryOut:
    """At once and once: it does not go through the outbox."""
    hub = hub_of(request)
    channel = hub.courier.channel(name)
    hub.audit.record(who.signature, "notify-test", name)
    try:
        return DeliveryOut(delivered=True, answer=hub.courier.test(channel), hint="")
    except RefloatError as error:
        return DeliveryOut(delivered=False, answer=error.message, hint=error.hint)
