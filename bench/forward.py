"""A forward from a Unix socket to a port of this machine: `python -m bench.forward SOCKET PORT`.

It stands for ssh's where the cost of a cipher would hide what is measured: bytes go by splice.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

AT_ONCE = 1 << 20


def main() -> None:
    path, port = sys.argv[1], int(sys.argv[2])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print("listens", flush=True)
        while True:
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", port))
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    reader, writer = os.pipe()
    try:
        while taken := os.splice(source.fileno(), writer, AT_ONCE):
            while taken:
                taken -= os.splice(reader, sink.fileno(), taken)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        sink.close()  # the other end has gone: so does this one
    finally:
        os.close(reader)
        os.close(writer)


if __name__ == "__main__":
    main()
