"""One login at a vCenter or ESXi host that lasts: opened when first needed, and again when it has expired.

pyVmomi's stub keeps a pool of connections and may be used by several threads. What it does not do well is
pinning: it looks at a thumbprint only where the certificate failed another check, and after the first such
connection it checks none of the following ones. The connection made here checks each.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from xml.parsers.expat import ExpatError

from pyVmomi import SoapStubAdapter, vim, vmodl
from pyVmomi.VmomiSupport import versionMap

from refloat.errors import Failed, RefloatError
from refloat.sources.vsphere_errors import BadAnswer, CertificateDiffers, translate
from refloat.sources.vsphere_settings import VsphereSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

_OLDEST = "5.5"
_FASTEST_POLL, _SLOWEST_POLL = 0.05, 2.0  # seconds

# The other side closed a connection that had been kept: an answer may be lost.
_CLOSED = (
    http.client.RemoteDisconnected,
    ConnectionResetError,
    BrokenPipeError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
_SILENT = (OSError, http.client.HTTPException, ExpatError)


class Session:
    """Thread-safe. Every error is one of ours; a password is in none of them."""

    def __init__(self, settings: VsphereSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._stub: SoapStubAdapter | None = None
        self._content: Any = None
        self._logins = 0

    def call(self, what: str, ask: Callable[[Any], T], *, again: bool = True) -> T:
        """What `ask` returns, given the service's content. `what` says what is tried: "read VM web".

        An expired session is opened anew, once, and the call repeated: the platform refused it before it did
        anything. A connection that was cut is tried once more only where the call may be repeated (`again`).
        """
        expired = cut = False
        try:
            while True:
                logins, content = self._open()
                try:
                    return ask(content)
                except vim.fault.NotAuthenticated:
                    if expired:
                        raise
                    expired = True
                    self._expire(logins)
                except _CLOSED:
                    if cut or not again:
                        raise
                    cut = True
        except RefloatError:
            raise
        except (vmodl.MethodFault, *_SILENT, CertificateDiffers, BadAnswer) as error:
            raise translate(error, what, self._settings) from None

    def read(self, what: str, thing: Any, *paths: str) -> dict[str, Any]:
        """These properties of one managed object. What is not set, or may not be seen, is left out."""
        return self.read_all(what, [thing], *paths)[0]

    def read_all(self, what: str, things: list[Any], *paths: str) -> list[dict[str, Any]]:
        """The same for several of one kind, in their order."""
        if not things:
            return []
        collector = vmodl.query.PropertyCollector
        wanted = collector.FilterSpec(
            objectSet=[collector.ObjectSpec(obj=thing) for thing in things],
            propSet=[collector.PropertySpec(type=type(things[0]), pathSet=list(paths))],
        )
        found = self.call(what, lambda content: _collect(content.propertyCollector, wanted))
        return [found.get(thing._moId, {}) for thing in things]

    def wait(self, what: str, task: Any) -> Any:
        """The result of a task. Raises Failed where it failed, or took longer than task_timeout."""
        end = time.monotonic() + self._settings.task_timeout
        pause = _FASTEST_POLL
        while True:
            # Read by path: the whole of `info` cannot be decoded once the task's object is gone.
            state = self.read(what, task, "info.state").get("info.state")
            if state == "success":
                return self.read(what, task, "info.result").get("info.result")
            if state == "error":
                error = self.read(what, task, "info.error").get("info.error")
                raise translate(error, what, self._settings)
            if time.monotonic() >= end:
                raise Failed(
                    f"{what}: the task did not end within {self._settings.task_timeout:.0f} s",
                    code="vsphere_task",
                    hint="look at the task in vCenter; raise the site's task_timeout for slow storage",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST_POLL)

    def certificate(self) -> bytes:
        """The server's certificate (DER), from a connection that was checked as every other is."""
        try:
            connection = self._connection()
            connection.connect()
            try:
                assert isinstance(connection.sock, ssl.SSLSocket)
                return connection.sock.getpeercert(binary_form=True) or b""
            finally:
                connection.close()
        except (*_SILENT, CertificateDiffers) as error:
            raise translate(error, "read the certificate", self._settings) from None

    def close(self) -> None:
        """Logs out, so that no idle session is left to the platform. Never an error."""
        with self._lock:
            content, stub = self._content, self._stub
            self._content = self._stub = None
        if content is None or stub is None:
            return
        try:
            content.sessionManager.Logout()
        except (vmodl.MethodFault, *_SILENT, CertificateDiffers, BadAnswer) as error:
            log.debug("log out of %s: %s", self._settings.name, type(error).__name__)
        stub.DropConnections()

    # ------------------------------------------------------------ how

    def _open(self) -> tuple[int, Any]:
        with self._lock:
            if self._content is None:
                stub = self._stub = self._stub or self._negotiated()
                stub.SetSessionId(None)
                content = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
                content.sessionManager.Login(self._settings.user, self._settings.password.read(), None)
                self._content = content
                self._logins += 1
            return self._logins, self._content

    def _expire(self, logins: int) -> None:
        """Another thread may have logged in again meanwhile."""
        with self._lock:
            if self._logins == logins:
                self._content = None

    def _negotiated(self) -> SoapStubAdapter:
        """Speaks the newest version of the API that both sides know."""
        first = self._new_stub(_OLDEST)
        about = vim.ServiceInstance("ServiceInstance", first).RetrieveContent().about
        first.DropConnections()
        return self._new_stub(best_version(about.apiVersion or _OLDEST))

    def _new_stub(self, version: str) -> SoapStubAdapter:
        settings = self._settings
        stub = SoapStubAdapter(
            settings.server,
            settings.port,
            version=versionMap[f"vim25/{version}"],
            sslContext=_context(settings),
        )
        # The pool calls this for each new connection, before it sends anything.
        stub.scheme = self._connection
        stub.schemeArgs = {}
        return stub

    def _connection(self, **_place: Any) -> _Connection:
        return _Connection(self._settings)


