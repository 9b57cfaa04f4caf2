"""A CloudStack server that kills the hub at each order that it gives, and hubs that go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from refloat.model import Verdict
from refloat.run import KILL_AT
from refloat.store.store import Job, Store
from tests.cloudstack.server import CloudStack

WITHIN = 120.0
QUESTIONS = ("list", "query")


class Killing(CloudStack):
    """Carries an order out, kills the hub that gave it, and answers nobody; each order strikes once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.hub: subprocess.Popen[bytes] | None = None
        self.kills = True
        self.struck: list[str] = []

    def handle(self, raw: dict[str, str]) -> tuple[int, dict[str, Any]]:
        answer = super().handle(raw)
        command = raw.get("command", "")
        own = {"apiKey", "signature", "expires", "signatureVersion", "response"}
        order = command + " " + str(sorted((key, value) for key, value in raw.items() if key not in own))
        if (
            self.kills
            and self.hub is not None
            and not command.startswith(QUESTIONS)
            and order not in self.struck
        ):
            self.struck.append(order)
            self.hub.kill()
        return answer


class Hubs:
    """Hubs over what is in `directory`, one after the other."""

    def __init__(self, directory: Path, server: Killing) -> None:
        self.directory, self.server = directory, server
        self.kills = 0

    def until_done(self, what: str) -> None:
        argv = [sys.executable, "-m", "tests.crash.cloudstack_process", str(self.directory), what]
        deadline = time.monotonic() + 2 * WITHIN
        while True:
            assert time.monotonic() < deadline, f"{what} does not come to its end"
            self.server.hub = subprocess.Popen(argv, env=dict(os.environ), stderr=subprocess.PIPE)
            _, said = self.server.hub.communicate(timeout=WITHIN)
            code = self.server.hub.returncode
            self.server.hub = None
            if code == 0:
                return
            assert code == -9, said.decode()[-3000:]
            self.kills += 1

    def killed_at(self, what: str, point: str) -> None:
        """A hub that ends itself by SIGKILL at this mark of adding or removing."""
        argv = [sys.executable, "-m", "tests.crash.cloudstack_process", str(self.directory), what]
        environment = {**os.environ, KILL_AT: f"provision:{point}"}
        done = subprocess.run(argv, env=environment, capture_output=True, check=False, timeout=WITHIN)
        assert done.returncode == -signal.SIGKILL, (point, done.returncode, done.stderr.decode()[-3000:])

    def job(self) -> tuple[Job, Verdict | None]:
        store = Store.open(self.directory / "hub/refloat.sqlite")
        try:
            job = next(iter(store.jobs()))
            return job, store.load(job.id, "verdict", Verdict)
        finally:
            store.engine.dispose()
