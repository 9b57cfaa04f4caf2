"""CloudStack's error codes as rows: what each means, and whether the same request may be sent again.

Source: org.apache.cloudstack.api.ApiErrorCode, and the exceptions that ApiServer makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from refloat.errors import Failed, RefloatError, Refused, Unreachable


class Then(StrEnum):
    """What follows. All but LOST mean that the request was not carried out."""

    RETRY = "retry"
    REFUSE = "refuse"
    FAIL = "fail"
    LOST = "lost"  # nobody knows whether it was carried out


@dataclass(frozen=True)
class Row:
    then: Then
    code: str
    hint: str


_AGAIN = "look at the management server's log; the hub tried for a while"
ROWS = {
    401: Row(
        Then.REFUSE,
        "cloudstack_auth",
        "check the API key and its secret, and the clocks of the hub and of the management server: a request "
        "is valid for minutes only",
    ),
    429: Row(Then.RETRY, "cloudstack_throttled", "raise the API limit of this account (api.throttling.max)"),
    430: Row(Then.REFUSE, "cloudstack_parameter", "the management server may be too old: 4.19 is needed"),
    431: Row(Then.REFUSE, "cloudstack_rule", "mend what CloudStack names, and try again"),
    432: Row(
        Then.REFUSE,
        "cloudstack_forbidden",
        "allow this API call in the role of the hub's account: see docs/cloudstack.md",
    ),
    503: Row(Then.RETRY, "cloudstack_maintenance", _AGAIN),
    530: Row(Then.FAIL, "cloudstack_internal", "look at the management server's log for the cause"),
    531: Row(Then.REFUSE, "cloudstack_account", "the hub's account may not use what CloudStack names"),
    533: Row(Then.RETRY, "cloudstack_capacity", "free capacity on the hosts or the storage of this zone"),
    534: Row(Then.RETRY, "cloudstack_unavailable", "look at the zone's hosts and storage"),
    535: Row(Then.REFUSE, "cloudstack_limit", "raise the limits of the hub's account or free resources"),
    536: Row(Then.RETRY, "cloudstack_in_use", "wait until what CloudStack names is no longer in use"),
    9999: Row(Then.RETRY, "cloudstack_maintenance", _AGAIN),
}
_OTHER = Row(Then.FAIL, "cloudstack_error", "look at the management server's log for the cause")
UNTRUSTED = Row(
    Then.REFUSE,
    "cloudstack_tls",
    "name the authority of the server's certificate in `ca_file`, and the server as the certificate does",
)
LOST = Row(Then.LOST, "cloudstack_lost", _AGAIN)


def row_of(code: int, said: bool = True) -> Row:
    """`said`: the management server itself answered in its own words, not a proxy before it."""
    if not said:
        return ROWS[503] if code == 503 else LOST
    return ROWS.get(code, _OTHER)


class Trouble(Exception):
    """An error of the API, before it is decided what becomes of it. Holds no key and no request."""

    def __init__(self, row: Row, command: str, text: str, number: int = 0) -> None:
        super().__init__(text)
        self.row, self.command, self.text, self.number = row, command, text, number

    def error(self, about: str = "") -> RefloatError:
        """As the rest of the hub knows it."""
        families: dict[Then, type[RefloatError]] = {
            Then.REFUSE: Refused,
            Then.FAIL: Failed,
            Then.RETRY: Failed,
            Then.LOST: Unreachable,
        }
        family = families[self.row.then]
        if self.row.code == "cloudstack_maintenance":
            family = Unreachable
        number = f" ({self.number})" if self.number else ""
        where = f" of {about}" if about else ""
        message = f"CloudStack: {self.command}{where}: {self.text}{number}"
        return family(message, code=self.row.code, hint=self.row.hint)
