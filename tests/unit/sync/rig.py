"""A sync with real images and real qemu-nbd on this machine: a source of qcow2 files with real bitmaps,
and the controller's own commands, run as processes on files instead of disks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from refloat.command import Completed, Dialogue, run, stream
from refloat.controller.client import ControllerClient
from refloat.model import (
    DiskBus,
    Endpoint,
    Firmware,
    PowerState,
    ReplicaDisk,
    SourceDisk,
    SourceVM,
    SyncPoint,
    Target,
)
from refloat.sources.base import ChangeSet, DiskReader
from refloat.sources.offline import bitmap_doubt, image_info, remove_bitmap, start_reader, stop_readers
from refloat.sync.engine import sync
from refloat.sync.nbd import unix_uri

MIB = 1 << 20
NOWHERE = Endpoint("127.0.0.1", 22, "root", "/nonexistent", "ssh-ed25519 AAAA")


def free_ports(count: int) -> int:
    """The first of so many free ports, below those that the kernel hands out by itself."""
    for base in range(20000 + os.getpid() % 1000 * 10, 32000, 10):
        with ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    one = stack.enter_context(socket.socket())
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")


class FileSource:
    """Implements Source on qcow2 files; their persistent bitmaps are the checkpoints."""

    def __init__(self, directory: Path, sizes: dict[str, int]) -> None:
        self.files = {key: directory / f"source-{key}.qcow2" for key in sizes}
        self._sockets = directory / "readers"
        self._sockets.mkdir()
        for key, path in self.files.items():
            run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(sizes[key])])

    def write(self, key: str, offset: int, length: int, value: int) -> None:
        command = f"write -P {value} {offset} {length}" if value else f"write -z {offset} {length}"
        run(["qemu-io", "-f", "qcow2", "-c", command, str(self.files[key])])

    def content(self, key: str) -> bytes:
        raw = self.files[key].with_suffix(".raw")
        run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(self.files[key]), str(raw)])
        return raw.read_bytes()

    def lose_bitmaps(self, key: str) -> None:
        for name in image_info(str(self.files[key]), "qcow2").bitmaps:
            remove_bitmap(str(self.files[key]), "qcow2", name)

    def bitmaps(self, key: str) -> set[str]:
        return set(image_info(str(self.files[key]), "qcow2").bitmaps)

    def inventory(self, vm: str) -> SourceVM:
        disks = tuple(
            SourceDisk(key, image_info(str(path), "qcow2").capacity, DiskBus.PVSCSI)
            for key, path in self.files.items()
        )
        return SourceVM(vm, "0", 1, 1 << 28, Firmware.BIOS, disks, ())

    @contextmanager
    def read_changes(self, vm: str, since: str | None, checkpoint: str) -> Iterator[ChangeSet]:
        stop_readers(self._sockets)
        self.forget(vm, since)
        for path in self.files.values():
            run(["qemu-img", "bitmap", "--add", "-f", "qcow2", str(path), checkpoint])
        try:
            yield ChangeSet(checkpoint, tuple(self._reader(key, since) for key in self.files))
        finally:
            stop_readers(self._sockets)

    def _reader(self, key: str, since: str | None) -> DiskReader:
        path = str(self.files[key])
        image = image_info(path, "qcow2")
        doubt = bitmap_doubt(image, since) if since else "no checkpoint"
        bitmap = since if not doubt else None
        uri = unix_uri(start_reader(self._sockets, key, path, "qcow2", bitmap), key)
        return DiskReader(key, uri, image.capacity, f"qemu:dirty-bitmap:{bitmap}" if bitmap else None, doubt)

    def forget(self, vm: str, keep: str | None) -> None:
        for key, path in self.files.items():
            for name in self.bitmaps(key) - {keep}:
                remove_bitmap(str(path), "qcow2", name)

    # Not asked by a sync.
    def power_state(self, vm: str) -> PowerState:
        return PowerState.OFF

    def shut_down(self, vm: str, deadline: float) -> bool:
        return True

    def power_off(self, vm: str) -> None: ...
    def power_on(self, vm: str) -> None: ...

    def autostart(self, vm: str) -> bool:
        return False

    def set_autostart(self, vm: str, enabled: bool) -> None: ...


class LocalLink:
    """The controller's machine is a directory of this one: commands run here, told where to look."""

    def __init__(self, directory: Path, sizes: dict[str, int], volumes: Path | None = None) -> None:
        self.root = directory / "controller"
        self.dev = (volumes or self.root) / "dev"
        self.port = free_ports(len(sizes))
        self._connections: list[socket.socket] = []
        self.root.mkdir(parents=True)
        self.dev.mkdir()
        for index, (serial, size) in enumerate(sizes.items()):
            name = f"vd{chr(ord('b') + index)}"
            block = self.root / "sys" / name
            block.mkdir(parents=True)
            (block / "serial").write_text(serial)
            (block / "size").write_text(str(size // 512))
            self.make_volume(self.dev / name, size)

    def make_volume(self, file: Path, size: int) -> None:
        """As a recycled one is: full of somebody else's bytes."""
        file.write_bytes(b"\xee" * size)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "REFLOAT_CONTROLLER_ROOT": str(self.root),
            "REFLOAT_SYS_BLOCK": str(self.root / "sys"),
            "REFLOAT_DEV": str(self.dev),
            "REFLOAT_EXPORT_PORT": str(self.port),
        }

    def stream(
        self, command: Sequence[str], on_line: Callable[[bytes], None], content: bytes, timeout: float
    ) -> Completed:
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return stream(["env", *settings, *command], on_line=on_line, input=content, timeout=timeout)

    def dialogue(self, command: Sequence[str]) -> Dialogue:
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        return Dialogue(["env", *settings, *command])

    @contextmanager
    def forward(self, port: int) -> Iterator[str]:
        path = str(self.root / f"forward-{port}")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            threading.Thread(target=_proxy, args=(server, port, self._connections), daemon=True).start()
            try:
                yield path
            finally:
                server.shutdown(socket.SHUT_RDWR)
                os.unlink(path)

    def cut(self) -> None:
        """As when ssh dies: nothing that was forwarded gets through any more."""
        for one in self._connections:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def disconnect(self) -> None: ...


class SparseLink(LocalLink):
    """Its volumes are new ones, of which nothing is allocated."""

    def make_volume(self, file: Path, size: int) -> None:
        with file.open("wb") as volume:
            volume.truncate(size)


def _proxy(server: socket.socket, port: int, connections: list[socket.socket]) -> None:
    while True:
        try:
            near, _ = server.accept()
        except OSError:
            return
        far = socket.create_connection(("127.0.0.1", port))
        connections += (near, far)
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 18):
            sink.sendall(data)
    with suppress(OSError):  # one end has gone: the other learns it, as ssh would tell it
        sink.shutdown(socket.SHUT_WR)


