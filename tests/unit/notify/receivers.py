"""A receiver of webhooks and a mail server of the tests' own, on real sockets, with faults by name."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Receiver:
    """Answers each request with the next of `faults`, and 200 when there are none left. A fault is a status,
    or "hang", "drip", "drop", "big", "noise", "stay"."""

    def __init__(self, *faults: int | str, tls: tuple[Path, Path] | None = None) -> None:
        self.faults = list(faults)
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.at_request: Callable[[], None] = lambda: None
        self.over = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            def do_GET(self) -> None:
                receiver.take(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/hook?a=b"

    def take(self, request: BaseHTTPRequestHandler) -> None:
        content = request.rfile.read(int(request.headers.get("content-length", 0)))
        self.got.append((f"{request.command} {request.path}", dict(request.headers), content))
        self.at_request()
        fault = self.faults.pop(0) if self.faults else 200
        if isinstance(fault, int):
            request.send_response(fault)
            if 300 <= fault < 400:
                request.send_header("location", f"http://127.0.0.1:{self.port}/elsewhere")
            request.end_headers()
            request.wfile.write(b"said\x1b[2J\r\nthe receiver")
            return
        getattr(self, f"_{fault}")(request)

    def _hang(self, request: BaseHTTPRequestHandler) -> None:
        self.over.wait(60)

    def _drip(self, request: BaseHTTPRequestHandler) -> None:
        """A header that never ends, byte by byte."""
        try:
            request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not self.over.wait(0.05):
                request.wfile.write(b"x")
                request.wfile.flush()
        except OSError:
            pass

    def _drop(self, request: BaseHTTPRequestHandler) -> None:
        request.connection.close()

    def _big(self, request: BaseHTTPRequestHandler) -> None:
        """A body that is as long as the reader likes."""
        request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while not self.over.is_set():
                request.wfile.write(b"y" * 65536)
        except OSError:
            pass

    def _noise(self, request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"SSH-2.0-\x1b[2JOpenSSH_9.2\r\n\r\n")

    def _stay(self, request: BaseHTTPRequestHandler) -> None:
        """Takes it, and keeps the connection without saying how much comes."""
        request.wfile.write(b"HTTP/1.1 202 Accepted\r\n\r\n")
        self.over.wait(60)

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class MailServer:
    """Speaks enough SMTP for smtplib. `faults`: "greet", "no-starttls", "auth", "rcpt", "data", "drip"."""

    def __init__(self, *faults: str, tls: tuple[Path, Path] | None = None, at_once: bool = False) -> None:
        self.faults = set(faults)
        self.mails: list[tuple[list[str], bytes]] = []
        self.said: list[str] = []
        self.encrypted: list[bool] = []
        self._context: ssl.SSLContext | None = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*tls)
        self._at_once = at_once
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def open_it() -> None:
            context = self._context if self._at_once else None
            self._server = await asyncio.start_server(self._speak, "127.0.0.1", 0, ssl=context)
            self.port = self._server.sockets[0].getsockname()[1]
            started.set()

        self._loop.run_until_complete(open_it())
        self._loop.run_forever()

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._session(reader, writer)
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "drip" in self.faults:
            writer.write(b"220-")
            while not reader.at_eof():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
            return
        writer.write(b"554 not today\r\n" if "greet" in self.faults else b"220 tests ESMTP\r\n")
        receivers: list[str] = []
        while line := (await reader.readline()).decode().strip():
            word = line.partition(" ")[0].upper()
            self.said.append(line)
            if word == "STARTTLS":
                writer.write(b"220 go on\r\n")
                await writer.drain()
                assert self._context
                await writer.start_tls(self._context)
                continue
            if word == "DATA" and "data" not in self.faults:
                writer.write(b"354 end with a dot\r\n")
                content = await reader.readuntil(b"\r\n.\r\n")
                self.mails.append((receivers, content))
                self.encrypted.append(writer.get_extra_info("ssl_object") is not None)
                writer.write(b"250 kept\r\n")
                continue
            writer.write(self._answer(word, line, receivers, writer))
            await writer.drain()
            if word == "QUIT":
                return

    def _answer(self, word: str, line: str, receivers: list[str], writer: asyncio.StreamWriter) -> bytes:
        match word:
            case "EHLO":
                offers = ["tests", "AUTH PLAIN"]
                if self._context and "no-starttls" not in self.faults:
                    offers.insert(1, "STARTTLS")
                return b"".join(f"250-{offer}\r\n".encode() for offer in offers) + b"250 8BITMIME\r\n"
            case "AUTH":
                return b"535 no\r\n" if "auth" in self.faults else b"235 welcome\r\n"
            case "RCPT" if "rcpt" in self.faults and receivers:
                return b"550 nobody of that name\x1b[2J\r\n"
            case "RCPT":
                receivers.append(line.partition(":")[2])
            case "DATA":
                return b"452 no room\r\n"
            case "QUIT":
                return b"221 bye\r\n"
        return b"250 ok\r\n"

    def close(self) -> None:
        async def stop() -> None:
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
