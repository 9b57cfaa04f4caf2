"""What a watched job looks like now, built from its events alone. Pure: no clock, no terminal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from refloat.cli.output import progress_text
from refloat.clock import seconds_between
from refloat.text import span

PHASES = {"do": "", "undo": "undo ", "commit": "commit "}


@dataclass
class Line:
    """One step in one phase. `finished` is empty while it is under way."""

    step: str
    phase: str
    started: str
    finished: str = ""
    attempts: int = 1
    progress: str = ""
    error: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        return f"{PHASES.get(self.phase, '')}{self.step}"

    @property
    def status(self) -> str:
        if self.error:
            return "failed"
        return "done" if self.finished else "running"

    @property
    def took(self) -> float | None:
        return max(seconds_between(self.started, self.finished), 0.0) if self.finished else None


@dataclass
class Board:
    state: str = ""
    lines: list[Line] = field(default_factory=list)
    news: str = ""  # the last thing that belongs to no step

    @property
    def current(self) -> Line | None:
        """The step that is under way."""
        return next((line for line in reversed(self.lines) if not line.finished), None)

    def apply(self, event: dict[str, Any]) -> None:
        data = event["data"]
        match event["kind"]:
            case "state":
                self.state = str(data.get("state", ""))
            case "step":
                self._start(str(data.get("step")), str(data.get("phase")), event["at"])
            case "step_done":
                self._finish(str(data.get("step")), str(data.get("phase")), event["at"], data.get("error"))
            case "progress":
                self.progress(data)
            case kind:
                self.news = f"{kind}: {progress_text(data)}"

    def progress(self, data: dict[str, Any]) -> None:
        text = progress_text(data)
        if self.current:
            self.current.progress = text
        else:
            self.news = text

    def _find(self, step: str, phase: str) -> Line | None:
        return next((line for line in self.lines if (line.step, line.phase) == (step, phase)), None)

    def _start(self, step: str, phase: str, at: str) -> None:
        line = self._find(step, phase)
        if line is None:
            self.lines.append(Line(step, phase, at))
        else:
            line.attempts, line.finished, line.error = line.attempts + 1, "", None

    def _finish(self, step: str, phase: str, at: str, error: dict[str, Any] | None) -> None:
        line = self._find(step, phase)
        if line is None:
            line = Line(step, phase, at)
            self.lines.append(line)
        line.finished, line.error = at, error


def line_text(event: dict[str, Any], board: Board) -> str:
    """The event on one line, after `board` took it."""
    data, clock = event["data"], event["at"][11:19]
    match event["kind"]:
        case "state":
            return f"{clock} job is {board.state}"
        case "step":
            phase = PHASES.get(str(data.get("phase")), "")
            return f"{clock} {phase}{data.get('step')} ..."
        case "step_done":
            return f"{clock} {_done_text(data, board)}"
        case "progress":
            return f"{clock}   {progress_text(data)}"
        case kind:
            return f"{clock} {kind}: {progress_text(data)}"


def _done_text(data: dict[str, Any], board: Board) -> str:
    phase = PHASES.get(str(data.get("phase")), "")
    line = board._find(str(data.get("step")), str(data.get("phase")))
    took = f" ({span(line.took)})" if line and line.took is not None else ""
    error = data.get("error")
    if error:
        return f"{phase}{data.get('step')} failed{took}: {error.get('message', '')}"
    return f"{phase}{data.get('step')} done{took}"
