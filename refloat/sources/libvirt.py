"""Protected VMs on libvirt (KVM): power, and their changed blocks over NBD.

The hub reads over Unix sockets, so libvirt's host must be the hub's own for now; read_changes says so.
"""

from __future__ import annotations

import os
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import libvirt

from refloat.errors import Failed, RefloatError, Refused
from refloat.libvirt_connection import Connection, libvirt_errors
from refloat.model import PowerState, SourceVM
from refloat.sources.base import ChangeSet, DiskReader
from refloat.sources.libvirt_backup import (
    CONTEXT,
    begin_backup,
    checkpoint_names,
    delete_checkpoints,
    end_backup,
)
from refloat.sources.libvirt_hardware import DiskImage, parse_disks, parse_vm
from refloat.sources.offline import bitmap_doubt, image_info, start_reader, stop_readers
from refloat.sync.nbd import unix_uri

SOCKET_DIR = Path("/run/refloat-nbd")

_POLL = 0.25  # seconds
_PRESS_AGAIN = 10.0  # an ACPI press before the guest's kernel listens is lost
_RAW = "the disk is raw: it has no bitmaps"

_POWER = {
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.OFF,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.PAUSED,
    # A process that holds the disks is there: that is not off.
    libvirt.VIR_DOMAIN_CRASHED: PowerState.PAUSED,
}


class LibvirtSource:
    """Implements sources.base.Source. `socket_dir` must be on libvirt's host; it is made for QEMU's user."""

    def __init__(self, uri: str, socket_dir: Path = SOCKET_DIR) -> None:
        self._connection = Connection(uri)
        self._socket_dir = socket_dir

    # ------------------------------------------------------------ hardware and power

    def inventory(self, vm: str) -> SourceVM:
        with self._domain(vm) as domain:
            return parse_vm(domain.XMLDesc(0), lambda key: int(domain.blockInfo(key)[0]))

    def power_state(self, vm: str) -> PowerState:
        with self._domain(vm) as domain:
            return _power(domain)

    def shut_down(self, vm: str, deadline: float) -> bool:
        with self._domain(vm) as domain:
            end = time.monotonic() + deadline
            press = 0.0
            while _power(domain) is not PowerState.OFF:
                now = time.monotonic()
                if now >= end:
                    return False
                if now >= press:
                    with suppress(libvirt.libvirtError):  # it may be off by now, or not listen yet
                        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
                    press = now + _PRESS_AGAIN
                time.sleep(_POLL)
            return True

    def power_off(self, vm: str) -> None:
        """By SIGTERM, on which QEMU closes its bitmaps; harder only where that does not end it."""
        with self._domain(vm) as domain:
            if _power(domain) is PowerState.OFF:
                return
            try:
                domain.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_GRACEFUL)
            except libvirt.libvirtError:
                if _power(domain) is not PowerState.OFF:
                    domain.destroyFlags(0)

    def power_on(self, vm: str) -> None:
        with self._domain(vm) as domain:
            if domain.isActive():
                if _power(domain) is PowerState.PAUSED:
                    domain.resume()
                return
            directory = self._directory(domain)
            stop_readers(directory)  # QEMU does not start while they hold the disks
            directory.rmdir()
            domain.create()

    def autostart(self, vm: str) -> bool:
        with self._domain(vm) as domain:
            return bool(domain.autostart())

    def set_autostart(self, vm: str, enabled: bool) -> None:
        with self._domain(vm) as domain:
            if bool(domain.autostart()) is not enabled:
                domain.setAutostart(int(enabled))

    # ------------------------------------------------------------ changed blocks

    @contextmanager
    def read_changes(self, vm: str, since: str | None, checkpoint: str) -> Iterator[ChangeSet]:
        self._require_local()
        with self._domain(vm) as domain:
            disks = parse_disks(domain.XMLDesc(0))
            self._clean_up(domain, disks, since)
            known = since is None or since in checkpoint_names(domain)
            running = bool(domain.isActive())
            directory = self._directory(domain)
        doubt = "" if known else f"libvirt does not know the checkpoint {since}"
        readers = self._read_running if running else self._read_off
        try:
            with readers(vm, disks, since, checkpoint, doubt) as changes:
                yield changes
        finally:
            with suppress(OSError):  # not empty where the VM died: the next run cleans it
                directory.rmdir()

    def forget(self, vm: str, keep: str | None) -> None:
        with self._domain(vm) as domain:
            delete_checkpoints(domain, parse_disks(domain.XMLDesc(0)), keep)

    # ------------------------------------------------------------ how

    @contextmanager
    def _domain(self, vm: str) -> Iterator[libvirt.virDomain]:
        connection = self._connection.get()
        with libvirt_errors(f"VM {vm}"):
            yield connection.lookupByName(vm)

    def _require_local(self) -> None:
        if not self._connection.is_local():
            raise Refused(
                f"{self._connection.uri} is on another host: its disks cannot be read from here",
                code="source_remote",
                hint="run the hub on the source's host, or protect a VM of this host",
            )

    def _directory(self, domain: libvirt.virDomain) -> Path:
        """For this VM's sockets: short (a socket's path has at most 107 bytes), and QEMU's to write in."""
        uid, gid = _qemu_user(self._connection.get().getCapabilities())
        directory = self._socket_dir / domain.UUIDString()
        try:
            self._socket_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
            if directory.stat().st_uid != uid:
                os.chown(directory, uid, gid)
        except OSError as error:
            raise Failed(
                f"cannot prepare {directory} for QEMU's user: {error.strerror}",
                code="socket_dir",
                hint="run the hub as root, or choose another directory",
            ) from error
        return directory

    def _clean_up(self, domain: libvirt.virDomain, disks: Sequence[DiskImage], since: str | None) -> None:
        """What a killed run left: its backup job, readers, sockets, and checkpoints that never completed."""
        directory = self._directory(domain)
        if domain.isActive():
            end_backup(domain, disks, directory / "vm.sock")
        stop_readers(directory)
        delete_checkpoints(domain, disks, keep=since)

    @contextmanager
    def _read_running(
        self, vm: str, disks: Sequence[DiskImage], since: str | None, checkpoint: str, doubt: str
    ) -> Iterator[ChangeSet]:
        with self._domain(vm) as domain:
            socket = self._directory(domain) / "vm.sock"
            found = begin_backup(domain, disks, socket, None if doubt else since, checkpoint)
            doubt = doubt or found
            capacities = {disk.key: int(domain.blockInfo(disk.key)[0]) for disk in disks}
        try:
            yield ChangeSet(
                checkpoint if any(disk.format == "qcow2" for disk in disks) else "",
                tuple(_reader(disk, socket, capacities[disk.key], CONTEXT, doubt) for disk in disks),
            )
        finally:
            # Not worth an error: the next run ends the job, too, and the VM may be dead.
            with suppress(RefloatError), self._domain(vm) as domain:
                end_backup(domain, disks, socket)

    @contextmanager
    def _read_off(
        self, vm: str, disks: Sequence[DiskImage], since: str | None, _checkpoint: str, doubt: str
    ) -> Iterator[ChangeSet]:
        with self._domain(vm) as domain:
            directory = self._directory(domain)
            crashed = domain.state()[1] == libvirt.VIR_DOMAIN_SHUTOFF_CRASHED
        if since is None:
            doubt = "there is no checkpoint of an earlier sync"
        elif crashed:
            doubt = doubt or "the VM crashed"
        try:
            readers = tuple(_read_image(directory, disk, since, doubt) for disk in disks)
            yield ChangeSet(since or "", readers)
        finally:
            stop_readers(directory)


