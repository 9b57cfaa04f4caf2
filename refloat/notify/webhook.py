"""One POST to a webhook's receiver: signed, bounded in time and bytes, redirects not followed, no proxy."""

from __future__ import annotations

import http.client
import socket
import time
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from refloat import __version__
from refloat.errors import Failed
from refloat.notices import Notice
from refloat.notify.bounded import QUIET, SHOWN, WHOLE, ends_within, in_words, trusting
from refloat.notify.channels import Webhook
from refloat.notify.render import body, signed
from refloat.text import safe

_MOST = 4096  # bytes read of an answer
_FOR_WORDS = 2.0  # seconds for what comes after the status


def post(channel: Webhook, notice: Notice, url: str, whole: float = WHOLE) -> str:
    """What the receiver answered with 2xx. Raises Failed for everything else, Refused (secret) where the
    channel's secret cannot be read."""
    content = body(notice, url)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"refloat/{__version__}",
        "Connection": "close",
        **signed(notice, content, channel.secret.read(), int(time.time())),
    }
    parts = urlsplit(channel.url)
    tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)
    try:
        with socket.create_connection((host, port), timeout=QUIET) as plain, ends_within(whole, plain):
            sock = trusting(channel.ca).wrap_socket(plain, server_hostname=host) if tls else plain
            with sock:
                return _exchange(sock, parts, content, headers)
    except (OSError, http.client.HTTPException) as error:
        raise Failed(
            f"{channel.where}: {in_words(error)}", code="not_delivered", hint="is the receiver up?"
        ) from error


def _exchange(sock: socket.socket, parts: SplitResult, content: bytes, headers: dict[str, str]) -> str:
    connection = http.client.HTTPConnection(parts.netloc)
    connection.sock = sock
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("POST", path, content, headers)
    answer = connection.getresponse()
    sock.settimeout(_FOR_WORDS)
    said = b""
    with suppress(OSError, http.client.HTTPException):  # the status has decided
        said = answer.read1(_MOST)
    return _judged(answer.status, said)


def _judged(status: int, said: bytes) -> str:
    words = safe(said.decode("utf-8", "replace").strip())[:SHOWN]
    answer = f"{status} {http.client.responses.get(status, '')}".strip() + (f": {words}" if words else "")
    if 200 <= status < 300:
        return answer
    hint = "redirects are not followed: name the address itself" if 300 <= status < 400 else "see its log"
    raise Failed(f"the receiver answered {answer}", code="not_delivered", hint=hint)
