"""A destination platform without virtual machines: files and state in a directory, faults by configuration.

A real driver under the same contract as the others, for crash tests, for scale, and for operators who want
to try policies. Its VMs execute nothing: what their guests do is written into them from outside (`guest_*`),
by a test or by simulated_guest.py. Several processes may use one directory; each verb is atomic.
"""

from __future__ import annotations

import functools
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar, cast

from refloat.destinations.base import Channel, Feasible
from refloat.destinations.simulated_channel import HostEnd, grey_png
from refloat.destinations.simulated_faults import Faults
from refloat.destinations.simulated_state import SimulatedVm, VmStates
from refloat.destinations.simulated_volumes import VolumeStore
from refloat.errors import Failed, NotFound, Refused
from refloat.model import (
    AttachedDisk,
    AttachedNic,
    DiskBus,
    Firmware,
    Hardware,
    NicModel,
    Observation,
    PowerState,
    RollbackPoint,
)

_TAG = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SERIAL = re.compile(r"[A-Za-z0-9._-]{1,20}")  # what QEMU's virtio-blk shows of one
_BUSES = (DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_SCSI, DiskBus.SATA)
_NICS = (NicModel.VIRTIO, NicModel.E1000E)
# Of x86-64-v2, as /proc/cpuinfo names them.
_FLAGS = frozenset(
    {"lm", "cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"}
    | {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3", "pni"}
)
_POLL = 0.02  # seconds

T = TypeVar("T")


@dataclass(frozen=True)
class SimulatedNetwork:
    """A closed segment; only addresses of its `subnet` can be reached."""

    subnet: str


def verb(method: Callable[..., T]) -> Callable[..., T]:
    """A method that the platform's faults apply to; the last answers are kept for stale ones."""

    @functools.wraps(method)
    def call(self: SimulatedDestination, vm: str, *args: Any, **kwargs: Any) -> T:
        name = method.__name__
        key = (name, vm, repr(args))
        result = self.faults.apply(
            name,
            vm,
            lambda: method(self, vm, *args, **kwargs),
            lambda: cast("T | None", self.answers.get(key)),
        )
        if result is not None:
            self.answers[key] = result
        return result

    return call


class SimulatedDestination:
    """A platform in `directory`. See base.py for what each verb promises."""

    has_channel = True

    def __init__(self, directory: Path, networks: Mapping[str, SimulatedNetwork]) -> None:
        self._directory = directory
        self._networks = dict(networks)
        self._vms = VmStates(directory / "vms")
        self.volumes = VolumeStore(directory / "volumes")
        self.faults = Faults(directory / "faults.json")
        self.answers: dict[tuple[str, str, str], Any] = {}
        self.on_listen: Callable[[str, str], None] = lambda vm, channel: None  # somebody listens to the guest
        self.on_start: Callable[[str], None] = lambda vm: None  # just before it runs
        self.on_stop: Callable[[str], None] = lambda vm: None

    # ------------------------------------------------------------ looking

    @verb
    def hardware(self, vm: str) -> Hardware:
        return self._vms.read(vm).hardware

    def require_devices(self, bus: DiskBus, nic: NicModel) -> None:
        if bus not in _BUSES or nic not in _NICS:
            raise Refused(
                f"the simulated platform has no {bus} disks with {nic} adapters",
                code="no_such_device",
                hint=f"it has {', '.join((*_BUSES, *_NICS))}: choose among them in the policy",
            )

    def check(self, vm: str, wanted: Hardware, name: str) -> Feasible:
        return Feasible()

    @verb
    def cpu_flags(self, vm: str) -> frozenset[str] | None:
        self._vms.read(vm)
        return _FLAGS

    @verb
    def power_state(self, vm: str) -> PowerState:
        return self._vms.read(vm).power

    @verb
    def observe(self, vm: str) -> Observation:
        state = self._vms.read(vm)
        if state.power is PowerState.OFF:
            return Observation(state.power, state.reason)
        serials = [disk.serial for disk in state.hardware.disks]
        return Observation(
            state.power,
            state.reason,
            {serial: state.read.get(serial, 0) for serial in serials},
            {serial: state.written.get(serial, 0) for serial in serials},
            tuple(nic.mac for nic in state.hardware.nics if state.linked),
        )

    @verb
    def screenshot(self, vm: str) -> bytes:
        return b"" if self._vms.read(vm).power is PowerState.OFF else grey_png()

    def console(self, vm: str) -> str:
        return ""

    # ------------------------------------------------------------ power

    @verb
    def start(self, vm: str) -> None:
        if self._vms.read(vm).power is PowerState.OFF:
            self.on_start(vm)
        with self._vms.changing(vm) as state:
            for disk in state.hardware.disks:
                self.volumes.require(disk.volume)
            if state.power is PowerState.OFF:
                shutil.rmtree(self._channels(vm), ignore_errors=True)
                zero: dict[str, int] = {}
                state = replace(state, boots=state.boots + 1, started=time.time(), read=zero, written=zero)
            self._vms.write(vm, replace(state, power=PowerState.RUNNING, reason="started"))

    @verb
    def stop(self, vm: str, graceful: float) -> None:
        deadline = time.monotonic() + graceful
        while not (obeys := self._vms.read(vm).obeys) and time.monotonic() < deadline:
            if self._vms.read(vm).power is PowerState.OFF:
                return
            time.sleep(_POLL)
        with self._vms.changing(vm) as state:
            if state.power is not PowerState.OFF:
                reason = "shut down" if graceful and obeys else "stopped"
                self._vms.write(vm, replace(state, power=PowerState.OFF, reason=reason))
        self.on_stop(vm)

    # ------------------------------------------------------------ definition

    @verb
    def set_compute(self, vm: str, cpus: int, memory: int) -> None:
        self._define(vm, cpus=cpus, memory=memory)

    @verb
    def set_disks(self, vm: str, disks: Sequence[AttachedDisk]) -> None:
        for disk in disks:
            if not _SERIAL.fullmatch(disk.serial):
                raise Refused(f"{disk.serial!r} cannot be a disk's serial", code="bad_serial")
            self.require_devices(disk.bus, _NICS[0])
            self.volumes.require(disk.volume)
        for what in ([disk.serial for disk in disks], [disk.volume for disk in disks]):
            if len(set(what)) < len(what):
                raise Refused(f"a disk is named twice: {', '.join(what)}", code="disk_twice")
        self._define(vm, disks=tuple(disks))

    @verb
    def set_nics(self, vm: str, nics: Sequence[AttachedNic]) -> None:
        for nic in nics:
            self.require_devices(_BUSES[0], nic.model)
            if nic.network not in self._networks:
                known = ", ".join(self._networks) or "none"
                raise Refused(
                    f"the simulated platform has no network {nic.network}",
                    code="no_such_network",
                    hint=f"it has {known}",
                )
        self._define(vm, nics=tuple(nics))

    def set_name(self, vm: str, name: str) -> None: ...

    @verb
    def set_firmware(self, vm: str, firmware: Firmware) -> None:
        self._define(vm, firmware=firmware)

    @verb
    def set_clock(self, vm: str, utc: bool) -> None:
        self._define(vm, clock_utc=utc)

    def _define(self, vm: str, **changes: Any) -> None:
        with self._vms.changing(vm) as state:
            _require_off(vm, state)
            self._vms.write(vm, replace(state, hardware=replace(state.hardware, **changes)))

    # ------------------------------------------------------------ rollback points

    @verb
    def snapshot(self, vm: str, serials: Sequence[str], tag: str) -> tuple[RollbackPoint, ...]:
        _check_tag(tag)
        with self._vms.changing(vm) as state:
            disks = {disk.serial: disk for disk in state.hardware.disks}
            unknown = [serial for serial in serials if serial not in disks]
            if unknown:
                raise Refused(
                    f"VM {vm} has no disk with serial {', '.join(unknown)}",
                    code="no_such_disk",
                    hint=f"it has {', '.join(disks) or 'none'}",
                )
            for serial in serials:
                if self.volumes.tag(disks[serial].volume) not in ("", tag):
                    raise Refused(
                        f"disk {serial} already has a rollback point: {disks[serial].volume}",
                        code="rollback_point_exists",
                        hint="commit or roll back the job that made it",
                    )
            todo = [disks[serial] for serial in serials if not self.volumes.tag(disks[serial].volume)]
            moved = {disk.volume: self.volumes.add_layer(disk.volume, tag) for disk in todo}
            state = self._moved(vm, state, moved)
            return self._points(state, tag)

    @verb
    def rollback_points(self, vm: str, tag: str) -> tuple[RollbackPoint, ...]:
        _check_tag(tag)
        with self._vms.changing(vm) as state:
            return self._points(state, tag)

    @verb
    def stamps(self, vm: str) -> dict[str, str]:
        with self._vms.changing(vm) as state:
            return {disk.serial: self.volumes.stamp(disk.volume) for disk in state.hardware.disks}

    @verb
    def revert(self, vm: str, tag: str) -> None:
        _check_tag(tag)
        with self._vms.changing(vm) as state:
            _require_off(vm, state)
            # First the definition: a kill after it leaves layers that nothing uses.
            state = self._moved(vm, state, {point.overlay: point.base for point in self._points(state, tag)})
            self._drop_layers(state, tag)

    @verb
    def merge(self, vm: str, tag: str) -> None:
        _check_tag(tag)
        with self._vms.changing(vm) as state:
            points = self._points(state, tag)
            for point in points:
                self.volumes.merge(point.overlay)
            state = self._moved(vm, state, {point.overlay: point.base for point in points})
            self._drop_layers(state, tag)

    def _points(self, state: SimulatedVm, tag: str) -> tuple[RollbackPoint, ...]:
        return tuple(
            RollbackPoint(
                disk.serial,
                self.volumes.base(disk.volume),
                disk.volume,
                self.volumes.stamp(disk.volume),
                self.volumes.written(disk.volume),
            )
            for disk in state.hardware.disks
            if self.volumes.tag(disk.volume) == tag
        )

    def _moved(self, vm: str, state: SimulatedVm, moved: Mapping[str, str]) -> SimulatedVm:
        """The VM with other volumes (old -> new); order, serial and bus stay."""
        disks = tuple(
            replace(disk, volume=moved.get(disk.volume, disk.volume)) for disk in state.hardware.disks
        )
        state = replace(state, hardware=replace(state.hardware, disks=disks))
        if moved:
            self._vms.write(vm, state)
        return state

    def _drop_layers(self, state: SimulatedVm, tag: str) -> None:
        for disk in state.hardware.disks:
            for left in self.volumes.directory.glob(f"{Path(disk.volume).name}.{tag}.layer"):
                self.volumes.delete(str(left))

    # ------------------------------------------------------------ volumes

    @verb
    def delete_volume(self, vm: str, volume: str) -> None:
        self._vms.read(vm)
        for name in self._vms.names():
            for disk in self._vms.read(name).hardware.disks:
                if volume in (disk.volume, self.volumes.base(disk.volume)):
                    raise Refused(
                        f"volume {volume} is attached to VM {name}",
                        code="volume_in_use",
                        hint="detach it there first",
                    )
        self.volumes.delete(volume)

    @verb
    def free_bytes(self, vm: str) -> int:
        self._vms.read(vm)
        return shutil.disk_usage(self._directory).free

    # ------------------------------------------------------------ reaching the guest

    @verb
    def reach(self, vm: str, address: str, port: int) -> tuple[str, int]:
        """Where a simulated guest would listen. Nothing does, unless a test opens that port."""
        state = self._vms.read(vm)
        try:
            wanted = ip_address(address)
        except ValueError as error:
            raise Refused(f"{address!r} is no address", code="bad_address") from error
        nets = [self._networks[nic.network].subnet for nic in state.hardware.nics]
        if not any(wanted in ip_network(net) for net in nets):
            raise Refused(
                f"{address} is in none of the networks of {vm}: {', '.join(nets) or 'none'}",
                code="out_of_reach",
            )
        return "127.0.0.1", 20000 + zlib.crc32(f"{self._directory} {vm} {address} {port}".encode()) % 10000

    @contextmanager
    def channel(self, vm: str, name: str) -> Iterator[Channel]:
        directory = self._channels(vm) / name
        yield HostEnd(vm, directory, lambda: self._vms.read(vm), lambda: self.on_listen(vm, name))

    @contextmanager
    def serial(self, vm: str) -> Iterator[Channel]:
        """Nothing is ever said here: simulated guests have their channel's driver."""
        with self.channel(vm, "serial") as line:
            yield line

    def _channels(self, vm: str) -> Path:
        return self._directory / "channels" / vm

    # ------------------------------------------------------------ what a test or a simulated guest does

    def create(self, vm: str, hardware: Hardware, *, obeys: bool = False) -> None:
        """Defines a VM that is off. Raises Refused for a name that is taken."""
        if self._vms.exists(vm):
            raise Refused(f"VM {vm} exists", code="vm_exists")
        with self._vms.lock(vm):
            self._vms.write(vm, SimulatedVm(hardware, obeys=obeys))

    def destroy(self, vm: str) -> None:
        """Forgets a VM; its volumes stay."""
        self._vms.remove(vm)

    def state(self, vm: str) -> SimulatedVm:
        return self._vms.read(vm)

    def meddle(self, vm: str, **changes: Any) -> None:
        """Changes fields of the VM's state behind the verbs, as a faulty platform or a stranger would."""
        with self._vms.changing(vm) as state:
            self._vms.write(vm, replace(state, **changes))

    def guest_writes(self, vm: str, serial: str, offset: int, data: bytes) -> None:
        with self._vms.changing(vm) as state:
            self.volumes.write(_disk(vm, state, serial).volume, offset, data)
            written = {**state.written, serial: state.written.get(serial, 0) + len(data)}
            self._vms.write(vm, replace(state, written=written))

    def guest_reads(self, vm: str, serial: str, offset: int, length: int) -> bytes:
        with self._vms.changing(vm) as state:
            data = self.volumes.read(_disk(vm, state, serial).volume, offset, length)
            read = {**state.read, serial: state.read.get(serial, 0) + len(data)}
            self._vms.write(vm, replace(state, read=read))
        return data

    def guest_says(self, vm: str, name: str, data: bytes) -> None:
        """Bytes from the guest on this channel, as virtio-serial would carry them."""
        with self._vms.changing(vm):
            directory = self._channels(vm) / name
            directory.mkdir(parents=True, exist_ok=True)
            with (directory / "to-host").open("ab") as handle:
                handle.write(data)
            (directory / "said").touch()

    def may_speak(self, vm: str, name: str, every: float) -> bool:
        """Whether the guest said nothing on this channel for so many seconds."""
        said = self._channels(vm) / name / "said"
        try:
            recent = time.time() - said.stat().st_mtime < every
        except FileNotFoundError:
            recent = False
        return not recent

    def guest_heard(self, vm: str, name: str) -> bytes:
        """All that the host has written to this channel since the VM's start."""
        file = self._channels(vm) / name / "to-guest"
        return file.read_bytes() if file.exists() else b""

    def guest_ends(self, vm: str, power: PowerState, reason: str) -> None:
        """The guest shut itself down, crashed, or was paused by somebody else."""
        with self._vms.changing(vm) as state:
            self._vms.write(vm, replace(state, power=power, reason=reason))


def _disk(vm: str, state: SimulatedVm, serial: str) -> AttachedDisk:
    found = next((disk for disk in state.hardware.disks if disk.serial == serial), None)
    if found is None:
        raise NotFound(f"VM {vm} has no disk {serial}", code="no_such_disk")
    return found


def _require_off(vm: str, state: SimulatedVm) -> None:
    if state.power is not PowerState.OFF:
        raise Failed(f"VM {vm} is {state.power}, not off", code="vm_not_off", hint="stop it first")


def _check_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag):
        raise Refused(
            f"{tag!r} cannot name a rollback point",
            code="bad_tag",
            hint="letters, digits, _ and -, at most 64",
        )
