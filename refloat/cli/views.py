"""Two ways to show a watched job: a live table on a terminal, a line per event everywhere else."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from refloat.cli.board import Board, Line, line_text
from refloat.cli.output import progress_text
from refloat.text import safe, span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_LEAST_PAUSE = 5.0  # seconds between two progress lines of a sync in plain output

_MARKS = {
    "done": ("\N{CHECK MARK}", "green"),
    "failed": ("\N{MULTIPLICATION X}", "red"),
    "running": (">", "cyan"),
}


class View(Protocol):
    board: Board

    def event(self, event: dict[str, Any]) -> None: ...

    def progress(self, data: dict[str, Any]) -> None: ...

    def notice(self, text: str) -> None: ...

    def close(self) -> None: ...


def choose_view(to_stderr: bool) -> View:
    """`to_stderr` keeps stdout for JSON."""
    if to_stderr:
        return LineView(sys.stderr)
    return LiveView() if sys.stdout.isatty() else LineView(sys.stdout)


class LineView:
    def __init__(self, out: TextIO) -> None:
        self.board = Board()
        self._out = out
        self._last = ("", 0.0)

    def event(self, event: dict[str, Any]) -> None:
        self.board.apply(event)
        self.notice(line_text(event, self.board))

    def progress(self, data: dict[str, Any]) -> None:
        text, now = progress_text(data), time.monotonic()
        if text and text != self._last[0] and now - self._last[1] >= _LEAST_PAUSE:
            self._last = (text, now)
            self.notice(f"           {text}")

    def notice(self, text: str) -> None:
        print(safe(text), file=self._out, flush=True)

    def close(self) -> None: ...


class LiveView:
    """Refreshes by itself, so that the time of the running step moves."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.board = Board()
        self._since: dict[int, float] = {}
        self._live: Live = Live(
            get_renderable=self.render, console=Console(highlight=False), refresh_per_second=4
        )
        self._live.start()

    def event(self, event: dict[str, Any]) -> None:
        self.board.apply(event)

    def progress(self, data: dict[str, Any]) -> None:
        self.board.progress(data)

    def notice(self, text: str) -> None:
        self.board.news = text

    def close(self) -> None:
        self._live.stop()

    def render(self) -> RenderableType:
        """Text objects only: what a guest or a tool said is never read as markup."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for _ in range(4):
            grid.add_column(no_wrap=False)
        for line in list(self.board.lines):
            mark, style = _MARKS[line.status]
            grid.add_row(
                Text(mark, style=style),
                Text(safe(line.title), style="bold" if line.status == "running" else ""),
                Text(self._time(line), justify="right"),
                Text(_remark(line), style="red" if line.error else "dim"),
            )
        state = Text(f"job is {safe(self.board.state) or 'starting'}", style="bold")
        return Group(grid, state, Text(safe(self.board.news), style="dim"))

    def _time(self, line: Line) -> str:
        """Of a running step as this machine's clock measures it: the hub's may differ."""
        if line.took is not None:
            return span(line.took)
        return span(time.monotonic() - self._since.setdefault(id(line) + line.attempts, time.monotonic()))


def _remark(line: Line) -> str:
    attempts = f"{line.attempts} attempts" if line.attempts > 1 else ""
    message = str(line.error.get("message", "")) if line.error else line.progress if not line.finished else ""
    return ", ".join(safe(part) for part in (attempts, message) if part)
