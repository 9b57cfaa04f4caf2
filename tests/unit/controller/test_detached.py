"""Runs that outlive the command that started them. Each command is a process of its own, as in reality."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from refloat.controller.locks import is_held
from refloat.controller.paths import Paths

# Reads a line from the pipe "gate" before it ends: so a test decides when the work is done. The run is
# nobody's child: where even the test's clean-up is killed, the alarm ends it.
COMMAND = """
import json, os, signal, sys
from pathlib import Path
from refloat.controller.detached import run_once
from refloat.controller.paths import Paths
from refloat.errors import Failed, RefloatError

root, job = sys.argv[1:]

def work(run_dir, emit):
    signal.alarm(100)
    with open(run_dir / "starts", "a") as file:
        file.write(f"{os.getpid()}\\n")
    emit({"pid": os.getpid()})
    word = open(Path(root, "gate")).readline().strip()
    if word == "fail":
        raise Failed("it failed", code="test")
    return {"word": word}

def show(event):
    print(json.dumps(event), flush=True)

try:
    show({"data": run_once(Paths(root), job, work, show)})
except RefloatError as error:
    show(error.to_dict())
"""


class Machine:
    def __init__(self, root: Path) -> None:
        self.root = root
        os.mkfifo(root / "gate")
        self.commands: list[subprocess.Popen[str]] = []

    def call(self, job: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", COMMAND, str(self.root), job]
        command = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.commands.append(command)
        return command

    def say(self, word: str) -> None:
        (self.root / "gate").write_text(f"{word}\n")

    def starts(self, job: str) -> int:
        return len((self.root / "jobs" / job / "starts").read_text().splitlines())

    def close(self) -> None:
        for command in self.commands:
            command.kill()
            command.communicate()
        self._end_run()

    def _end_run(self) -> None:
        """The lock names the job, and the last of its runs to start is the one that holds it."""
        lock = Path(Paths(str(self.root)).adapt_lock)
        deadline = time.monotonic() + 10
        while is_held(str(lock)):
            assert time.monotonic() < deadline, "a run outlives its test"
            with suppress(FileNotFoundError, ProcessLookupError):
                starts = self.root / "jobs" / lock.read_text() / "starts"
                os.kill(int(starts.read_text().split()[-1]), signal.SIGKILL)
            time.sleep(0.01)


def next_event(command: subprocess.Popen[str]) -> dict[str, Any]:
    assert command.stdout
    event: dict[str, Any] = json.loads(command.stdout.readline())
    return event


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_progress_and_result_and_the_result_again(machine: Machine) -> None:
    first = machine.call("j1")
    assert "pid" in next_event(first)
    machine.say("done")
    assert next_event(first) == {"data": {"word": "done"}}
    assert next_event(machine.call("j1")) == {"data": {"word": "done"}}
    assert machine.starts("j1") == 1


def test_the_run_survives_its_command_and_the_next_call_attaches(machine: Machine) -> None:
    first = machine.call("j1")
    pid = next_event(first)["pid"]
    os.killpg(first.pid, signal.SIGKILL)  # the connection is lost: all of the session goes
    first.wait()
    second = machine.call("j1")
    assert next_event(second) == {"pid": pid}
    machine.say("done")
    assert next_event(second) == {"data": {"word": "done"}}
    assert machine.starts("j1") == 1


def test_another_job_is_busy_meanwhile(machine: Machine) -> None:
    first = machine.call("j1")
    next_event(first)
    refused = next_event(machine.call("j2"))
    assert (refused["code"], refused["kind"]) == ("busy", "refused") and "j1" in refused["message"]
    machine.say("done")
    assert "data" in next_event(first)
    second = machine.call("j2")
    next_event(second)
    machine.say("done")
    assert "data" in next_event(second)


def test_a_killed_run_is_noticed_and_run_again(machine: Machine) -> None:
    first = machine.call("j1")
    os.kill(next_event(first)["pid"], signal.SIGKILL)
    assert next_event(first)["code"] == "adapt_died"
    second = machine.call("j1")
    assert "pid" in next_event(second)
    machine.say("done")
    assert next_event(second) == {"data": {"word": "done"}}
    assert machine.starts("j1") == 2


def test_a_failed_run_tells_and_is_run_again(machine: Machine) -> None:
    first = machine.call("j1")
    next_event(first)
    machine.say("fail")
    assert next_event(first)["code"] == "test"
    second = machine.call("j1")
    next_event(second)
    machine.say("done")
    assert next_event(second) == {"data": {"word": "done"}}


def test_a_failed_test_leaves_no_run_behind(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    lock = Paths(str(tmp_path)).adapt_lock
    next_event(machine.call("j1"))
    assert is_held(lock)
    machine.close()
    assert not is_held(lock)


def test_a_job_id_is_no_path(machine: Machine) -> None:
    assert next_event(machine.call("../x"))["code"] == "bad_request"