class _Stub(SoapStubAdapter):
    """Tells an answer that pyVmomi cannot decode from an error of ours."""

    def InvokeMethod(self, *words: Any, **more: Any) -> Any:  # noqa: N802
        try:
            return super().InvokeMethod(*words, **more)
        except (vmodl.MethodFault, *_SILENT, CertificateDiffers):
            raise
        except Exception as error:
            raise BadAnswer(f"{type(error).__name__}: {error}") from error


class _Connection(http.client.HTTPSConnection):
    """Checks the certificate of the other side at each connect, before a byte of a request is sent."""

    def __init__(self, settings: VsphereSettings) -> None:
        super().__init__(settings.server, settings.port, timeout=settings.timeout, context=_context(settings))
        self._thumbprint = settings.thumbprint

    def connect(self) -> None:
        super().connect()
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._thumbprint:
            seen = thumbprint(self.sock.getpeercert(binary_form=True) or b"", len(self._thumbprint))
            if seen != self._thumbprint:
                self.close()
                raise CertificateDiffers(seen)


def thumbprint(certificate: bytes, digits: int = 64) -> str:
    """Of a certificate in DER: SHA-256, or SHA-1 for 40 digits."""
    return (hashlib.sha256 if digits == 64 else hashlib.sha1)(certificate).hexdigest()


def best_version(offered: str) -> str:
    """The newest that pyVmomi knows and that is not newer than what the server offers ("8.0.1.0")."""
    known = [name.removeprefix("vim25/") for name in versionMap if name.startswith("vim25/")]
    numbers = {
        name: _numbers(name) for name in known if name[0].isdigit() and name.replace(".", "").isdigit()
    }
    fitting = [name for name, number in numbers.items() if number <= _numbers(offered)]
    return max(fitting, key=lambda name: numbers[name], default=_OLDEST)


def _numbers(version: str) -> tuple[int, ...]:
    parts = [int(part) for part in version.split(".") if part.isdigit()]
    return tuple([*parts, 0, 0, 0, 0][:4])


def _context(settings: VsphereSettings) -> ssl.SSLContext:
    if settings.thumbprint:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the thumbprint is checked instead
        return context
    return ssl.create_default_context(cafile=settings.ca_file or None)


def _collect(collector: Any, wanted: Any) -> dict[str, dict[str, Any]]:
    """By the object's id, over all pages of the answer."""
    found: dict[str, dict[str, Any]] = {}
    options = vmodl.query.PropertyCollector.RetrieveOptions()
    page = collector.RetrievePropertiesEx([wanted], options)
    while page is not None:
        for one in page.objects or ():
            found[one.obj._moId] = {item.name: item.val for item in one.propSet or ()}
        page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
    return found
