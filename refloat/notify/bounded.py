"""An end to every delivery. The time limits of Python's libraries hold for each read: a server that dribbles
would keep them for ever."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from refloat.errors import Failed
from refloat.text import safe

QUIET = 10.0  # seconds that the other side may say nothing
WHOLE = 30.0  # seconds for one delivery
SHOWN = 200  # characters that are told of what the other side said


@contextmanager
def ends_within(seconds: float, connected: socket.socket) -> Iterator[None]:
    """Shuts the connection down when the time is over. Raises TimeoutError then, instead of what that led
    to. TLS may be put around the socket meanwhile: what is shut is a duplicate of it."""
    over = threading.Event()
    duplicate = connected.dup()

    def shut() -> None:
        over.set()
        with suppress(OSError):
            duplicate.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if over.is_set():
            raise TimeoutError(f"not done within {seconds:.0f} s") from error
        raise
    finally:
        timer.cancel()
        duplicate.close()
    if over.is_set():  # what was cut off may look like an end
        raise TimeoutError(f"not done within {seconds:.0f} s")


def trusting(ca: Path | None) -> ssl.SSLContext:
    """Certificates and names are always checked. `ca` may be a single certificate that is nobody's
    authority. Raises Failed (bad_tls)."""
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise Failed(f"cannot use {ca}: {error}", code="bad_tls", hint="`ca` is a PEM file") from error
    if ca is not None:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def in_words(error: Exception) -> str:
    """What went wrong on the way."""
    match error:
        case TimeoutError():
            return str(error) if str(error).startswith("not done") else f"no answer within {QUIET:.0f} s"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case OSError() if error.strerror:
            return error.strerror
    return safe(f"{type(error).__name__}: {error}")[:SHOWN]