def _read_image(directory: Path, disk: DiskImage, since: str | None, doubt: str) -> DiskReader:
    image = image_info(disk.path, disk.format)
    if disk.format != "qcow2":
        doubt = _RAW
    elif since and not doubt:
        doubt = bitmap_doubt(image, since)
    bitmap = since if since and not doubt else None
    socket = start_reader(directory, disk.key, disk.path, disk.format, bitmap)
    return _reader(disk, Path(socket), image.capacity, f"qemu:dirty-bitmap:{bitmap}", doubt)


def _reader(disk: DiskImage, socket: Path, capacity: int, context: str, doubt: str) -> DiskReader:
    doubt = _RAW if disk.format != "qcow2" else doubt
    return DiskReader(disk.key, unix_uri(str(socket), disk.key), capacity, None if doubt else context, doubt)


def _power(domain: libvirt.virDomain) -> PowerState:
    return _POWER.get(domain.state()[0], PowerState.RUNNING)


def _qemu_user(capabilities: str) -> tuple[int, int]:
    """The user that libvirt starts QEMU as; ours where libvirt changes no owner (session mode)."""
    for label in ET.fromstring(capabilities).iterfind("host/secmodel[model='dac']/baselabel"):
        uid, _, gid = (label.text or "").partition(":")
        return int(uid), int(gid)
    return os.getuid(), os.getgid()
