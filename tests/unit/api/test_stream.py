"""Server-sent events: each viewer is told each event once and in order, and many cost no more than one."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

from fastapi import Request

from refloat.api import live
from refloat.model import Mode
from refloat.store.store import Event
from tests.unit.api.fake_hub import FakeHub

JOB = "web-abc123"


def hub_with(count: int) -> FakeHub:
    hub = FakeHub()
    hub.start_failover("web", Mode.TEST)
    happens(hub, count)
    return hub


def happens(hub: FakeHub, count: int) -> None:
    for _ in range(count):
        number = len(hub.log) + 1
        hub.log.append(Event(number, JOB, "2026-03-01T10:00:00.000+00:00", "progress", {"n": number}))


def request_of(hub: FakeHub) -> Request:
    state = SimpleNamespace(hub=hub.hub, live=live.Live(hub.hub), stopping=False)
    return cast(Request, SimpleNamespace(app=SimpleNamespace(state=state)))


async def read(stream: Any, count: int) -> list[int]:
    """The ids of the next events."""
    seen: list[int] = []
    async with asyncio.timeout(20):
        while len(seen) < count:
            text = await anext(stream)
            if text.startswith("id:"):
                fields = dict(line.split(": ", 1) for line in text.strip().split("\n"))
                assert json.loads(fields["data"])["id"] == int(fields["id"]) and fields["event"] == "progress"
                seen.append(int(fields["id"]))
    return seen


def test_what_is_known_then_what_happens() -> None:
    async def scenario() -> None:
        hub = hub_with(7)
        stream = live._lines(request_of(hub), JOB, 2)
        assert await read(stream, 5) == [3, 4, 5, 6, 7]
        waiting = asyncio.create_task(read(stream, 4))
        await asyncio.sleep(0)
        happens(hub, 4)
        assert await waiting == [8, 9, 10, 11]
        await stream.aclose()

    asyncio.run(scenario())


def test_many_viewers_are_one_look_into_the_store(monkeypatch: Any) -> None:
    monkeypatch.setattr(live, "EVERY", 0.01)

    async def scenario() -> None:
        hub = hub_with(3)
        request = request_of(hub)
        streams = [live._lines(request, JOB, 0) for _ in range(50)]
        assert all(ids == [1, 2, 3] for ids in await asyncio.gather(*(read(one, 3) for one in streams)))
        waiting = [asyncio.create_task(read(one, 2)) for one in streams]
        await asyncio.sleep(0.05)
        shared = live.live_of(request)
        assert len(shared._tasks) == 1 and len(shared._viewers[JOB]) == 50
        happens(hub, 2)
        assert all(ids == [4, 5] for ids in await asyncio.gather(*waiting))
        for stream in streams:
            await stream.aclose()
        assert not shared._tasks and not shared._viewers

    asyncio.run(scenario())


def test_no_event_can_speak_for_another() -> None:
    text = live._text(Event(1, JOB, "", "progress", {"message": "a\n\nid: 99\nevent: state\ndata: {}"}))
    assert text.count("\n") == 4 and "\nid: 99" not in text
