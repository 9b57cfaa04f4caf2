"""A job as text: its facts, its steps, its verdict, and what the operator can do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refloat.cli.output import error_lines, facts, say, table, verdict_lines
from refloat.clock import seconds_between
from refloat.text import instant, span

_NEXT = {
    "awaiting_commit": "refloat job commit {id}, or refloat job rollback {id} --discard-writes",
    "test_active": "refloat job rollback {id} --discard-writes",
    "blocked": "mend the cause, then refloat job resume {id}",
}


def print_job(job: dict[str, Any]) -> None:
    facts(
        [
            ("job", job["id"]),
            ("target", job["target"]),
            ("mode", job["mode"]),
            ("state", job["state"]),
            ("created", instant(job["created"]) + " UTC"),
            ("finished", instant(job["finished"]) + " UTC" if job["finished"] else ""),
            ("abort", "asked for" if job["abort_requested"] else ""),
        ]
    )
    if job["decision"]:
        say(f"decision: {job['decision']['action']}")
        for reason in job["decision"]["reasons"]:
            say(f"  - {reason}")
    if job.get("remediation"):
        say(f"remediation in the guest: {_remediation(job['remediation'])}")
    for line in console_lines(job.get("console") or []):
        say(line)
    say()
    rows = [row for step in job["steps"] for row in (_step_row(step), *_earlier_rows(step))]
    table(("STEP", "PHASE", "STARTED", "TOOK", "RESULT"), rows, "no steps yet")
    say()
    _print_end(job)


def print_outcome(job: dict[str, Any], evidence: Path | None = None) -> None:
    """What a watched job ended with. With evidence, the last line is `verdict: WORD  evidence: PATH`."""
    say()
    say(f"job {job['id']} is {job['state']}")
    _print_end(job)
    if evidence:
        word = job["verdict"]["word"] if job["verdict"] else "none"
        say(f"verdict: {word}  evidence: {evidence}")


def _print_end(job: dict[str, Any]) -> None:
    for line in error_lines(job["error"]):
        say(line)
    for line in verdict_lines(job["verdict"]):
        say(line)
    if job["verdict"]:
        say("application health is not proven by this verdict")
    if job["state"] in _NEXT:
        say(f"next: {_NEXT[job['state']].format(id=job['id'])}")


def _remediation(found: dict[str, Any]) -> str:
    return f"{found['status'].replace('_', ' ')} since {instant(found['at'])} UTC ({found['why']})"


_SIGHTS = 6  # lines of a console that changes again and again; the evidence has more


def console_lines(sights: list[dict[str, Any]]) -> list[str]:
    """What the console showed, the latest last."""
    lines = [f"  {instant(sight['at'])} {sight['where']}: {_sight(sight)}" for sight in sights[-_SIGHTS:]]
    return ["console of the recovered VM:", *lines] if lines else []


def _sight(sight: dict[str, Any]) -> str:
    name = sight["state"].replace("-", " ")
    return f'{name}: "{sight["words"]}"' if name else "something else"


def _step_row(step: dict[str, Any]) -> tuple[str, ...]:
    result = "failed" if step["error"] else "done" if step["finished"] else "under way"
    if step["attempts"] > 1:
        result += f", {step['attempts']} attempts"
    return step["step"], step["phase"], step["started"][11:19], _took(step), _with_message(result, step)


def _earlier_rows(step: dict[str, Any]) -> list[tuple[str, ...]]:
    """The attempts before the last one, whose outcome is the step's."""
    rows: list[tuple[str, ...]] = []
    for attempt in step.get("history", [])[:-1]:
        result = _with_message("failed" if attempt["finished"] else "interrupted", attempt)
        place = f"  attempt {attempt['number']}"
        rows.append((place, step["phase"], attempt["started"][11:19], _took(attempt), result))
    return rows


def _took(part: dict[str, Any]) -> str:
    return span(max(seconds_between(part["started"], part["finished"]), 0)) if part["finished"] else ""


def _with_message(result: str, part: dict[str, Any]) -> str:
    return f"{result}: {part['error'].get('message', '')}" if part["error"] else result
