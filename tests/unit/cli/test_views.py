"""The watched job on a terminal: what the live table shows, built from events."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from refloat.cli.board import Board
from refloat.cli.output import progress_text
from refloat.cli.views import LineView, LiveView
from refloat.text import safe, safe_data, size, span

ERROR = {"code": "busy", "message": "the [bold]platform[/bold] \x1b[2J was busy", "hint": ""}


def event(number: int, kind: str, **data: Any) -> dict[str, Any]:
    return {
        "id": number,
        "job": "j",
        "at": f"2026-03-01T10:00:{number:02d}.000+00:00",
        "kind": kind,
        "data": data,
    }


EVENTS = [
    event(1, "state", state="running"),
    event(2, "step", step="preflight", phase="do"),
    event(5, "step_done", step="preflight", phase="do", error=None),
    event(6, "step", step="start-vm", phase="do"),
    event(8, "step_done", step="start-vm", phase="do", error=ERROR),
    event(9, "step", step="start-vm", phase="do"),
    event(10, "progress", step="start-vm", phase="copying", bytes_done=10, bytes_total=40),
]


def rendered(view: LiveView) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(view.render())
    return out.getvalue()


def live(events: list[dict[str, Any]]) -> LiveView:
    view = LiveView.__new__(LiveView)  # without its refreshing thread
    view.board, view._since = Board(), {}
    for item in events:
        view.event(item)
    return view


def test_board_follows_a_retry() -> None:
    board = Board()
    for item in EVENTS:
        board.apply(item)
    assert [(line.step, line.status, line.attempts) for line in board.lines] == [
        ("preflight", "done", 1),
        ("start-vm", "running", 2),
    ]
    assert board.current and board.current.progress == "copying, 10 B of 40 B (25%)"
    assert board.state == "running"


def test_live_table() -> None:
    text = rendered(live(EVENTS))
    assert "preflight" in text and "3.0 s" in text
    assert "2 attempts, copying, 10 B of 40 B (25%)" in text and "job is running" in text


def test_live_table_shows_text_as_text() -> None:
    text = rendered(live(EVENTS[:5]))
    assert "the [bold]platform[/bold]" in text and "\x1b" not in text


def test_undo_and_unknown_events() -> None:
    view = live([event(1, "step", step="start-vm", phase="undo"), event(2, "surprise", what="x")])
    text = rendered(view)
    assert "undo start-vm" in text and "surprise: what=x" in text


def test_lines() -> None:
    out = io.StringIO()
    view = LineView(out)
    for item in EVENTS:
        view.event(item)
    lines = out.getvalue().splitlines()
    assert lines[0] == "10:00:01 job is running"
    assert lines[2] == "10:00:05 preflight done (3.0 s)"
    assert lines[4].startswith("10:00:08 start-vm failed (2.0 s): the [bold]platform")
    assert "\x1b" not in out.getvalue()


def test_progress_of_a_sync_is_not_a_flood() -> None:
    out = io.StringIO()
    view = LineView(out)
    for done in range(100):
        view.progress({"bytes_done": done, "bytes_total": 100})
    assert len(out.getvalue().splitlines()) <= 1


def test_texts() -> None:
    report = progress_text({"guest": "final", "uptime": 41.2})
    assert report == "the guest reports: final, 41 s after its boot"
    assert progress_text({"event": "progress", "phase": "hashing", "bytes_done": 2048}) == "hashing, 2 KiB"
    assert [size(n) for n in (0, 1023, 1536, 3 * 2**30)] == ["0 B", "1023 B", "1.5 KiB", "3 GiB"]
    assert [span(s) for s in (0.04, 9.94, 75, 3700)] == ["0.0 s", "9.9 s", "1 min 15 s", "1 h 01 min"]


def test_safe() -> None:
    assert safe("a\x00b\x9bc\u202ed\ud800e\nf\tg") == "a\ufffdb\ufffdc\ufffdd\ufffde f g"
    assert safe("\u00fcn\u00efc\u00f6de \u2713") == "\u00fcn\u00efc\u00f6de \u2713"
    assert safe_data({"k\x1b": ["a\nb\x07", 3, None]}) == {"k\ufffd": ["a\nb\ufffd", 3, None]}
