"""The operator's own probes of the recovered VM: TCP, HTTP, ICMP echo, a command on the hub's machine.

Each kind is a row of `ASKERS`. A probe never raises: what goes wrong is its result. What cannot be asked
here, whatever the guest is like, is `not asked`: that proves nothing, neither for the guest nor against it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from refloat import command
from refloat.clock import now
from refloat.errors import Failed, RefloatError, Refused
from refloat.http_probe import HttpAnswer, fetch
from refloat.model import ProbeKind, ProbeResult
from refloat.policy import Probe

log = logging.getLogger(__name__)


class Reach(Protocol):
    """`Destination.reach` of one VM: where to connect for this TCP port of its network."""

    def __call__(self, address: str, port: int) -> tuple[str, int]: ...


@dataclass(frozen=True)
class Answer:
    """Of one try. `asked` is False where it could not be made at all."""

    holds: bool
    text: str
    asked: bool = True


class NotAsked(Exception):
    """The probe cannot be made from here; the message says why."""


def ask(probe: Probe, address: str, reach: Reach, stop: Callable[[], bool]) -> ProbeResult:
    """Repeats one probe until it held often enough: a service may come up after the guest's report.

    `stop` is asked between tries. A probe that cannot be made here is not repeated.
    """
    deadline = time.monotonic() + probe.within
    held = tries = 0
    while True:
        answer = ask_once(probe, address, reach)
        tries += 1
        held = held + 1 if answer.holds else 0
        enough = held >= probe.times
        if enough or not answer.asked or time.monotonic() >= deadline or stop():
            break
        time.sleep(probe.every)
    text = answer.text
    if probe.times > 1:
        text = f"{text}; it held {held} of {probe.times} times in a row"
    return ProbeResult(
        address,
        probe.port,
        enough,
        text,
        now(),
        probe.kind,
        probe.name,
        probe.required,
        answer.asked,
        tries,
    )


def ask_once(probe: Probe, address: str, reach: Reach) -> Answer:
    """One try. `address` is empty where the plan has none for the VM."""
    try:
        if not address and _needs_address(probe):
            raise NotAsked("the plan has no address for the VM, which gets it otherwise: name one")
        return ASKERS[probe.kind](probe, address, reach)
    except NotAsked as error:
        return Answer(False, f"it cannot be asked here: {error}", asked=False)
    except (OSError, RefloatError) as error:
        return Answer(False, str(error) or type(error).__name__)


def _needs_address(probe: Probe) -> bool:
    """A command need not be about an address."""
    words = " ".join(probe.argv)
    return probe.kind is not ProbeKind.COMMAND or probe.port > 0 or "{address}" in words


def _place(reach: Reach, address: str, port: int) -> tuple[str, int]:
    """Where to connect. Raises NotAsked where this platform has no way to such an address."""
    try:
        return reach(address, port)
    except Refused as error:
        if error.code == "no_way_from_here":
            raise NotAsked(error.message) from error
        raise


# ---------------------------------------------------------------- TCP


def _tcp(probe: Probe, address: str, reach: Reach) -> Answer:
    """Connects, and reads where bytes are expected: a forward accepts even when nobody is behind it."""
    place = _place(reach, address, probe.port)
    forwarded = place != (address, probe.port)
    wanted = probe.expect.encode()
    until = time.monotonic() + probe.timeout
    with contextlib.closing(socket.create_connection(place, timeout=probe.timeout)) as connection:
        if not wanted and not forwarded:
            return Answer(True, "the connection was accepted")
        try:
            got = _receive(connection, len(wanted) or 1, until)
        except TimeoutError:
            if wanted:
                raise
            raise NotAsked(
                "a forward accepts for the guest, and the port says nothing by itself: give it `expect`"
            ) from None
    if not wanted:
        said = "says something" if got else "was closed at once: nobody is behind the forward"
        return Answer(bool(got), f"the connection {said}")
    return Answer(got == wanted, f"said {got.decode('utf-8', 'replace')!r}")


def _receive(connection: socket.socket, count: int, until: float) -> bytes:
    """At most `count` bytes, fewer where the other side closed. Raises TimeoutError at `until`."""
    got = b""
    while len(got) < count:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no answer in time; so far {got!r}")
        connection.settimeout(left)
        more = connection.recv(count - len(got))
        if not more:
            break
        got += more
    return got


# ---------------------------------------------------------------- HTTP


def _http(probe: Probe, address: str, reach: Reach) -> Answer:
    """The body is not quoted: it may hold what is nobody's business, a header's value even."""
    check = probe.http
    if check is None:
        raise Failed("this probe has no request", code="bad_probe", hint="write it anew in the estate")
    answer: HttpAnswer = fetch(check, _place(reach, address, probe.port), address, probe.port, probe.timeout)
    text = f"status {answer.status}"
    if answer.elsewhere:
        text += ", a redirect to elsewhere, which is not followed"
    if answer.status not in check.statuses:
        wanted = ", ".join(str(status) for status in check.statuses)
        return Answer(False, f"{text}; wanted {wanted}")
    if check.contains and check.contains.encode() not in answer.body:
        where = f"the first {check.largest} bytes of the body" if answer.cut else "the body"
        return Answer(False, f"{text}; {where} did not contain {check.contains!r}")
    return Answer(True, f"{text}, {check.contains!r} found" if check.contains else text)


# ---------------------------------------------------------------- ICMP

_ECHO = {4: (8, 0), 6: (128, 129)}  # request and reply: RFC 792, RFC 4443
_ANY_PORT = 7  # reach() speaks of TCP ports; which one does not matter to learn whether the way is direct


def _icmp(probe: Probe, address: str, reach: Reach) -> Answer:
    """One echo. Only where the hub has a route to the guest: forwards carry TCP alone."""
    if _place(reach, address, _ANY_PORT)[0] != address:
        raise NotAsked("the platform reaches this network by TCP forwards, which carry no ICMP")
    version = ipaddress.ip_address(address).version
    nonce = secrets.token_bytes(16)
    until = time.monotonic() + probe.timeout
    with contextlib.closing(_echo_socket(version)) as connection:
        sent = time.monotonic()
        connection.sendto(echo_request(version, nonce), (address, 0))
        while (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            try:
                packet, sender = connection.recvfrom(2048)
            except TimeoutError:
                break
            if str(sender[0]).partition("%")[0] == address and is_reply(version, packet, nonce):
                return Answer(True, f"answered the echo after {(time.monotonic() - sent) * 1000:.0f} ms")
    return Answer(False, f"no answer to the echo within {probe.timeout:g} s")


def _echo_socket(version: int) -> socket.socket:
    """An ICMP socket: the unprivileged kind, or a raw one. Raises NotAsked where the hub may open neither."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            return socket.socket(family, kind, protocol)
        except PermissionError:
            continue
        except OSError as error:
            raise NotAsked(f"this machine has no IPv{version}: {error}") from error
    raise NotAsked(
        "the hub may send no ICMP: its group is not in net.ipv4.ping_group_range, and it lacks CAP_NET_RAW"
    )


