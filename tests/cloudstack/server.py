"""The HTTP server around the edge, and what a test does with it besides requests."""

import contextlib
import datetime as dt
import json
import socket
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.cloudstack.cloud import Cloud
from tests.cloudstack.edge import Edge
from tests.cloudstack.estate import Estate, furnish
from tests.cloudstack.faults import Faults
from tests.cloudstack.model import Key

PATH = "/client/api"


@dataclass(frozen=True)
class Disk:
    """A disk as the running guest sees it."""

    device: int
    serial: str
    volume: str
    content: bytes


class CloudStack:
    """One modelled CloudStack. `with CloudStack() as server:` listens on 127.0.0.1, on a free port."""

    def __init__(self, folder: Path | None = None) -> None:
        self._own = tempfile.TemporaryDirectory(prefix="cloudstack-") if folder is None else None
        where = Path(self._own.name) if self._own is not None else folder
        assert where is not None
        self.cloud = Cloud(where)
        self.estate: Estate = furnish(self.cloud)
        self.clock = self.cloud.clock
        self.jobs = self.cloud.jobs
        self.faults = Faults()
        self.crashes: list[str] = []
        self.skew = dt.timedelta(0)
        self.tick = 1.0  # virtual seconds that each request takes
        self.edge = Edge(self.cloud, lambda: dt.datetime.now(dt.UTC) + self.skew)
        self.lock = self.jobs.lock
        self._http: _Server | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    def __enter__(self) -> "CloudStack":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._own is not None:
            self._own.cleanup()

    def start(self) -> None:
        self._http = _Server(self.port, self)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._http is None or self._thread is None:
            return
        self._http.shutdown()
        self._http.cut()
        self._http.server_close()
        self._thread.join()
        self._http = None

    def restart(self, jobs: str = "keep") -> None:
        """The management server goes and comes back on the same port.

        jobs: "keep": they go on (another management server runs them). "fail": those under way end as
        failed, as
        a restart of the one server does it. "lose": the same, and their ids are no longer known.
        """
        assert jobs in ("keep", "fail", "lose")
        self.stop()
        if jobs != "keep":
            for job in self.jobs.pending():
                self.jobs.cancel(job, "job cancelled because of management server restart or shutdown")
        if jobs == "lose":
            self.jobs.lost |= set(self.jobs.all)
        self.start()

    def advance(self, seconds: float) -> None:
        """Virtual time passes: due jobs go on, those of 60 minutes are cancelled, the throttle starts
        anew."""
        with self.lock:
            self.clock.advance(seconds)
            self.edge.spent = 0
            self.jobs.step()

    def add_key(self, key: Key) -> Key:
        self.cloud.keys[key.api] = key
        return key

    def check(self) -> None:
        """Raises AssertionError for each command or parameter that CloudStack does not publish."""
        assert not self.crashes, "the model itself failed:\n" + "\n".join(self.crashes)
        assert not self.edge.unpublished, "not published by CloudStack: " + "; ".join(self.edge.unpublished)

    # What lies on the disks, and what a running guest does and sees.

    def content(self, volume: str) -> bytes:
        return self.cloud.content(volume).read_bytes()

    def write(self, volume: str, data: bytes, offset: int = 0) -> None:
        """Data of the storage's side; a guest's writes come through write_in_guest."""
        path = self.cloud.content(volume)
        old = path.read_bytes().ljust(offset, b"\0")
        path.write_bytes(old[:offset] + data + old[offset + len(data) :])

    def disks_in_guest(self, vm: str) -> list[Disk]:
        """The disks of a running VM in the order of their devices; the first, device 0, is what boots."""
        assert self.cloud.vms[vm].state == "Running", f"{vm} does not run"
        found = self.cloud.volumes_of(vm)
        return [Disk(item.device or 0, item.serial, item.id, self.content(item.id)) for item in found]

    def write_in_guest(self, vm: str, serial: str, data: bytes, offset: int = 0) -> None:
        disk = next(disk for disk in self.disks_in_guest(vm) if disk.serial == serial)
        self.write(disk.volume, data, offset)

    def handle(self, raw: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """A fault of the model itself is answered as an internal error, and fails the test in check()."""
        with self.lock:
            try:
                self.clock.advance(self.tick)
                self.jobs.step()
                return self.edge.answer(raw)
            except Exception as error:
                self.crashes.append("".join(traceback.format_exception(error)))
                return 530, {"errorresponse": {"uuidList": [], "errorcode": 530, "errortext": repr(error)}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, port: int, cloudstack: CloudStack) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.cloudstack = cloudstack
        self.open: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.open.add(connection)
        return connection, address

    def cut(self) -> None:
        """Ends kept-alive connections too: a server that stopped answers nobody."""
        for connection in self.open:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One request: its faults first, then the edge."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: else each answer takes 40 ms more

    def do_GET(self) -> None:
        self._serve(urlsplit(self.path).query)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        self._serve("&".join(part for part in (urlsplit(self.path).query, body) if part))

    def _serve(self, query: str) -> None:
        if urlsplit(self.path).path != PATH:
            self._send(404, b"not found", "text/plain")
            return
        raw = dict(parse_qsl(query, keep_blank_values=True))
        name = next((value for key, value in raw.items() if key.lower() == "command"), "")
        with self.server.cloudstack.lock:
            fault = self.server.cloudstack.faults.next(name)
        if fault is None:
            self._answer(*self.server.cloudstack.handle(raw))
        elif fault.kind in ("error", "page"):
            self._fail(name, fault.kind, fault.code, fault.text)
        else:
            self._lose(raw, fault.kind, fault.seconds)

    def _fail(self, name: str, kind: str, code: int, text: str) -> None:
        if kind == "page":
            self._send(code, f"<html><body>{text}</body></html>".encode(), "text/html")
            return
        body = {"uuidList": [], "errorcode": code, "cserrorcode": 9999, "errortext": text}
        self._answer(code, {f"{name.lower()}response": body})

    def _lose(self, raw: dict[str, str], kind: str, seconds: float) -> None:
        """The request is carried out or not, and its answer does not arrive."""
        self.close_connection = True
        if kind == "close_before":
            return
        status, body = self.server.cloudstack.handle(raw)
        if kind == "garbage":
            text = json.dumps(body).encode()
            self._send(status, text[: len(text) // 2], "application/json")
        elif kind == "hang":
            time.sleep(seconds)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, json.dumps(body).encode(), "application/json;charset=UTF-8")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