class Rig:
    """A source with the disks sda and sdb, their replicas ra and rb, and what a hub keeps."""

    SIZES = {"sda": 6 * MIB + 64 * 1024 + 512, "sdb": 2 * MIB}  # noqa: RUF012
    LARGER = 0  # bytes that each replica has beyond its source's disk
    LINK = LocalLink

    def __init__(self, directory: Path, controller: Path | None = None, volumes: Path | None = None) -> None:
        """`controller` and `volumes`: where its own disk and the replicas are, if not in `directory`."""
        self.directory = directory
        self.source = FileSource(directory, self.SIZES)
        sizes = {"ra": self.SIZES["sda"] + self.LARGER, "rb": self.SIZES["sdb"] + self.LARGER}
        self.link = self.LINK(controller or directory, sizes, volumes)
        self.controller = ControllerClient(
            NOWHERE, lambda: ("127.0.0.1", 22), directory, self.link, str(self.link.root / "code")
        )
        self.target = Target(
            "t",
            "here",
            "vm",
            "there",
            "controller",
            NOWHERE,
            (ReplicaDisk("sda", "ra"), ReplicaDisk("sdb", "rb")),
            "default",
        )
        self.state = directory / "hub"
        self.last: SyncPoint | None = None
        self.events: list[dict[str, object]] = []

    def sync(self, **overrides: object) -> SyncPoint:
        arguments: dict[str, object] = {
            "source": self.source,
            "controller": self.controller,
            "target": self.target,
            "state_dir": self.state,
            "last": self.last,
            "progress": self.events.append,
            **overrides,
        }
        self.last = sync(**arguments)  # type: ignore[arg-type]
        return self.last

    def replica(self, serial: str) -> bytes:
        return (self.link.dev / ("vdb" if serial == "ra" else "vdc")).read_bytes()

    def is_identical(self) -> bool:
        """Every byte of the source, and zeroes after its end."""
        return all(
            self.source.content(disk.key).ljust(len(replica := self.replica(disk.serial)), b"\0") == replica
            for disk in self.target.disks
        )

    def controller_state(self) -> dict[str, object]:
        state: dict[str, object] = json.loads((self.link.root / "sync" / "state.json").read_text())
        return state

    def exports(self) -> list[str]:
        listing = subprocess.run(["ps", "axo", "args"], check=True, capture_output=True, text=True).stdout
        return [line for line in listing.splitlines() if str(self.directory) in line and "qemu-nbd" in line]

    def close(self) -> None:
        self.controller.sync_close()
        stop_readers(self.directory / "readers")
        assert self.exports() == []
