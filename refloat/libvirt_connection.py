"""One libvirt connection that survives a restart of libvirtd, and libvirt's errors as ours."""

from __future__ import annotations

import logging
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import libvirt

from refloat.errors import Failed, NotFound, RefloatError, Unreachable

log = logging.getLogger(__name__)

_loop_lock = threading.Lock()
_loop_started = False

_CONNECTION_CODES = {
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}
# What the client side itself says of its socket; an error of the far side keeps the far side's domain.
_CONNECTION_DOMAINS = {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE}


def start_event_loop() -> None:
    """Runs libvirt's event loop in a thread, once per process and before the first connection.

    Stream data and the end of a connection are only noticed while somebody reads the socket.
    """
    global _loop_started
    with _loop_lock:
        if _loop_started:
            return
        libvirt.registerErrorHandler(_ignore_error, None)  # the default prints every error to stderr
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_events, name="libvirt-events", daemon=True).start()
        _loop_started = True


def _ignore_error(_context: object, _error: object) -> None:
    """Errors arrive as exceptions; nothing to say twice."""


def _run_events() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:
            log.debug("libvirt's event loop: %s", error)


def is_connection_error(error: libvirt.libvirtError) -> bool:
    return error.get_error_code() in _CONNECTION_CODES or error.get_error_domain() in _CONNECTION_DOMAINS


def translate(error: libvirt.libvirtError, what: str) -> RefloatError:
    """The error of ours for one of libvirt's; `what` says what was tried ("start vm1")."""
    message = f"{what}: {error.get_error_message() or error}"
    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
        return NotFound(message, code="no_such_vm", hint="virsh list --all shows the names")
    if is_connection_error(error):
        return Unreachable(message, hint="is libvirtd running there, and may this user connect to it?")
    return Failed(
        message,
        code=f"libvirt_{error.get_error_code()}",
        hint="the log of libvirtd and /var/log/libvirt/qemu/VM.log on its host say more",
    )


@contextmanager
def libvirt_errors(what: str) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, what) from error


def _is_alive(handle: libvirt.virConnect | None) -> bool:
    try:
        return handle is not None and bool(handle.isAlive())
    except libvirt.libvirtError:
        return False


class Connection:
    """Opens `uri` when first needed, and again when it has died. Thread-safe, like libvirt's handles."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._handle: libvirt.virConnect | None = None

    def get(self) -> libvirt.virConnect:
        """Raises Unreachable where libvirt does not answer."""
        start_event_loop()
        with self._lock, libvirt_errors(f"connect to {self.uri}"):
            if not _is_alive(self._handle):
                self._handle = None
                self._handle = libvirt.open(self.uri)
                with suppress(libvirt.libvirtError):  # the test driver and old servers have none
                    self._handle.setKeepAlive(5, 3)
            assert self._handle is not None
            return self._handle

    def reset(self) -> None:
        """Forgets a handle that gave a connection error; the next `get` opens another."""
        with self._lock:
            self._handle = None

    def is_local(self) -> bool:
        """Whether 127.0.0.1 of libvirt's host is also ours."""
        host = urllib.parse.urlsplit(self.uri).hostname
        return host in (None, "", "localhost", "127.0.0.1", "::1", socket.gethostname())
