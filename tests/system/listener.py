"""A listener on the host for what a guest sends: proof from outside the guest of what leaves its network."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

ANSWER = b"heard\n"
_LONGEST = 64  # bytes of a name


class Listener:
    """TCP and UDP on one port of all the host's addresses. Whoever sends a name gets ANSWER; `heard` has
    every name that came, with the protocol before it ("tcp source")."""

    def __init__(self) -> None:
        self.heard: set[str] = set()
        self._closing = threading.Event()
        self._tcp = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port: int = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._udp.bind(("::", self.port))
        self._threads = [threading.Thread(target=serve) for serve in (self._serve_tcp, self._serve_udp)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """By a word to itself: a thread that waits does not notice that its socket is closed."""
        self._closing.set()
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(b"\n")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"\n", ("127.0.0.1", self.port))
        for thread in self._threads:
            thread.join()
        self._tcp.close()
        self._udp.close()

    def _serve_tcp(self) -> None:
        while not self._closing.is_set():
            connection, _ = self._tcp.accept()
            with contextlib.suppress(OSError), connection:
                connection.settimeout(10)
                self._hear("tcp", connection.recv(_LONGEST))
                connection.sendall(ANSWER)

    def _serve_udp(self) -> None:
        while not self._closing.is_set():
            data, sender = self._udp.recvfrom(_LONGEST)
            self._hear("udp", data)
            self._udp.sendto(ANSWER, sender)

    def _hear(self, protocol: str, data: bytes) -> None:
        name = data.decode(errors="replace").strip()
        if name:  # a shell may send each line by itself
            self.heard.add(f"{protocol} {name}")


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()
    try:
        yield listener
    finally:
        listener.close()
