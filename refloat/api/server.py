"""`refloat serve`: opens the hub, serves the API, and ends cleanly when it is told to."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from refloat.config import Config
from refloat.errors import Refused
from refloat.logs import configure

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

log = logging.getLogger(__name__)

_GRACE = 5  # seconds that open requests get when the hub is stopped
_BACKLOG = 128


def serve(config: Config, extend: Callable[[FastAPI], None] | None = None, take_estate: bool = False) -> None:
    """Serves until SIGTERM or SIGINT; `extend` puts more onto the API's application, such as the page.
    Raises Refused when the address cannot be had.

    The address is taken before the hub is opened: a second hub must not touch the first one's jobs.
    """
    configure(config.log_level, config.log_format)
    from refloat.tls import pair_of

    pair = pair_of(config)
    listener = bind(*config.address)
    if pair is None:
        warn_where_overheard(config.address[0])
    signals = _Signals()
    with listener:
        token = ensure_token(config.token_file)
        from refloat.api.reports import ReportServer, callback_of
        from refloat.hub import open_hub

        reports = ReportServer(config) if config.report_url else None
        hub = open_hub(config, callback_of(config), take_estate)
        try:
            if reports:
                reports.start(hub.take_report)
            server = _server(hub, token, config, pair, extend)
            signals.server_takes_over()
            server.run(sockets=[listener])
        finally:
            if reports:
                reports.stop()
            hub.close()
    # A step that is acting may take minutes; it is done again after the next start, as after a kill.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, or Refused (address_in_use, bad_address) in one line."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is given: else each answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Refused(
                f"{host}:{port} is in use",
                code="address_in_use",
                hint="a hub may be running already; stop it, or choose another address with REFLOAT_LISTEN",
            ) from error
        raise Refused(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            code="bad_address",
            hint="set `listen` to an address of this machine and a free port",
        ) from error
    return listener


def warn_where_overheard(host: str) -> None:
    """Of a hub that speaks plain HTTP: beyond loopback, whoever is on the way reads passwords and tokens."""
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        log.warning(
            "listening on %s without TLS: passwords and tokens can be read on the way; "
            "set tls_cert and tls_key, or listen on 127.0.0.1 behind a proxy that speaks TLS",
            host,
        )


def ensure_token(file: Path) -> str:
    """The API token; made (random, readable by the owner only) where there is none.

    The file appears whole or not at all: a hub that dies here leaves no empty token.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not file.exists():
        draft = file.with_name(f"{file.name}.{os.getpid()}.new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_urlsafe(32) + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.rename(draft, file)
    token = file.read_text().strip()
    if len(token) < 16:
        raise Refused(
            f"{file} holds no usable token", code="bad_config", hint="delete it: the hub makes a new one"
        )
    if file.stat().st_mode & 0o077:
        log.warning("%s can be read by others: chmod 600 it", file)
    return token


class _Signals:
    """SIGTERM and SIGINT: before the server runs they end the process; then it handles them itself.

    uvicorn raises a signal that it handled once more when it has stopped. That one is ignored, so
    that the hub is closed and the exit status is 0.
    """

    def __init__(self) -> None:
        self._serving = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def server_takes_over(self) -> None:
        self._serving = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._serving:
            raise SystemExit(128 + number)


def _server(
    hub: Any,
    token: str,
    config: Config,
    pair: tuple[Path, Path] | None,
    extend: Callable[[FastAPI], None] | None,
) -> uvicorn.Server:
    import uvicorn

    from refloat.api.app import create_app
    from refloat.api.connections import Prompt

    app = create_app(hub, token, hosts=config.hosts)
    if extend is not None:
        extend(app)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready = f"hub ready at {config.url}, data in {config.data_dir}"
                print(f"refloat {app.version}: {ready}", flush=True)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.stopping = True  # ends the long polls
            super().handle_exit(sig, frame)

    certificate, key = pair or (None, None)
    settings = uvicorn.Config(
        app,
        http=Prompt,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE,
        server_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=None if key is None else str(key),
    )
    return Server(settings)
