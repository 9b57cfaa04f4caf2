from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from refloat.config import load_config
from refloat.errors import Refused
from refloat.logs import JsonLines, TextLines, within
from refloat.model import JobState, Mode
from refloat.simulated.world import Protected
from tests.unit.simulated.rig import Site


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("refloat.x", logging.WARNING, __file__, 1, message, (), None)


def test_a_line_says_within_what_it_was_written() -> None:
    assert "[" not in TextLines().format(record("outside"))
    with within(job="web-1"), within(step="start-vm"):
        assert TextLines().format(record("said")).endswith("refloat.x: said [job=web-1 step=start-vm]")
        line = json.loads(JsonLines().format(record('two\nlines "quoted"')))
        others: list[str] = []
        other = threading.Thread(target=lambda: others.append(TextLines().format(record("elsewhere"))))
        other.start()
        other.join()
    assert line["message"] == 'two\nlines "quoted"' and (line["job"], line["step"]) == ("web-1", "start-vm")
    assert line["level"] == "warning" and line["at"].endswith("+00:00")
    assert "web-1" not in others[0]
    assert "job" not in json.loads(JsonLines().format(record("afterwards")))


def test_a_traceback_is_part_of_its_object() -> None:
    try:
        raise ValueError("cause")
    except ValueError as error:
        failed = record("failed")
        failed.exc_info = (type(error), error, error.__traceback__)
    assert "ValueError: cause" in json.loads(JsonLines().format(failed))["error"]


def test_what_others_wrote_makes_no_line_of_the_log() -> None:
    """A path or an error's text with line ends in it would say what the hub never said."""
    forged = "\n2026-01-01 00:00:00,000 INFO refloat.audit: all is well\x1b[2J"
    try:
        raise ValueError(forged)
    except ValueError as error:
        failed = record(f"GET /jobs/{forged} failed")
        failed.exc_info = (type(error), error, error.__traceback__)
    first, *others = TextLines().format(failed).split("\n")
    assert "all is well" in first and others[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in others) and "\x1b" not in first + "".join(others)


def test_each_step_of_a_job_is_in_the_log(tmp_path: Path) -> None:
    one = Protected(1)
    site = Site(tmp_path, one)
    lines: list[dict[str, str]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonLines().format(record)))

    handler = Kept()
    logger = logging.getLogger("refloat.jobs.steps")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        site.sync(one)
        job = site.fail_over(one, Mode.PLANNED)
        assert site.hub.job(job).state is JobState.AWAITING_COMMIT
    finally:
        site.close()
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    done = [line["step"] for line in lines if line["message"] == "done"]
    assert done[0] == "preflight" and "start-vm" in done and len(done) == 14
    assert {(line["job"], line["target"], line["phase"]) for line in lines} == {(job, one.name, "do")}


@pytest.mark.parametrize("setting", ["log_level: loud", "log_format: xml"])
def test_an_unknown_setting_of_the_log_is_refused(tmp_path: Path, setting: str) -> None:
    file = tmp_path / "refloat.yaml"
    file.write_text(setting)
    with pytest.raises(Refused, match="is unknown"):
        load_config(file, {})
