"""Whether the recovered guest's clock is right, by its own reports: pure.

A wrong one breaks what works with time: certificates, Kerberos (which gives up at five minutes), backups.
"""

from __future__ import annotations

from datetime import datetime

from refloat.model import GuestReport, Observer, Proof
from refloat.text import span

TOLERANCE = 300.0  # seconds; Kerberos' own: RFC 4120, 3.1.3, and the default of MIT's and Microsoft's


def clock_proofs(started: str, report: GuestReport | None) -> list[Proof]:
    """A report was made after the VM was `started` and before it was received, however late it was heard.
    Nothing where the guest does not say its time."""
    if report is None or report.clock is None or not started:
        return []
    ahead = report.clock - _seconds(report.received)
    behind = _seconds(started) - report.clock
    if max(ahead, behind) <= TOLERANCE:
        return [Proof(Observer.GUEST, True, "its clock is right to five minutes")]
    way = "ahead" if ahead > behind else "behind"
    return [Proof(Observer.GUEST, False, f"its clock is at least {span(max(ahead, behind))} {way}")]


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()
