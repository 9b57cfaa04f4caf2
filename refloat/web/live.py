"""A job's page stays live: the part that changed is rendered once, and pushed to all who look at it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from refloat.api.common import Name, hub_of
from refloat.api.door import Looks
from refloat.api.live import LONGEST, QUIET, STREAM_HEADERS, ending, live_of, next_event
from refloat.web.panels import panel_of

router = APIRouter()

GATHER = 0.3  # seconds: what happens together is shown together


@router.get("/jobs/{job_id}/live")
async def live(
    request: Request,
    _: Looks,
    job_id: Name,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    last_event_id: Annotated[str, Header(max_length=20, pattern=r"^\d*$")] = "",
) -> StreamingResponse:
    await run_in_threadpool(hub_of(request).job, job_id)
    shown = int(last_event_id or after)
    return StreamingResponse(
        _panels(request, job_id, shown), media_type="text/event-stream", headers=STREAM_HEADERS
    )


async def _panels(request: Request, job_id: str, shown: int) -> AsyncGenerator[str, None]:
    yield "retry: 2000\n\n"
    summaries = hub_of(request).summaries
    with live_of(request).viewer(job_id, shown) as queue:
        newest = await run_in_threadpool(summaries.newest_event, job_id)
        until = time.monotonic() + LONGEST
        while not ending(request) and time.monotonic() < until:
            if newest > shown:
                html = await run_in_threadpool(panel_of, request, job_id, newest)
                shown = newest
                yield f"id: {newest}\nevent: panel\ndata: {json.dumps(html)}\n\n"
            event = await next_event(queue)
            if event is None:
                yield QUIET
                continue
            await asyncio.sleep(GATHER)
            newest = max(newest, event.id)
            while not queue.empty():
                newest = max(newest, queue.get_nowait().id)
