"""Facts on stdout: tables for people, JSON for programs. All text is treated as untrusted."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from refloat.text import instant, safe, size, span

Row = Sequence[object]


def say(text: object = "") -> None:
    print(safe(text), flush=True)


def note(text: object) -> None:
    """For the person at the terminal, not for a program that reads stdout."""
    print(safe(text), file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2), flush=True)


def table(header: Sequence[str], rows: Sequence[Row], empty: str) -> None:
    """Aligned columns; nothing is cut, so that a name can be copied and a pipe gets all of it."""
    if not rows:
        say(empty)
        return
    cells = [[safe(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def facts(pairs: Sequence[tuple[str, object]]) -> None:
    """One `name: value` a line; empty values are left out."""
    shown = [(name, value) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        say(f"{name + ':':<{width + 1}} {value}")


# ---------------------------------------------------------------- the records as text


def sync_point_text(point: dict[str, Any] | None) -> str:
    if not point:
        return "none yet"
    return f"{instant(point['taken'])} UTC, {point['how']}, {size(point['transferred'])} transferred"


def progress_text(data: dict[str, Any]) -> str:
    """One line for a progress record: bytes as sizes, a message as it is, anything else as name=value."""
    rest = {name: value for name, value in data.items() if name not in ("event", "step")}
    parts = [str(rest.pop(name)) for name in ("message", "phase", "disk") if rest.get(name)]
    if "guest" in rest:
        uptime = rest.pop("uptime", None)
        when = f", {span(float(uptime))} after its boot" if isinstance(uptime, int | float) else ""
        parts.append(f"the guest reports: {rest.pop('guest')}{when}")
    done, total = rest.pop("bytes_done", None), rest.pop("bytes_total", None)
    if isinstance(done, int | float):
        parts.append(_bytes_text(done, total))
    parts += [f"{name}={value}" for name, value in rest.items() if value not in (None, "", [], {})]
    return ", ".join(parts)


def age_text(replication: dict[str, Any]) -> str:
    """How old the replica is, and whether that is more than the policy aims at."""
    if replication["age"] is None:
        return "no complete sync yet"
    aim = f" (aim: {span(replication['rpo'])})" if replication["rpo"] else ""
    return f"{span(replication['age'])}{aim}{', LATE' if replication['late'] else ''}"


def next_text(replication: dict[str, Any]) -> str:
    due = replication["next_sync"]
    return "" if due is None else f"in {span(due)}" if due else "now"


def ready_text(readiness: dict[str, Any] | None) -> str:
    if readiness is None:
        return "not looked at"
    word = "ready" if readiness["ready"] else "WOULD BE REFUSED"
    return f"{word} (looked at {instant(readiness['at'])} UTC)"


def _bytes_text(done: float, total: Any) -> str:
    if isinstance(total, int | float) and total > 0:
        return f"{size(done)} of {size(total)} ({min(done / total, 1):.0%})"
    return size(done)


def error_lines(error: dict[str, Any] | None) -> list[str]:
    if not error:
        return []
    lines = [f"{error.get('message', 'unknown error')} [{error.get('code', 'error')}]"]
    if error.get("hint"):
        lines.append(f"what to do: {error['hint']}")
    return lines


def verdict_lines(verdict: dict[str, Any] | None) -> list[str]:
    """The verdict with its reasons, and each facet with what was seen by whom."""
    if not verdict:
        return []
    reasons = verdict["reasons"] or ["every facet is verified"]
    lines = [f"verdict: {verdict['word']}", *(f"  - {reason}" for reason in reasons)]
    for facet in verdict["facets"]:
        kind = "required" if facet["required"] else "optional"
        lines.append(f"  {facet['name']:<11} {facet['state']:<11} {kind}")
        for proof in facet["proofs"]:
            holds = "" if proof["holds"] else "does not hold: "
            lines.append(f"      {proof['observer']}: {holds}{proof['text']}")
    return lines
