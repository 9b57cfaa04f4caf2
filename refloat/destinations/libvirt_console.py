"""Bytes out of a guest without any network: virtio-serial channels and the screen, as libvirt streams."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import libvirt

from refloat.errors import Failed, Unreachable
from refloat.libvirt_connection import libvirt_errors

_POLL = 0.1  # seconds
_CHUNK = 64 << 10
_WOULD_BLOCK = -2
_WRITE_DEADLINE = 10.0  # seconds


class StreamChannel:
    """A libvirt stream as a Channel. Thread-safe: the stream's own calls are serialised.

    The event loop of the process fills the stream; reading asks it every tenth of a second. A callback
    would be quicker by that much, and would have to outlive every way in which a stream can end.
    """

    def __init__(self, stream: libvirt.virStream, what: str) -> None:
        self._stream = stream
        self._what = what
        self._lock = threading.Lock()

    def read(self, timeout: float) -> bytes:
        """What has arrived, or b"" after `timeout` seconds. Raises Unreachable once the stream ended."""
        deadline = time.monotonic() + timeout
        while True:
            with self._lock, libvirt_errors(f"read {self._what}"):
                data = self._stream.recv(_CHUNK)
            if data == b"":
                raise Unreachable(
                    f"{self._what} was closed",
                    code="channel_closed",
                    hint="the VM stopped, or another program opened the channel",
                )
            if isinstance(data, bytes):
                return data
            left = deadline - time.monotonic()
            if left <= 0:
                return b""
            time.sleep(min(_POLL, left))

    def write(self, data: bytes) -> None:
        """Raises Failed when the guest does not take the data within 10 seconds."""
        deadline = time.monotonic() + _WRITE_DEADLINE
        while data:
            with self._lock, libvirt_errors(f"write {self._what}"):
                sent = self._stream.send(data)
            if sent == _WOULD_BLOCK:
                if time.monotonic() > deadline:
                    raise Failed(
                        f"{self._what} does not take data",
                        code="channel_blocked",
                        hint="no program in the guest reads it",
                    )
                time.sleep(_POLL)
            else:
                data = data[sent:]


@contextmanager
def open_channel(
    connection: libvirt.virConnect, domain: libvirt.virDomain, name: str
) -> Iterator[StreamChannel]:
    """The guest's virtio-serial port `name`. A reboot of the guest keeps it open, its power-off ends it."""
    what = f"channel {name} of VM {domain.name()}"
    with libvirt_errors(f"open {what}"):
        stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        # Force: the connection of a hub that was killed may still hold the channel.
        domain.openChannel(name, stream, libvirt.VIR_DOMAIN_CHANNEL_FORCE)
    yield from _held(stream, what)


@contextmanager
def open_serial(connection: libvirt.virConnect, domain: libvirt.virDomain) -> Iterator[StreamChannel]:
    """The guest's first serial line, wherever its other end is: libvirt carries the bytes."""
    what = f"serial line of VM {domain.name()}"
    with libvirt_errors(f"open {what}"):
        stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
    yield from _held(stream, what)


def _held(stream: libvirt.virStream, what: str) -> Iterator[StreamChannel]:
    try:
        yield StreamChannel(stream, what)
    finally:
        with suppress(libvirt.libvirtError):
            stream.abort()


def take_screenshot(connection: libvirt.virConnect, domain: libvirt.virDomain) -> bytes:
    """The first screen as PNG; b"" for a domain that is off or has no display."""
    with libvirt_errors(f"screenshot of VM {domain.name()}"):
        if not domain.isActive():
            return b""
        stream = connection.newStream(0)
        try:
            kind = domain.screenshot(stream, 0, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() in (
                libvirt.VIR_ERR_OPERATION_INVALID,
                libvirt.VIR_ERR_NO_SUPPORT,
                libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
            ):
                return b""
            raise
        parts: list[bytes] = []
        stream.recvAll(lambda _stream, data, _opaque: parts.append(data), None)
        stream.finish()
    picture = b"".join(parts)
    return picture if kind == "image/png" else png_from_ppm(picture)


def png_from_ppm(ppm: bytes) -> bytes:
    """A PNG of a binary PPM (P6, 8 bits), which QEMU before 7.1 makes. Raises Failed for anything else."""
    fields = ppm.split(None, 4)
    if len(fields) < 4 or fields[0] != b"P6" or fields[3] != b"255":
        raise Failed("the screenshot is neither PNG nor PPM", code="bad_screenshot")
    width, height = int(fields[1]), int(fields[2])
    pixels = ppm[len(ppm) - width * height * 3 :]
    rows = b"".join(b"\0" + pixels[start : start + width * 3] for start in range(0, len(pixels), width * 3))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
