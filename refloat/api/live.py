"""Server-sent events: many viewers of one job cost one look into the store, not one each."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from refloat.api.common import hub_of
from refloat.store.store import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from refloat.hub import Hub

log = logging.getLogger(__name__)

STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}

EVERY = 0.3  # seconds between looks into the store
QUIET = ": quiet\n\n"
_QUIET_FOR = 15.0  # seconds after which a comment shows proxies that the connection lives
# Seconds after which a viewer has to connect again, and to show who they are: a browser does so by itself.
LONGEST = 300.0
_MOST_WAITING = 1000  # events that a viewer who does not read may leave behind


class Live:
    """One task for each job that somebody watches; it ends with the last viewer."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._viewers: dict[str, set[asyncio.Queue[Event]]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @contextmanager
    def viewer(self, job: str, after: int) -> Iterator[asyncio.Queue[Event]]:
        queue: asyncio.Queue[Event] = asyncio.Queue(_MOST_WAITING)
        viewers = self._viewers.setdefault(job, set())
        viewers.add(queue)
        if job not in self._tasks:
            self._tasks[job] = asyncio.create_task(self._look(job, after))
        try:
            yield queue
        finally:
            viewers.discard(queue)
            if not viewers:
                self._viewers.pop(job, None)
                self._tasks.pop(job).cancel()

    async def _look(self, job: str, after: int) -> None:
        while True:
            try:
                found = await run_in_threadpool(self._hub.events, job, after)
            except Exception:  # the store may be away for a moment; viewers are not to be left without words
                log.exception("cannot look for news of job %s", job)
                found = []
            for event in found:
                after = event.id
                for queue in self._viewers.get(job, set()):
                    if not queue.full():
                        queue.put_nowait(event)
            await asyncio.sleep(EVERY)


def stream(request: Request, job: str, after: int) -> StreamingResponse:
    return StreamingResponse(
        _lines(request, job, after), media_type="text/event-stream", headers=STREAM_HEADERS
    )


async def _lines(request: Request, job: str, after: int) -> AsyncGenerator[str, None]:
    """What is known already, then what happens. A viewer is told each event once, in order."""
    hub, live = hub_of(request), live_of(request)
    yield "retry: 2000\n\n"
    after, known = await _known(hub, job, after)
    for event in known:
        yield _text(event)
    with live.viewer(job, after) as queue:
        # Between the look above and the first of the shared task something may have happened.
        after, missed = await _known(hub, job, after)
        for event in missed:
            yield _text(event)
        until = time.monotonic() + LONGEST
        # A viewer who is too slow for a full queue asks again, and gets all of it from the store.
        while not ending(request) and time.monotonic() < until and not queue.full():
            news = await next_event(queue)
            if news is None:
                yield QUIET
            elif news.id > after:
                after = news.id
                yield _text(news)


async def next_event(queue: asyncio.Queue[Event]) -> Event | None:
    """None after a while without any: then a comment keeps the connection alive."""
    try:
        return await asyncio.wait_for(queue.get(), timeout=_QUIET_FOR)
    except TimeoutError:
        return None


async def _known(hub: Hub, job: str, after: int) -> tuple[int, list[Event]]:
    found: list[Event] = []
    page: Sequence[Event]
    while page := await run_in_threadpool(hub.events, job, after):
        found += page
        after = page[-1].id
    return after, found


def _text(event: Event) -> str:
    # json.dumps escapes line ends: no event's data can begin a field of its own.
    data = json.dumps({"id": event.id, "at": event.at, "kind": event.kind, "data": event.data})
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n"


def ending(request: Request) -> bool:
    return bool(getattr(request.app.state, "stopping", False))


def live_of(request: Request) -> Live:
    live = request.app.state.live
    assert isinstance(live, Live)
    return live
