"""The hub is killed with SIGKILL while it tells of a job: every notice arrives, each with one id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.notify.courier import KILL_AFTER
from refloat.simulated.world import World
from tests.crash.hub_process import ONE
from tests.unit.notify.receivers import Receiver

WITHIN = 120.0  # seconds for one hub


class Telling:
    """Hubs over one directory, and the receiver of what they tell. `strikes` are ids at whose first request
    the hub was killed, before it got an answer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        World(directory / "world").protect(ONE)
        self.receiver = Receiver()
        self.receiver.at_request = self._strike
        self.strikes: set[str] = set()
        self.striking = False
        self.hub: subprocess.Popen[bytes] | None = None
        (directory / "secret").write_text("hush")
        channel = {
            "name": "ops",
            "webhook": self.receiver.url,
            "secret": {"file": str(directory / "secret")},
            "events": "job",
        }
        (directory / "notify.json").write_text(json.dumps([channel]))

    def _strike(self) -> None:
        told = self.receiver.got[-1][1]["webhook-id"]
        if self.striking and told not in self.strikes and self.hub:
            self.strikes.add(told)
            self.hub.send_signal(signal.SIGKILL)
            self.hub.wait()

    def until_done(self, what: str, kill_after: str = "") -> int:
        """How often a hub was killed before one came to its end."""
        for kills in range(20):
            environment = {**os.environ, KILL_AFTER: kill_after if kills == 0 else ""}
            argv = [sys.executable, "-m", "tests.crash.hub_process", str(self.directory), what]
            self.hub = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE)
            _, said = self.hub.communicate(timeout=WITHIN)
            if self.hub.returncode == 0:
                return kills
            assert self.hub.returncode == -signal.SIGKILL, said.decode()[-3000:]
        raise AssertionError(f"{what} does not come to its end")

    def told(self) -> dict[str, list[int]]:
        """By kind: how often each of its ids came."""
        ids = Counter(
            (json.loads(body)["type"], headers["webhook-id"]) for _, headers, body in self.receiver.got
        )
        found: dict[str, list[int]] = {}
        for (kind, _), count in ids.items():
            found.setdefault(kind, []).append(count)
        return found


@pytest.fixture
def telling(tmp_path: Path) -> Iterator[Telling]:
    made = Telling(tmp_path)
    yield made
    made.receiver.close()
    World(tmp_path / "world").controller(ONE.controller).stopped()


@pytest.mark.timeout(300)
def test_every_notice_arrives_under_one_id(telling: Telling) -> None:
    """Killed before the answer of every first delivery; and, of the last notice, between the answer and the
    row that says so: nothing is lost, nothing becomes two."""
    telling.striking = True
    telling.until_done("planned")
    telling.until_done("deliver")
    assert telling.told() == {"job.started": [2], "job.verdict_succeeded": [2]} and len(telling.strikes) == 2
    telling.striking = False
    telling.until_done("rollback", kill_after="job.rolled_back")
    telling.until_done("deliver", kill_after="job.rolled_back")
    assert telling.told()["job.rolled_back"] == [2]
    # What the receiver has, and the hub knows of, does not come again.
    telling.until_done("deliver")
    assert {kind: sum(counts) for kind, counts in telling.told().items()} == {
        "job.started": 2,
        "job.verdict_succeeded": 2,
        "job.rolled_back": 2,
    }
