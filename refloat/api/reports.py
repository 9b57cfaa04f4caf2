"""Where guests send their reports: one address of its own, that answers nothing else.

A recovered guest is in a network of which the hub trusts nothing. So this is another listener than the API's,
on another port: POST /api/v1/reports/JOB with one report as the body, at most 64 KiB; the answer to one that
was kept is "ack N". All of the rest is refused with a status and a word.

    200 kept, or known already      400 no report      403 not from this job's guest
    410 too late                    413 too large      429 too many
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from refloat.api.certificate import own_certificate
from refloat.config import Config
from refloat.errors import RefloatError, Refused
from refloat.model import Callback
from refloat.reports import REPORT_LIMIT, ReportRejected

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger(__name__)

PATH = "/api/v1/reports/"
_JOB = re.compile(re.escape(PATH) + r"([A-Za-z0-9][A-Za-z0-9._-]{0,127})")
_BODY_WITHIN = 15.0  # seconds
_CONNECTED_FOR = 20.0  # seconds: one report and its answer, from the first byte to the last
_MOST_AT_ONCE, _MOST_OF_ONE = 64, 16  # connections, in all and from one address
_MOST_CLIENTS = 1024  # whose pace is remembered
_STATUS = {"report_over": 410, "report_forged": 403, "report_foreign": 403}
_STARTS_WITHIN = 10.0  # seconds

Take = Callable[[str, bytes], int]


class Pace:
    """At most `burst` at once and `rate` a second from one sender; old senders are forgotten."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, sender: str) -> bool:
        at = self._clock()
        left, before = self._known.pop(sender, (float(self._burst), at))
        left = min(float(self._burst), left + (at - before) * self._rate)
        allowed = left >= 1
        self._known[sender] = (left - 1 if allowed else left, at)
        while len(self._known) > _MOST_CLIENTS:
            self._known.popitem(last=False)
        return allowed


class _TooLargeError(Exception):
    """The body goes beyond the limit."""


def create_report_app(take: Take, clock: Callable[[], float] = time.monotonic) -> ASGIApp:
    """`take` keeps one report of a job and returns the number to acknowledge: callback.accept."""
    # A guest sends again every few seconds; all of them, and whoever else, must not keep a core busy. A job
    # has twice the pace of one address: somebody at another cannot use up alone what its guest needs.
    address, of_job, everybody = Pace(2, 20, clock), Pace(4, 40, clock), Pace(50, 100, clock)

    def slower(sender: str, job: str) -> bool:
        """The pace of all comes last: what is refused before it takes nothing from the others."""
        return not (address.allows(sender) and (not job or of_job.allows(job)) and everybody.allows(""))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        client = scope.get("client")
        found = _JOB.fullmatch(scope["path"])
        if slower(str(client[0]) if client else "", found.group(1) if found else ""):
            status, text = 429, "slower"
        elif found is None or scope["method"] != "POST":
            status, text = 404, "nothing here"
        else:
            status, text = await _answer(take, found.group(1), receive)
        headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
        content = f"{text}\n".encode()
        headers.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


async def _answer(take: Take, job: str, receive: Receive) -> tuple[int, str]:
    """Nothing of what was sent is in the answer, and little of it in the log."""
    try:
        body = await asyncio.wait_for(_body(receive), _BODY_WITHIN)
        return 200, f"ack {await asyncio.to_thread(take, job, body)}"
    except _TooLargeError:
        return 413, "too large"
    except TimeoutError:
        return 408, "too slow"
    except ReportRejected as error:
        log.info("a report by HTTPS for job %s was rejected: %s", job, error.message)
        return _STATUS.get(error.code, 400), error.code
    except RefloatError as error:
        log.warning("a report for job %s: %s", job, error)
        return 503, "try again"


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if len(body) > REPORT_LIMIT:
            raise _TooLargeError
        if not message.get("more_body", False):
            return body


# ---------------------------------------------------------------- as a server


def certificate_of(config: Config) -> tuple[Path, Path] | None:
    """Certificate and key; None for plain HTTP. Raises Refused where a file of the operator's is missing."""
    if not config.report_tls:
        return None
    if config.report_cert is None or config.report_key is None:
        return own_certificate(config.data_dir / "tls", config.report_host)
    for file in (config.report_cert, config.report_key):
        if not file.is_file():
            raise Refused(f"there is no {file}", code="bad_config", hint="see report_cert and report_key")
    return config.report_cert, config.report_key


def callback_of(config: Config) -> Callback | None:
    """What guests are told; None where no address for reports is configured."""
    if not config.report_url:
        return None
    pair = certificate_of(config)
    trusted = config.report_ca or (pair[0] if pair else None)
    own = config.report_cert is None
    return Callback(config.report_url.rstrip("/") + PATH, trusted.read_text() if trusted else "", own)


class _Brief(H11Protocol):
    """A connection that says nothing still counts among the most at once: a guest that keeps many open would
    silence all others. So each is short, and one address has a few of them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end = self.loop.call_later(_CONNECTED_FOR, transport.abort)
        others = (getattr(one, "client", None) for one in self.connections)
        if sum(other[:1] == (self.client or ())[:1] for other in others if other) > _MOST_OF_ONE:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        super().connection_lost(exc)


class ReportServer:
    """The listener, in a thread of its own. The address is taken at once, and answers from `start` on."""

    def __init__(self, config: Config) -> None:
        from refloat.api.server import bind

        self._pair = certificate_of(config)
        self._listener = bind(*config.report_address)
        self.port = int(self._listener.getsockname()[1])
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, take: Take) -> None:
        """Raises Refused where the certificate cannot be used."""
        import uvicorn

        certificate, key = self._pair or (None, None)
        settings = uvicorn.Config(
            create_report_app(take),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # no proxy is there: a guest is not asked where it comes from
            http=_Brief,
            lifespan="off",
            limit_concurrency=_MOST_AT_ONCE,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
            ssl_certfile=certificate,
            ssl_keyfile=None if key is None else str(key),
        )
        server = self._server = uvicorn.Server(settings)
        run = threading.Thread(
            target=server.run, kwargs={"sockets": [self._listener]}, name="reports", daemon=True
        )
        self._thread = run
        run.start()
        deadline = time.monotonic() + _STARTS_WITHIN
        while not server.started:
            if not run.is_alive() or time.monotonic() > deadline:
                raise Refused(
                    "the address for reports does not come up",
                    code="bad_config",
                    hint="do report_cert and report_key belong together? see the log",
                )
            time.sleep(0.02)

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._listener.close()
