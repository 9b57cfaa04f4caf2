"""A simulated source platform: VMs as records, disks as qcow2 files whose bitmaps are the checkpoints."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from refloat.codec import decode, encode
from refloat.command import run
from refloat.destinations.simulated_faults import Faults
from refloat.durable import write_durably
from refloat.errors import NotFound
from refloat.model import PowerState, SourceVM
from refloat.sources.base import ChangeSet, DiskReader
from refloat.sources.offline import bitmap_doubt, image_info, remove_bitmap, start_reader, stop_readers
from refloat.sync.nbd import unix_uri

_TIMEOUT = 60.0
_POLL = 0.05


@dataclass(frozen=True)
class SimulatedSourceVm:
    """`obeys`: whether its guest shuts down when it is asked."""

    vm: SourceVM
    power: PowerState = PowerState.RUNNING
    autostart: bool = True
    obeys: bool = True


class SimulatedSource:
    """A source platform in `directory`. See sources/base.py for what each verb promises."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.faults = Faults(directory / "faults.json")

    # ------------------------------------------------------------ the protocol

    def inventory(self, vm: str) -> SourceVM:
        return self._ask("inventory", vm).vm

    def power_state(self, vm: str) -> PowerState:
        return self._ask("power_state", vm).power

    def autostart(self, vm: str) -> bool:
        return self._ask("autostart", vm).autostart

    def shut_down(self, vm: str, deadline: float) -> bool:
        end = time.monotonic() + deadline
        while True:
            with self._changing("shut_down", vm) as state:
                if state.obeys or state.power is PowerState.OFF:
                    self._write(replace(state, power=PowerState.OFF))
                    return True
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL)

    def power_off(self, vm: str) -> None:
        with self._changing("power_off", vm) as state:
            self._write(replace(state, power=PowerState.OFF))

    def power_on(self, vm: str) -> None:
        with self._changing("power_on", vm) as state:
            self._write(replace(state, power=PowerState.RUNNING))

    def set_autostart(self, vm: str, enabled: bool) -> None:
        with self._changing("set_autostart", vm) as state:
            self._write(replace(state, autostart=enabled))

    @contextmanager
    def read_changes(self, vm: str, since: str | None, checkpoint: str) -> Iterator[ChangeSet]:
        state = self._ask("read_changes", vm)
        sockets = self._sockets(vm)
        stop_readers(sockets)
        self.forget(vm, since)
        keys = [disk.key for disk in state.vm.disks]
        for key in keys:
            _bitmap("--add", self.file(vm, key), checkpoint)
        try:
            yield ChangeSet(checkpoint, tuple(self._reader(vm, key, since) for key in keys))
        finally:
            stop_readers(sockets)
            with suppress(OSError):  # a run that came after this one has taken it away
                sockets.rmdir()

    def forget(self, vm: str, keep: str | None) -> None:
        for disk in self._ask("forget", vm).vm.disks:
            path = str(self.file(vm, disk.key))
            for name in set(image_info(path, "qcow2").bitmaps) - {keep}:
                remove_bitmap(path, "qcow2", name)

    def _reader(self, vm: str, key: str, since: str | None) -> DiskReader:
        path = str(self.file(vm, key))
        image = image_info(path, "qcow2")
        doubt = bitmap_doubt(image, since) if since else "no checkpoint"
        bitmap = None if doubt else since
        uri = unix_uri(start_reader(self._sockets(vm), key, path, "qcow2", bitmap), key)
        return DiskReader(key, uri, image.capacity, f"qemu:dirty-bitmap:{bitmap}" if bitmap else None, doubt)

    # ------------------------------------------------------------ what a test or its guest does

    def create(self, vm: SourceVM, *, obeys: bool = True) -> None:
        """A running VM with empty disks of the sizes that the record says."""
        for disk in vm.disks:
            run(
                [
                    "qemu-img",
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    str(self.file(vm.name, disk.key)),
                    str(disk.capacity),
                ],
                timeout=_TIMEOUT,
            )
        self._write(SimulatedSourceVm(vm, obeys=obeys))

    def guest_writes(self, vm: str, key: str, offset: int, data: bytes) -> None:
        """`offset` and the length of `data` are whole sectors of 512 bytes."""
        draft = self._directory / f"{vm}-{key}.data"
        draft.write_bytes(data)
        self._io(vm, key, f"write -s {draft} {offset} {len(data)}")
        draft.unlink()

    def content(self, vm: str, key: str) -> bytes:
        """The whole disk."""
        raw = self._directory / f"{vm}-{key}.raw"
        argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(self.file(vm, key)), str(raw)]
        run(argv, timeout=_TIMEOUT)
        content = raw.read_bytes()
        raw.unlink()
        return content

    def file(self, vm: str, key: str) -> Path:
        return self._directory / f"{vm}-{key}.qcow2"

    # ------------------------------------------------------------ state

    def _io(self, vm: str, key: str, command: str) -> None:
        run(["qemu-io", "-f", "qcow2", "-c", command, str(self.file(vm, key))], timeout=_TIMEOUT)

    def _sockets(self, vm: str) -> Path:
        """Always the same, so that readers which a killed run left are found. Not below the platform's
        directory: a socket's path has at most 107 bytes."""
        mark = zlib.crc32(f"{self._directory.resolve()} {vm}".encode())
        directory = Path(tempfile.gettempdir(), f"refloat-readers-{os.getuid()}-{mark:08x}")
        directory.mkdir(exist_ok=True, mode=0o700)
        return directory

    def _ask(self, verb: str, vm: str) -> SimulatedSourceVm:
        return self.faults.apply(verb, vm, lambda: self._read(vm), lambda: None)

    @contextmanager
    def _changing(self, verb: str, vm: str) -> Iterator[SimulatedSourceVm]:
        self.faults.apply(verb, vm, lambda: None, lambda: None)
        with (self._directory / f"{vm}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read(vm)

    def _read(self, vm: str) -> SimulatedSourceVm:
        try:
            return decode(SimulatedSourceVm, json.loads((self._directory / f"{vm}.json").read_bytes()))
        except FileNotFoundError:
            raise NotFound(f"the simulated source has no VM {vm}", code="no_such_vm") from None

    def _write(self, state: SimulatedSourceVm) -> None:
        write_durably(self._directory / f"{state.vm.name}.json", json.dumps(encode(state)).encode())


def _bitmap(action: str, file: Path, name: str) -> None:
    run(["qemu-img", "bitmap", action, "-f", "qcow2", str(file), name], timeout=_TIMEOUT)
