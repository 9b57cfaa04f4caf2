"""OpenSSH to one machine, with nothing of the operator's own settings and the host key pinned.

Under emulation the set-up of a connection costs seconds, so one master connection carries all commands
and forwards; it ends by itself when idle. A master may be stale (the machine was restarted below it):
whoever gets a broken connection drops the master and tries once more.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import logging
import os
import shlex
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from refloat.command import Completed, Dialogue, run, stream
from refloat.durable import write_durably
from refloat.errors import Failed, RefloatError, Refused, Unreachable
from refloat.model import Endpoint

log = logging.getLogger(__name__)

# Fastest first where the CPU has no cipher instructions: 12.4 MiB/s against 9.0 and 7.5 into a controller
# under emulation. With such instructions none is the bottleneck. "^" puts them before OpenSSH's defaults.
CIPHERS = "^chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes128-ctr"
KEX = "^curve25519-sha256"

_CONNECTION_LOST = 255  # ssh's own exit status
_ALIAS = "refloat-controller"
_IDLE = 120  # seconds until an unused master ends
_counter = itertools.count()


class SshLink:
    """`reach` says where to connect to now; it is asked whenever a connection is set up."""

    def __init__(self, endpoint: Endpoint, reach: Callable[[], tuple[str, int]], state_dir: Path) -> None:
        self._endpoint = endpoint
        self._reach = reach
        self._state_dir = state_dir
        self._lock = threading.RLock()

    # ------------------------------------------------------------ commands

    def stream(
        self, command: Sequence[str], on_line: Callable[[bytes], None], content: bytes, timeout: float
    ) -> Completed:
        """Runs `command` there, once more if the connection was stale: commands must be idempotent.

        Raises Unreachable, or Refused for a wrong host key or a refused login.
        """
        for last in (False, True):
            done = stream(
                [*self._mux(), self._destination(), shlex.join(command)],
                on_line=on_line,
                input=content,
                timeout=timeout,
            )
            if done.returncode != _CONNECTION_LOST:
                return done
            self.disconnect()
            if last:
                raise self._error(done.stderr)
        raise AssertionError("unreachable")

    def dialogue(self, command: Sequence[str]) -> Dialogue:
        """`command` there, to be asked again and again. Raises as `stream` does."""
        return Dialogue([*self._mux(), self._destination(), shlex.join(command)])

    @contextmanager
    def forward(self, port: int) -> Iterator[str]:
        """The path of a Unix socket here that leads to this port of the machine's loopback."""
        local = self._runtime_dir() / f"f{os.getpid()}-{next(_counter)}"
        rule = f"{local}:127.0.0.1:{port}"
        mux = self._mux()
        done = run([*mux, "-O", "forward", "-L", rule, self._destination()], timeout=60, check=False)
        if done.returncode != 0:
            self.disconnect()
            raise self._error(done.stderr)
        try:
            yield str(local)
        finally:
            with suppress(RefloatError):
                run([*mux, "-O", "cancel", "-L", rule, self._destination()], timeout=60, check=False)
            local.unlink(missing_ok=True)

    def disconnect(self) -> None:
        """Drops the master connection, if there is one. The next use sets up another."""
        with self._lock:
            socket = self._socket()
            if socket.exists():
                with suppress(RefloatError):
                    run([*self._base(socket), "-O", "exit", self._destination()], timeout=10, check=False)
                socket.unlink(missing_ok=True)
            with suppress(OSError):  # a forward may still be in it
                socket.parent.rmdir()

    # ------------------------------------------------------------ connection

    def _mux(self) -> list[str]:
        """The command line up to the destination, with a living master behind it."""
        with self._lock:
            socket = self._socket()
            base = [*self._base(socket), "-o", "ControlMaster=no"]
            if socket.exists():
                if run([*base, "-O", "check", self._destination()], timeout=10, check=False).returncode == 0:
                    return base
                socket.unlink(missing_ok=True)
            self._start_master(socket)
            return base

    def _start_master(self, socket: Path) -> None:
        for left in socket.parent.glob("f*"):
            left.unlink(missing_ok=True)  # forwards ended with the master that had them
        host, port = self._reach()
        options = [
            "-M",
            "-N",
            "-f",
            "-o",
            f"ControlPersist={_IDLE}",
            "-p",
            str(port),
            "-o",
            f"HostName={host}",
        ]
        # To a file: the master in the background keeps what it inherits, and a pipe would never end.
        with tempfile.NamedTemporaryFile() as errors:
            argv = [*self._base(socket), *options, "-E", errors.name, self._destination()]
            done = run(argv, timeout=60, check=False)
            if done.returncode != 0:
                raise self._error(Path(errors.name).read_bytes() + done.stderr)

    def _base(self, socket: Path) -> list[str]:
        options = {
            "BatchMode": "yes",
            "CheckHostIP": "no",
            "Ciphers": CIPHERS,
            "Compression": "no",
            "ConnectTimeout": "20",
            "ControlPath": f'"{socket}"',
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "GlobalKnownHostsFile": "/dev/null",
            "GSSAPIAuthentication": "no",
            "HostKeyAlgorithms": self._endpoint.host_key.split()[0],
            "HostKeyAlias": _ALIAS,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "KexAlgorithms": KEX,
            "LogLevel": "ERROR",
            "PreferredAuthentications": "publickey",
            # A busy guest under emulation may be silent for a while; a dead one must not hang us for long.
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "6",
            "StreamLocalBindUnlink": "yes",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "UserKnownHostsFile": f'"{self._known_hosts()}"',
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "none", "-i", self._endpoint.identity, *flags]

    def _destination(self) -> str:
        return f"{self._endpoint.user}@{_ALIAS}"

    # ------------------------------------------------------------ files

    def _known_hosts(self) -> Path:
        path = self._state_dir / "known_hosts"
        line = f"{_ALIAS} {' '.join(self._endpoint.host_key.split()[:2])}\n".encode()
        if not path.exists() or path.read_bytes() != line:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, line)
        return path

    def _socket(self) -> Path:
        return self._runtime_dir() / "m"

    def _runtime_dir(self) -> Path:
        """Short, because a socket's path is limited to 107 bytes; ours alone, because whoever can write
        there can take the connection over."""
        base = Path("/run/refloat" if os.access("/run", os.W_OK) else f"/tmp/refloat-{os.getuid()}")
        one = f"{self._state_dir.absolute()} {self._endpoint.address} {self._endpoint.port}"
        digest = hashlib.sha256(one.encode()).digest()
        path = base / base64.b32encode(digest)[:12].decode().lower()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in (base, path):
            found = each.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise Failed(f"{each} belongs to somebody else", code="runtime_dir", hint="remove it")
        path.chmod(0o700)
        return path

    # ------------------------------------------------------------ errors

    def _error(self, stderr: bytes) -> RefloatError:
        text = stderr.decode("utf-8", "replace").strip()
        where = f"controller {self._endpoint.address}:{self._endpoint.port}"
        if "HOST IDENTIFICATION HAS CHANGED" in text or "Host key verification failed" in text:
            return Refused(
                f"{where} shows another host key than the pinned one",
                code="host_key_mismatch",
                hint="another machine answers there; if the controller was really replaced, update host_key "
                "in the estate file",
            )
        if "Permission denied" in text:
            return Refused(
                f"{where} does not accept the key {self._endpoint.identity}",
                code="login_refused",
                hint="the target's identity must be the key that the controller was deployed with",
            )
        last = text.splitlines()[-1] if text else "the connection was closed"
        return Unreachable(
            f"{where} does not answer: {last}", hint="is the controller VM running? see its console"
        )
