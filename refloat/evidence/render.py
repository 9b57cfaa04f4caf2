"""The evidence as one self-contained HTML page: no script, nothing loaded, fit to print and archive."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from refloat.text import instant, safe_data, size, span

if TYPE_CHECKING:
    from jinja2 import Template

# What tells states apart besides colour.
MARKS = {
    "good": "\N{CHECK MARK}",
    "warn": "\N{WHITE DIAMOND CONTAINING BLACK SMALL DIAMOND}",
    "bad": "\N{MULTIPLICATION X}",
    "none": "\N{EN DASH}",
}
_TONES = {
    "good": {"succeeded", "verified", "committed", "ready", "adapt", "skip", "done", "not_required"},
    "warn": {
        *("partial", "unverified", "scheduled", "running", "awaiting_reboot", "pending", "skipped"),
        *("awaiting_commit", "test_active", "committing", "rolling_back", "rolled_back"),
    },
    "bad": {"failed", "refused", "blocked", "refuse", "error"},
}
_PHASES = {"do": "Failover", "undo": "Rollback", "commit": "Commit"}
_LONG_DIFF = 40  # lines; longer ones start folded
_LONGEST_DIFF = 600
_NARROWEST_BAR = 0.4  # per cent, so that a quick step is still seen


def page(bundle: dict[str, Any]) -> str:
    """The page for a bundle (collect.py). Its strings are untrusted: escaped, without control characters."""
    clean: dict[str, Any] = safe_data(bundle)
    return _template().render(b=clean, phases=_phases(clean.get("steps") or []), total=_total(clean))


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("refloat", "evidence"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=size,
        span=span,
        instant=instant,
        tone=tone,
        mark=mark,
        words=words,
        diff=diff_lines,
        registry=value_lines,
    )
    environment.globals.update(long_diff=_LONG_DIFF)
    return environment.get_template("evidence.html.j2")


def tone(state: str) -> str:
    """good, warn, bad or none: the colour and the mark that a state is shown with."""
    return next((name for name, states in _TONES.items() if state in states), "none")


def mark(state: str) -> str:
    return MARKS[tone(state)]


def words(state: str) -> str:
    return state.replace("_", " ")


def diff_lines(text: str) -> list[tuple[str, str]]:
    """(class, line) per line of a unified diff. The sign stays in the line: colour is never the only sign."""
    lines = text.splitlines()
    shown = [(_diff_class(line), line) for line in lines[:_LONGEST_DIFF]]
    if len(lines) > _LONGEST_DIFF:
        shown.append(("hunk", f"... {len(lines) - _LONGEST_DIFF} more lines are in evidence.json"))
    return shown


def value_lines(values: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(class, line) of changed registry values, key by key as in a .reg file, with the signs of a diff."""
    shown: list[tuple[str, str]] = []
    key = None
    for value in values:
        if value["key"] != key:
            key = value["key"]
            shown.append(("hunk", f" [{key}]"))
        name = "@" if value["name"] == "" else f'"{value["name"]}"'
        for kind, sign, state in (("minus", "-", value["before"]), ("plus", "+", value["after"])):
            if state is not None:
                shown.append((kind, f"{sign}{'the key' if value['name'] is None else f'{name}={state}'}"))
    if len(shown) > _LONGEST_DIFF:
        more = len(shown) - _LONGEST_DIFF
        shown[_LONGEST_DIFF:] = [("hunk", f"... {more} more lines are in evidence.json")]
    return shown


def _diff_class(line: str) -> str:
    if line.startswith(("+++", "---", "@@")):
        return "hunk"
    return {"+": "plus", "-": "minus"}.get(line[:1], "same")


def _phases(steps: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """One timeline per phase: the operator may take days to decide, and bars must stay readable."""
    chosen = ((title, [step for step in steps if step["phase"] == phase]) for phase, title in _PHASES.items())
    return [(title, timeline(of_phase)) for title, of_phase in chosen if of_phase]


def timeline(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps with `seconds` (None while open) and the bar's `left` and `width` in per cent; `earlier` are
    the attempts before the last one, each with its own `seconds`."""
    starts = [_seconds(step["started"]) for step in steps]
    ends = [_seconds(step["finished"]) if step["finished"] else None for step in steps]
    if not starts:
        return []
    first = min(starts)
    last = max([*starts, *(end for end in ends if end is not None)])
    whole = max(last - first, 0.001)
    shown = []
    for step, start, end in zip(steps, starts, ends, strict=True):
        width = ((end if end is not None else last) - start) / whole * 100
        left = min((start - first) / whole * 100, 100 - _NARROWEST_BAR)
        bar = {"left": round(left, 2), "width": round(max(min(width, 100 - left), _NARROWEST_BAR), 2)}
        shown.append({**step, **bar, "seconds": _took(step), "earlier": _earlier(step)})
    return shown


def _earlier(step: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**attempt, "seconds": _took(attempt)} for attempt in step.get("history", [])[:-1]]


def _took(part: dict[str, Any]) -> float | None:
    if not part["finished"]:
        return None
    return max(_seconds(part["finished"]) - _seconds(part["started"]), 0.0)


def _total(bundle: dict[str, Any]) -> float | None:
    """Seconds from the first step's start to the last one's end, without the wait for the operator."""
    done = [step for step in bundle.get("steps") or [] if step["phase"] == "do" and step["finished"]]
    if not done:
        return None
    return max(_seconds(step["finished"]) for step in done) - min(_seconds(step["started"]) for step in done)


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
