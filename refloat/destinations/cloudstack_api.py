"""CloudStack's API: signed requests by the library `cs`, one at a time, with errors sorted.

`cs` signs and sends, nothing more: with fetch_result=False it leaves jobs to us, which must be journaled
before anybody waits for them. Requests are POSTs, so that no key and no signature is in an address that some
log or exception quotes; redirections are not followed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import requests
from cs import CloudStack, CloudStackApiException, CloudStackException

from refloat.destinations.cloudstack_errors import LOST, UNTRUSTED, Then, Trouble, row_of
from refloat.destinations.cloudstack_settings import CloudStackSettings

T = TypeVar("T")
Item = dict[str, Any]

PAGE = 500  # items; CloudStack's default.page.size, the most that it gives at once
_EXPIRES = 600  # seconds that a request is valid: the clocks may differ by less
_LONGEST_TEXT = 500


class JobState(IntEnum):
    PENDING = 0
    DONE = 1
    FAILED = 2


@dataclass(frozen=True)
class JobResult:
    state: JobState
    trouble: Trouble | None = None


class Api:
    """Thread-safe: every thread has a connection of its own."""

    def __init__(self, settings: CloudStackSettings) -> None:
        self.settings = settings
        self._local = threading.local()

    def ask(self, command: str, **params: Any) -> Item:
        """A question: it changes nothing, and is repeated while the trouble may pass."""
        return patiently(
            self.settings, lambda: self._request(command, params), (Then.RETRY, Then.LOST), command
        )

    def items(self, command: str, key: str, **params: Any) -> list[Item]:
        """All that a list command gives, page by page. Raises as `ask` does."""
        found: list[Item] = []
        while True:
            page = self.ask(command, page=len(found) // PAGE + 1, pagesize=PAGE, **params)
            more = page.get(key) or []
            found.extend(more)
            if len(more) < PAGE:
                return found

    def order(self, command: str, **params: Any) -> Item:
        """A change, sent once. Raises Trouble; what follows is decided by who knows whether it was done."""
        return self._request(command, params)

    def job(self, job: str) -> JobResult | None:
        """None for a job that CloudStack knows no longer. Raises as `ask` does."""
        try:
            answer = patiently(
                self.settings,
                lambda: self._request("queryAsyncJobResult", {"jobid": job}),
                (Then.RETRY, Then.LOST),
                "queryAsyncJobResult",
                raw=(431,),
            )
        except Trouble:
            return None
        state = JobState(int(answer.get("jobstatus", 0)))
        if state is not JobState.FAILED:
            return JobResult(state)
        result = answer.get("jobresult") or {}
        number = int(result.get("errorcode") or answer.get("jobresultcode") or 530)
        text = str(result.get("errortext") or "no reason given")[:_LONGEST_TEXT]
        # AsyncJobManagerImpl's word for what was under way when a management server went: nobody knows how
        # far.
        row = LOST if "management server restart" in text else row_of(number)
        return JobResult(state, Trouble(row, str(answer.get("cmd", "job")).split(".")[-1], text, number))

    # ------------------------------------------------------------ one request

    def _client(self) -> CloudStack:
        """Made anew after a refused signature: the key may have been replaced."""
        client: CloudStack | None = getattr(self._local, "client", None)
        if client is None:
            settings, session = self.settings, requests.Session()
            session.max_redirects = 0
            client = self._local.client = CloudStack(
                settings.url,
                key=settings.key.read(),
                secret=settings.secret.read(),
                timeout=int(max(1, settings.timeout)),
                method="post",
                verify=settings.ca_file or True,
                retry=0,
                expiration=_EXPIRES,
                session=session,
                fetch_result=False,
            )
        return client

    def _request(self, command: str, params: Item) -> Item:
        client = self._client()
        try:
            answer = getattr(client, command)(**params)
        except CloudStackApiException as error:
            raise self._trouble(command, error) from None
        except CloudStackException as error:
            status = getattr(error.response, "status_code", 0)
            raise Trouble(
                row_of(status, said=False), command, f"HTTP {status}, no answer of its own"
            ) from None
        except requests.exceptions.SSLError:
            raise Trouble(UNTRUSTED, command, "the server's certificate is not trusted") from None
        except requests.RequestException as error:
            # Not its text: that quotes what was sent.
            self._local.client = None
            raise Trouble(row_of(0, said=False), command, type(error).__name__) from None
        if not isinstance(answer, dict):
            raise Trouble(row_of(0, said=False), command, "the answer is no object")
        return answer

    def _trouble(self, command: str, error: CloudStackApiException) -> Trouble:
        said = error.error if isinstance(error.error, dict) else {}
        status = int(getattr(error.response, "status_code", 0) or 0)
        number = int(said.get("errorcode") or status)
        if number == 401:
            self._local.client = None
        text = str(said.get("errortext") or f"HTTP {status}")[:_LONGEST_TEXT]
        return Trouble(row_of(number, said="errorcode" in said), command, text, number)


def patiently(
    settings: CloudStackSettings,
    act: Callable[[], T],
    over: tuple[Then, ...],
    about: str,
    raw: tuple[int, ...] = (),
) -> T:
    """Repeats `act` with growing pauses while its trouble is one of `over`. Raises RefloatError, or the
    Trouble itself where its number is in `raw`."""
    deadline, pause = time.monotonic() + settings.patience, settings.poll / 2
    while True:
        try:
            return act()
        except Trouble as trouble:
            if trouble.number in raw:
                raise
            if trouble.row.then not in over or time.monotonic() + pause > deadline:
                raise trouble.error() from None
            time.sleep(pause)
            pause = min(pause * 2, settings.poll * 15)
