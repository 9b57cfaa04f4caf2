"""How long a client may take to say what it wants. uvicorn itself waits for ever for a request's headers."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_WITHIN = 15.0  # seconds; it may take up to twice as long


class Prompt(H11Protocol):
    """Ends a connection on which no request becomes whole: enough of them would leave nobody else a socket.
    An answer may take as long as it takes, such as a stream of events."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._before: object = self  # what was answered at the last look; not a request in any case
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._next.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        under_way = self.cycle is not None and not self.cycle.response_complete
        if not under_way and self._before is self.cycle:
            self.transport.abort()
            return
        self._before = self if under_way else self.cycle
        self._next = self.loop.call_later(HEADERS_WITHIN, self._look)
