"""One HTTP request of a probe, bounded as a whole: in time, in bytes, and in where it may lead.

No client library: their time limits hold for each read, and a server that dribbles keeps them for ever.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from refloat.errors import Failed
from refloat.policy import HttpCheck, Redirects, Tls

_HEAD = 64 << 10  # bytes of a status line and headers
_HOPS = 5
_LARGEST_SECRET = 8 << 10  # bytes of a header's file
_REDIRECT = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class HttpAnswer:
    """`cut`: there was more of the body. `elsewhere`: the status is a redirect that leads away from here."""

    status: int
    body: bytes
    cut: bool = False
    elsewhere: bool = False


def fetch(check: HttpCheck, place: tuple[str, int], address: str, port: int, timeout: float) -> HttpAnswer:
    """Asks the server at `place`, which stands for `address`:`port`. `timeout` is in seconds, for everything.

    Raises OSError (ssl.SSLError too) where nobody answers properly, Failed where a file of the check cannot
    be read or what came is no HTTP.
    """
    until = time.monotonic() + timeout
    host = check.host or (f"[{address}]" if ":" in address else address)
    standard = 80 if check.tls is Tls.OFF else 443
    origin = f"{'http' if check.tls is Tls.OFF else 'https'}://{host}" + (
        f":{port}" if port != standard else ""
    )
    url, headers = origin + check.path, _headers(check)
    for _ in range(_HOPS):
        with contextlib.closing(_connect(check, place, check.host or address, until)) as connection:
            connection.sendall(_request(url, headers))
            raw = _read(connection, _HEAD + check.largest, until)
        answer, location = parse(raw, check.largest)
        if answer.status not in _REDIRECT or not location or check.redirects is Redirects.NEVER:
            return answer
        after = urljoin(url, location)
        if not _same(origin, after):
            return HttpAnswer(answer.status, answer.body, answer.cut, elsewhere=True)
        url = after
    raise Failed(f"more than {_HOPS} redirects", code="too_many_redirects")


def _same(origin: str, url: str) -> bool:
    """Scheme, host and port; a URL that cannot be read is elsewhere."""
    try:
        here, there = urlsplit(origin), urlsplit(url)
        ports = {"http": 80, "https": 443}
        return (here.scheme, here.hostname, here.port or ports[here.scheme]) == (
            there.scheme,
            there.hostname,
            there.port or ports.get(there.scheme),
        ) and there.username is None
    except ValueError:
        return False


def _headers(check: HttpCheck) -> list[tuple[str, str]]:
    found = []
    for name, file in check.headers.items():
        try:
            with Path(file).open("rb") as handle:
                value = handle.read(_LARGEST_SECRET + 1).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Failed(
                f"the file of header {name} cannot be read: {type(error).__name__}",
                code="header_unreadable",
                hint=f"see {file}",
            ) from error
        if not value.isprintable() or not value.isascii() or len(value) > _LARGEST_SECRET:
            raise Failed(f"the file of header {name} does not hold one line of text", code="bad_header")
        found.append((name, value))
    return found


def _connect(check: HttpCheck, place: tuple[str, int], name: str, until: float) -> socket.socket:
    plain = socket.create_connection(place, timeout=max(until - time.monotonic(), 0.01))
    if check.tls is Tls.OFF:
        return plain
    try:
        context = ssl.create_default_context(cafile=check.ca or None)
        if check.tls is Tls.ANY:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        plain.settimeout(max(until - time.monotonic(), 0.01))
        return context.wrap_socket(plain, server_hostname=name)
    except BaseException:
        plain.close()
        raise


def _request(url: str, headers: list[tuple[str, str]]) -> bytes:
    """Printable ASCII only: what a redirect names must not become a header of its own."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "User-Agent: refloat-probe"]
    lines += ["Accept: */*", "Connection: close", *(f"{name}: {value}" for name, value in headers)]
    if any(not line.isprintable() or not line.isascii() for line in lines) or " " in target:
        raise Failed("a redirect leads to no usable address", code="bad_redirect")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _read(connection: socket.socket, most: int, until: float) -> bytes:
    """Until the other side closes, all is there, `most` bytes came, or the time is over (TimeoutError)."""
    got = b""
    while len(got) < most and not _complete(got):
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer did not end in time")
        connection.settimeout(left)
        more = connection.recv(64 << 10)
        if not more:
            break
        got += more
    return got[:most]


_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)


def _complete(got: bytes) -> bool:
    """For servers that keep the connection open although they were told to close it."""
    head, mark, body = got.partition(b"\r\n\r\n")
    if not mark:
        return False
    length = _LENGTH.search(head + b"\r\n")
    return len(body) >= int(length[1]) if length else got.endswith(b"\r\n0\r\n\r\n")


class _Bytes:
    """What HTTPResponse wants of a socket."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def parse(raw: bytes, largest: int) -> tuple[HttpAnswer, str]:
    """The answer, and where it redirects to. Raises Failed for what is no HTTP answer."""
    response = http.client.HTTPResponse(_Bytes(raw))  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read(largest + 1)
    except (http.client.IncompleteRead, http.client.HTTPException, ValueError, OSError) as error:
        if isinstance(error, http.client.IncompleteRead) and len(error.partial) >= largest:
            body = error.partial
        else:
            raise Failed(f"no proper HTTP answer: {type(error).__name__}", code="bad_answer") from error
    answer = HttpAnswer(response.status, body[:largest], len(body) > largest)
    return answer, response.headers.get("location", "")[:2000]