def echo_request(version: int, nonce: bytes) -> bytes:
    """The kernel fills in the identifier of a datagram socket, and the checksum of ICMPv6."""
    kind, identifier = _ECHO[version][0], int.from_bytes(nonce[:2])
    packet = struct.pack(">BBHHH", kind, 0, 0, identifier, 1) + nonce
    return packet[:2] + struct.pack(">H", _checksum(packet)) + packet[4:]


def _checksum(packet: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total = sum(int.from_bytes(packet[place : place + 2]) for place in range(0, len(packet), 2))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def is_reply(version: int, packet: bytes, nonce: bytes) -> bool:
    """Whether these bytes answer the request with this nonce. A raw IPv4 socket shows the IP header too."""
    if version == 4 and packet and packet[0] >> 4 == 4:
        packet = packet[(packet[0] & 15) * 4 :]
    return len(packet) >= 8 + len(nonce) and packet[0] == _ECHO[version][1] and packet[8:].startswith(nonce)


# ---------------------------------------------------------------- command

_LARGEST = 1 << 20  # bytes: what a command says, and the largest file that it may write
_QUOTED = 200  # bytes of the end of what it said


def _command(probe: Probe, address: str, reach: Reach) -> Answer:
    """Runs on the hub's machine; 0 holds. {address} is the VM's, {host} and {port} are where the hub connects
    for the probe's TCP port."""
    values = {"{address}": address}
    if probe.port:
        host, port = _place(reach, address, probe.port)
        values |= {"{host}": host, "{port}": str(port)}
    argv = [_filled(word, values) for word in probe.argv]
    with tempfile.TemporaryFile() as said:
        done = command.run(
            [*_bounded(probe.timeout), *argv], timeout=probe.timeout + 10, check=False, output=said
        )
        size = said.seek(0, os.SEEK_END)
        said.seek(max(0, size - _QUOTED))
        tail = said.read(_QUOTED).decode("utf-8", "replace").strip()
    if done.returncode in (-9, 137):
        return Answer(False, f"it did not end within {probe.timeout:g} s")
    text = f"ended with status {done.returncode}"
    return Answer(done.returncode == 0, f"{text}: {tail}" if tail else text)


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def _bounded(seconds: float) -> list[str]:
    """The words before the operator's command: nothing of the hub's environment, which may hold secrets; all
    that it started ends with it (timeout signals the whole process group); no endless output."""
    return [
        *("env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"),
        *("timeout", "--signal=KILL", f"{seconds:g}"),
        *("prlimit", f"--fsize={_LARGEST}", "--core=0", "--"),
    ]


Asker = Callable[[Probe, str, Reach], Answer]
ASKERS: dict[ProbeKind, Asker] = {
    ProbeKind.TCP: _tcp,
    ProbeKind.HTTP: _http,
    ProbeKind.ICMP: _icmp,
    ProbeKind.COMMAND: _command,
}
