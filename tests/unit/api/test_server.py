"""`refloat serve`: the token file, the address, and a start and an end that are clean."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from refloat.api.connections import Prompt
from refloat.api.server import bind, ensure_token, warn_where_overheard
from refloat.errors import Refused

ROOT = Path(__file__).parents[3]

# The real server, signals and CLI around a hub in memory, which says when it is closed.
PROGRAM = """
import sys, types
from tests.unit.api.fake_hub import FakeHub
hub = types.ModuleType("refloat.hub")
def open_hub(config, callback, take_estate):
    made = FakeHub()
    made.run_job()
    made.close = lambda: print("hub closed", flush=True)
    return made
hub.open_hub = open_hub
sys.modules["refloat.hub"] = hub
from refloat.cli.main import main
sys.argv = ["refloat", "serve"]
main()
"""


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.2", "::", "[2001:db8::1]", "hub.example"])
def test_a_warning_beyond_loopback(host: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_where_overheard(host)
    assert [(line.levelname, host in line.message) for line in caplog.records] == [("WARNING", True)]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_no_warning_on_loopback(host: str, caplog: pytest.LogCaptureFixture) -> None:
    warn_where_overheard(host)
    assert not caplog.records


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(tmp_path: Path, port: int) -> subprocess.Popen[str]:
    env = {**os.environ, "REFLOAT_DATA_DIR": str(tmp_path), "REFLOAT_LISTEN": f"127.0.0.1:{port}"}
    env.pop("REFLOAT_CONFIG", None)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_and_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    server = start(tmp_path, port)
    try:
        assert server.stdout is not None
        assert f"hub ready at http://127.0.0.1:{port}" in server.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/health") as answer:
            assert answer.status == 200
        poll = socket.create_connection(("127.0.0.1", port))
        token = (tmp_path / "api-token").read_text().strip()
        path = "/api/v1/jobs/web-abc123/events?after=99&wait=25"
        poll.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        time.sleep(0.3)
        server.send_signal(number)
        stopped = time.monotonic()
        rest, errors = server.communicate(timeout=20)
        assert poll.recv(4096).startswith(b"HTTP/1.1 200")
        poll.close()
    finally:
        server.kill()
    assert server.returncode == 0, errors
    assert rest == "hub closed\n" and "Traceback" not in errors
    assert time.monotonic() - stopped < 4  # the long poll did not hold it up


def test_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        server = start(tmp_path, port)
        out, errors = server.communicate(timeout=20)
    assert server.returncode == 3 and out == ""
    assert f"127.0.0.1:{port} is in use" in errors and "Traceback" not in errors
    assert not (tmp_path / "api-token").exists()


def test_address_of_another_machine() -> None:
    with pytest.raises(Refused, match=r"cannot listen on 192\.0\.2\.1"):
        bind("192.0.2.1", 8410)


def test_token_file_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "data" / "api-token"
    token = ensure_token(file)
    assert len(token) >= 40 and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert ensure_token(file) == token
    assert [entry.name for entry in file.parent.iterdir()] == ["api-token"]


def test_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "api-token").write_text("\n")
    with pytest.raises(Refused, match="no usable token"):
        ensure_token(tmp_path / "api-token")


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """asyncio sets TCP_NODELAY only where the listener says that it is TCP: 40 ms for each answer else."""
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_client_that_does_not_say_what_it_wants_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refloat.api.connections.HEADERS_WITHIN", 0.3)
    silent, slow = b"", b"GET /api/v1/health HTTP/1.1\r\nHos"

    async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1.5)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with running(slowly) as port:
        for words in (silent, slow):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as one, suppress(ConnectionError):
                one.sendall(words)
                assert one.recv(1) == b""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert answer.read() == b"ok"


@contextmanager
def running(app: ASGIApp) -> Iterator[int]:
    with bind("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, http=Prompt, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
