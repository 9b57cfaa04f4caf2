"""How the recovered guest will be heard, told before it matters: by a channel, by HTTPS, or not at all."""

from __future__ import annotations

from refloat.model import Callback, GuestFacts

NO_WAY = (
    "no report of the guest can come: this platform reads no channel, and the hub has no `report_url`; "
    "the verdict will be partial at best"
)
NO_SENDER = (
    "reports can come by HTTPS alone here, and the guest has no program that sends them and checks the hub's "
    "certificate (curl, wget, python or openssl); install one, or the verdict will be partial at best"
)


def report_warnings(facts: GuestFacts, has_channel: bool, callback: Callback | None) -> tuple[str, ...]:
    """Windows sends by what it always has."""
    if has_channel:
        return ()
    if callback is None:
        return (NO_WAY,)
    able = facts.windows is not None or bool(facts.senders)
    return () if able or not callback.url.startswith("https:") else (NO_SENDER,)
