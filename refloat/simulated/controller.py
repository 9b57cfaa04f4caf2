"""The controller of a simulated target: its own commands, run in this process on the platform's volumes.

Syncs are real (exports, deltas, merges); inspection and adaptation read and write the simulated guest's
records. It answers only while its VM runs as the controller, as a real one does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from refloat.codec import encode
from refloat.controller.client import ControllerClient, Progress
from refloat.controller.commands import disks, health
from refloat.controller.commands import sync as sync_command
from refloat.controller.exports import stop_exports
from refloat.controller.paths import Paths
from refloat.destinations.simulated import SimulatedDestination
from refloat.errors import Failed, Unreachable
from refloat.guest.intended import intended
from refloat.model import (
    Adaptation,
    AdaptRequest,
    Change,
    ChangeKind,
    DiskBus,
    Endpoint,
    FileState,
    GuestCaps,
    GuestFacts,
    Intended,
    NicModel,
    PlannedDisk,
    PowerState,
    Remediation,
)
from refloat.simulated.guest import FACTS_AT, PROGRAM_AT, RECORD, Program, record, recorded

_COMMANDS = {"health": health.run, "disks": disks.run, "sync": sync_command.run}
# Below those that the kernel hands out by itself.
_EACH = 8
_BLOCKS = 2750
_FIRST = os.getpid() * 41 % _BLOCKS  # hubs that start together begin far apart
_CHANGES = (
    Change(1, "/refloat-simulated", ChangeKind.FILE, None, FileState(size=RECORD), "for its first boot"),
)
_NOWHERE = Endpoint("127.0.0.1", 22, "root", "/nonexistent", "ssh-ed25519 none")


class SimulatedController(ControllerClient):
    """`own` is the serial of the controller's own disk: with that in front the VM is the controller."""

    def __init__(self, platform: SimulatedDestination, vm: str, own: str, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(_NOWHERE, lambda: ("127.0.0.1", 22), directory)
        self._platform, self._vm, self._own = platform, vm, own
        self._paths = Paths(
            str(directory), str(directory / "sys"), str(directory / "dev"), _own_ports(directory)
        )

    def call(
        self,
        command: Sequence[str],
        content: bytes = b"",
        progress: Progress | None = None,
        timeout: float = 0,
    ) -> Any:
        self._require_running()
        self._show_disks()
        self._platform.faults.apply(f"controller {command[0]}", self._vm, lambda: None, lambda: None)
        name, *arguments = command
        answer: Any = _COMMANDS[name](self._paths, arguments, progress or (lambda _data: None))
        return encode(answer)

    def inspect(
        self,
        disks: Sequence[PlannedDisk],
        bus: DiskBus,
        nic: NicModel,
        progress: Progress | None = None,
        luks_keys: Mapping[str, str] | None = None,
    ) -> GuestFacts:
        self._require_running()
        found = [
            facts
            for disk in disks
            if (facts := record(GuestFacts, self._read(disk.serial, FACTS_AT))) is not None
        ]
        if len(found) != 1:
            raise Failed(f"{len(found)} simulated guests are on the disks of {self._vm}", code="simulated")
        return found[0]

    def adapt(self, request: AdaptRequest, facts: GuestFacts, progress: Progress | None = None) -> Adaptation:
        self._require_running()
        root = next(disk for disk in request.disks if disk.key == facts.root.disk)
        program = recorded(Program(request.job, request.secrets, request.disks, request.nics))
        if progress:
            progress({"message": "adapting the simulated guest"})
        self._platform.guest_writes(self._vm, root.serial, PROGRAM_AT, program)
        caps = GuestCaps(
            (request.disk_bus,), (request.nic_model,), facts.firmware, True, Remediation.SCHEDULED
        )
        return Adaptation(caps, _CHANGES, facts)

    def intend(self, request: AdaptRequest, facts: GuestFacts, progress: Progress | None = None) -> Intended:
        self._require_running()
        return intended(_CHANGES)

    @contextmanager
    def forward(self, port: int) -> Iterator[str]:
        # Not below the controller's directory: a socket's path has at most 107 bytes.
        with (
            tempfile.TemporaryDirectory(prefix="refloat-") as directory,
            socket.socket(socket.AF_UNIX) as server,
        ):
            path = os.path.join(directory, "nbd")
            server.bind(path)
            server.listen()
            threading.Thread(target=_proxy, args=(server, port), daemon=True).start()
            try:
                yield path
            finally:
                server.shutdown(socket.SHUT_RDWR)

    def disconnect(self) -> None: ...

    def stopped(self) -> None:
        """The VM is off: whatever ran in it is gone."""
        stop_exports(self._paths)

    # ------------------------------------------------------------ inside

    def _require_running(self) -> None:
        state = self._platform.state(self._vm)
        first = state.hardware.disks[0].serial if state.hardware.disks else ""
        if state.power is not PowerState.RUNNING or first != self._own:
            raise Unreachable(f"{self._vm} does not run as a controller", hint="is it off, or promoted?")

    def _show_disks(self) -> None:
        """What the controller's kernel would show of the attached disks."""
        for folder in (self._paths.sys_block, self._paths.dev):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
        for index, disk in enumerate(self._platform.state(self._vm).hardware.disks):
            name = f"vd{chr(ord('a') + index)}"
            block = Path(self._paths.sys_block, name)
            block.mkdir()
            (block / "serial").write_text(disk.serial)
            (block / "size").write_text(str(self._platform.volumes.size(disk.volume) // 512))
            os.symlink(disk.volume, os.path.join(self._paths.dev, name))

    def _read(self, serial: str, offset: int) -> bytes:
        return self._platform.guest_reads(self._vm, serial, offset, RECORD)


def _own_ports(directory: Path) -> int:
    """The first of a few ports that no other controller beside this one has, kept for its life."""
    file = directory / "port"
    with (directory.parent / "ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            taken = {int(other.read_text()) for other in directory.parent.glob("*/port")}
            free = (port for port in _ports() if port not in taken and _are_free(port))
            file.write_text(str(next(free)))
    return int(file.read_text())


def _ports() -> Iterator[int]:
    """From 10000 to 31992: the first port of each block."""
    return (10000 + (_FIRST + number) % _BLOCKS * _EACH for number in range(_BLOCKS))


def _are_free(first: int) -> bool:
    with ExitStack() as stack:
        try:
            for port in range(first, first + _EACH):
                one = stack.enter_context(socket.socket())
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _proxy(server: socket.socket, port: int) -> None:
    while True:
        try:
            near, _ = server.accept()
        except OSError:
            return
        far = socket.create_connection(("127.0.0.1", port))
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 18):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
