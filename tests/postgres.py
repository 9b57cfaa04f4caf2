"""A PostgreSQL server of the tests' own: on a Unix socket in a folder of its own, by an unprivileged user.

The distribution's binaries; nothing of a server that runs on this machine is touched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from refloat.store.postgres import Server

WITHIN = 60.0  # seconds
USER = "postgres"
PRIVILEGED = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}


def binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    assert found, "no PostgreSQL server: run script/setup --dev, or apt-get install postgresql"
    return found[-1].parent


def as_user(*argv: str | Path) -> list[str]:
    """PostgreSQL does not run as root. It ends with the tests, however those end."""
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--pdeathsig=SIGQUIT"]
    return [*(drop if os.getuid() == 0 else []), *map(str, argv)]


class Cluster:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="refloat-pg-"))  # short: a socket's path has 107 bytes
        self.password = secrets.token_hex(16)
        self.password_file = self.folder / "password"
        self.password_file.write_text(self.password + "\n")
        self.password_file.chmod(0o600)
        self._log = (self.folder / "log").open("wb")
        if os.getuid() == 0:
            for path in (self.folder, self.password_file):
                shutil.chown(path, USER, USER)
        self._run("initdb", "--auth=scram-sha-256", f"--pwfile={self.password_file}", "--no-sync")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _run(self, program: str, *argv: str) -> None:
        command = as_user(binaries() / program, "-D", self.folder / "data", "--username=refloat", *argv)
        subprocess.run(command, check=True, stdout=self._log, stderr=self._log, env=PRIVILEGED)

    def start(self) -> None:
        """Returns when it answers."""
        deadline = time.monotonic() + WITHIN
        while True:
            if self._process is None or self._process.poll() is not None:
                options = ("-k", self.folder, "-c", "listen_addresses=", "-c", "fsync=off")
                command = as_user(binaries() / "postgres", "-D", self.folder / "data", *options)
                self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=PRIVILEGED)
            try:
                self.execute("SELECT 1")
                return
            except OperationalError:
                said = (self.folder / "log").read_text(errors="replace")
                assert time.monotonic() < deadline, f"PostgreSQL does not come up: {said[-2000:]}"
                time.sleep(0.05)

    def kill(self) -> None:
        """-9 to all of its processes: nothing is written any more."""
        assert self._process is not None
        main = self._process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for number in (main, *map(int, children)):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()

    def url(self, database: str) -> str:
        return f"postgresql://refloat@/{database}?host={self.folder}"

    def server(self, database: str) -> Server:
        return Server(self.url(database), self.password_file)

    def execute(self, statement: str) -> None:
        engine = self.server("postgres").engine(poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))

    def database(self) -> str:
        """A new one."""
        name = f"t{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # "fast": sessions are ended
            self._process.wait(timeout=WITHIN)
        self._log.close()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()
