"""A small world in memory: source, destination and controller with just enough state to go wrong.

It proves the job's logic (order, undo, states, invariants), never a driver: those run on libvirt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from refloat.controller.client import ControllerClient
from refloat.destinations.base import Channel, Destination, Feasible
from refloat.errors import Failed, RefloatError, Refused
from refloat.guest.inspect import inspect
from refloat.model import (
    Adaptation,
    AdaptRequest,
    AttachedDisk,
    AttachedNic,
    DiskBus,
    Endpoint,
    Firmware,
    GuestCaps,
    Hardware,
    Mode,
    NicModel,
    Observation,
    PlannedDisk,
    PowerState,
    Remediation,
    ReplicaDisk,
    RollbackPoint,
    Secrets,
    SyncPoint,
    Target,
    TargetState,
)
from refloat.policy import Policy
from refloat.run import Networks, Run
from refloat.sources.base import Source
from refloat.store.store import Store
from tests.unit.builders import FACTS, MAC, REPORT, SOURCE

TARGET = Target(
    name="web",
    source_site="a",
    source_vm="web",
    site="b",
    controller_vm="web-controller",
    endpoint=Endpoint("10.0.0.1", 22, "root", "/key", "ssh-ed25519 AAAA"),
    disks=(ReplicaDisk("sda", "rf-sda"), ReplicaDisk("sdb", "rf-sdb")),
    policy="default",
)
POINT = SyncPoint("p1", "2026-01-01T00:00:00+00:00", "refloat-p1", "full", 1)


class FakeSource:
    def __init__(self) -> None:
        self.power = PowerState.RUNNING
        self.starts = True
        self.vm = SOURCE
        self.obeys = True
        self.changed: list[str] = []  # what was asked of it beyond reading

    def inventory(self, vm: str) -> Any:
        return self.vm

    def power_state(self, vm: str) -> PowerState:
        return self.power

    def shut_down(self, vm: str, deadline: float) -> bool:
        self.changed.append("shut_down")
        if self.obeys:
            self.power = PowerState.OFF
        return self.obeys

    def power_off(self, vm: str) -> None:
        self.changed.append("power_off")
        self.power = PowerState.OFF

    def power_on(self, vm: str) -> None:
        self.changed.append("power_on")
        self.power = PowerState.RUNNING

    def autostart(self, vm: str) -> bool:
        return self.starts

    def set_autostart(self, vm: str, enabled: bool) -> None:
        self.changed.append("set_autostart")
        self.starts = enabled


class FakeChannel:
    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines
        self.written: list[bytes] = []

    def read(self, timeout: float) -> bytes:
        return self.lines.pop(0) if self.lines else b""

    def write(self, data: bytes) -> None:
        self.written.append(data)


CONTROLLER = Hardware(
    cpus=1,
    memory=1 << 28,
    firmware=Firmware.BIOS,
    disks=(
        AttachedDisk("rf-controller", "/own"),
        AttachedDisk("rf-sda", "/a"),
        AttachedDisk("rf-sdb", "/b"),
    ),
    nics=(AttachedNic("52:54:00:00:00:01", "management"),),
)


@dataclass
class FakeDestination:
    """`content` is what each base volume holds; an overlay shadows it until it is dropped or merged."""

    defined: Hardware = field(default_factory=lambda: CONTROLLER)
    power: PowerState = PowerState.RUNNING
    writes: dict[str, int] = field(default_factory=lambda: {"/a": 0, "/b": 0})
    overlays: dict[str, str] = field(default_factory=dict)  # serial -> base
    deleted: list[str] = field(default_factory=list)
    free: int = 1 << 40
    refusal: Refused | None = None  # of the VM's disks, when preflight asks
    fail: dict[str, int] = field(default_factory=dict)  # verb -> how often it fails
    calls: list[str] = field(default_factory=list)
    hear: Callable[[], list[bytes]] = list
    hear_serial: Callable[[], list[bytes]] = list
    picture: bytes = b""
    page: str = ""
    feasible: Feasible = field(default_factory=Feasible)
    names: list[str] = field(default_factory=list)
    flags: frozenset[str] | None = None
    buses: tuple[DiskBus, ...] = (DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_SCSI, DiskBus.SATA)

    has_channel = True

    def _call(self, verb: str) -> None:
        self.calls.append(verb)
        if self.fail.get(verb, 0):
            self.fail[verb] -= 1
            raise Failed(f"{verb} went wrong", code="sabotage")

    def hardware(self, vm: str) -> Hardware:
        return self.defined

    def require_devices(self, bus: DiskBus, nic: NicModel) -> None:
        if bus not in self.buses:
            raise Refused(f"no disks by {bus} here", code="disk_bus", hint="choose another")

    def check(self, vm: str, wanted: Hardware, name: str) -> Feasible:
        return self.feasible

    def cpu_flags(self, vm: str) -> frozenset[str] | None:
        return self.flags

    def power_state(self, vm: str) -> PowerState:
        return self.power

    def start(self, vm: str) -> None:
        self._call("start")
        self.power = PowerState.RUNNING

    def stop(self, vm: str, graceful: float) -> None:
        self._call("stop")
        self.power = PowerState.OFF

    def set_compute(self, vm: str, cpus: int, memory: int) -> None:
        self._call("set_compute")
        self.defined = replace(self.defined, cpus=cpus, memory=memory)

    def set_disks(self, vm: str, disks: Sequence[AttachedDisk]) -> None:
        self._call("set_disks")
        self.defined = replace(self.defined, disks=tuple(disks))

    def set_nics(self, vm: str, nics: Sequence[AttachedNic]) -> None:
        self._call("set_nics")
        self.defined = replace(self.defined, nics=tuple(nics))

    def set_name(self, vm: str, name: str) -> None:
        self.names.append(name)

    def set_firmware(self, vm: str, firmware: Firmware) -> None:
        self._call("set_firmware")
        self.defined = replace(self.defined, firmware=firmware)

    def set_clock(self, vm: str, utc: bool) -> None:
        self._call("set_clock")
        self.defined = replace(self.defined, clock_utc=utc)

    def snapshot(self, vm: str, serials: Sequence[str], tag: str) -> tuple[RollbackPoint, ...]:
        self._call("snapshot")
        volumes = {disk.serial: disk.volume for disk in self.defined.disks}
        for serial in serials:
            self.overlays.setdefault(serial, volumes[serial].partition("+")[0])
        self._show()
        return self.rollback_points(vm, tag)

    def _show(self) -> None:
        disks = tuple(
            replace(
                disk,
                volume=disk.volume.partition("+")[0] + ("+overlay" if disk.serial in self.overlays else ""),
            )
            for disk in self.defined.disks
        )
        self.defined = replace(self.defined, disks=disks)

    def rollback_points(self, vm: str, tag: str) -> tuple[RollbackPoint, ...]:
        return tuple(
            RollbackPoint(serial, base, f"{base}+overlay", str(self.writes[base]), 0)
            for serial, base in self.overlays.items()
        )

    def stamps(self, vm: str) -> dict[str, str]:
        return {
            disk.serial: str(self.writes.get(disk.volume.partition("+")[0], 0)) for disk in self.defined.disks
        }

    def revert(self, vm: str, tag: str) -> None:
        self._call("revert")
        assert self.power is PowerState.OFF
        self.overlays.clear()
        self._show()

    def merge(self, vm: str, tag: str) -> None:
        self._call("merge")
        for base in self.overlays.values():
            self.writes[base] += 1
        self.overlays.clear()
        self._show()

    def delete_volume(self, vm: str, volume: str) -> None:
        self._call("delete_volume")
        self.deleted.append(volume)

    def free_bytes(self, vm: str) -> int:
        if self.refusal:
            raise self.refusal
        return self.free

    def reach(self, vm: str, address: str, port: int) -> tuple[str, int]:
        return address, port

    @contextmanager
    def channel(self, vm: str, name: str) -> Iterator[Channel]:
        yield FakeChannel(self.hear())

    @contextmanager
    def serial(self, vm: str) -> Iterator[Channel]:
        yield FakeChannel(self.hear_serial())

    def screenshot(self, vm: str) -> bytes:
        return self.picture

    def console(self, vm: str) -> str:
        return self.page

    def observe(self, vm: str) -> Observation:
        linked = tuple(nic.mac for nic in self.defined.nics)
        return Observation(self.power, "", {disk.serial: 4096 for disk in self.defined.disks}, {}, linked)


class FakeController:
    def __init__(self) -> None:
        self.merged = POINT.id
        self.exports: tuple[str, ...] = ()
        self.adapted = 0
        self.facts = FACTS
        self.fail = ""
        self.image: Path | None = None  # the content of the replica, where inspection is to be real
        self.cannot_look: Failed | None = None
        self.asked: list[tuple[DiskBus, NicModel, dict[str, str]]] = []  # by inspect, then by adapt
        self.request: AdaptRequest | None = None
        self.drivers_sent: dict[str, bytes] = {}

    def health(self) -> Any:
        return SimpleNamespace(merged_point=self.merged)

    def inspect(
        self, disks: Sequence[PlannedDisk], bus: DiskBus, nic: NicModel, luks_keys: dict[str, str]
    ) -> Any:
        """A refusal comes as it does over SSH."""
        self.asked.append((bus, nic, luks_keys))
        if self.image:
            try:
                return inspect({"sda": str(self.image)}, [disk.key for disk in disks], bus, nic)
            except Refused as error:
                raise RefloatError.from_dict(error.to_dict()) from None
        if self.cannot_look:
            raise self.cannot_look
        return self.facts

    def stop_exports(self) -> str:
        self.exports = ()
        return self.merged

    def open_exports(self) -> tuple[str, ...]:
        return self.exports

    def adapt(self, request: Any, facts: Any, progress: Callable[[dict[str, Any]], None]) -> Adaptation:
        self.request = request
        self.asked.append((request.disk_bus, request.nic_model, request.luks_keys))
        progress({"message": "mounting"})
        if self.fail:
            raise Failed(self.fail, code="sabotage")
        self.adapted += 1
        return Adaptation(
            GuestCaps(
                (request.disk_bus,),
                (request.nic_model,),
                Firmware.BIOS,
                True,
                Remediation.SCHEDULED,
                clock_utc=request.windows is None,
            ),
            (),
            self.facts,
        )

    def drivers(self, files: Any, contents: Callable[[], dict[str, bytes]]) -> str:
        if not self.drivers_sent:
            self.drivers_sent = contents()
        assert set(self.drivers_sent) == {file.path for file in files}
        return "/var/lib/refloat/drivers/x"

    def wait_ready(self) -> None: ...

    def disconnect(self) -> None: ...


@dataclass
class World:
    """Everything that a job touches; `run` gives a step's context as the hub would."""

    directory: Path
    store: Store
    source: FakeSource = field(default_factory=FakeSource)
    destination: FakeDestination = field(default_factory=FakeDestination)
    controller: FakeController = field(default_factory=FakeController)
    policy: Policy = field(default_factory=lambda: Policy(report_deadline=5))
    drivers: Path | None = None

    def run(self, job: str) -> Run:
        def synchronise(cancelled: Callable[[], bool]) -> SyncPoint:
            self.controller.merged = "p2"
            point = replace(POINT, id="p2")
            self.store.save_sync_point("web", point)
            return point

        return Run(
            job=job,
            mode=self.store.job(job).mode,
            target=TARGET,
            policy=self.policy,
            networks=Networks({"user": "production"}, {"user": "bubble"}),
            source=cast(Source, self.source),
            destination=cast(Destination, self.destination),
            controller=cast(ControllerClient, self.controller),
            store=self.store,
            data_dir=self.directory,
            synchronise=synchronise,
            drivers=self.drivers,
        )

    def job(self, mode: Mode = Mode.PLANNED) -> str:
        return self.store.create_job("web", mode).id

    def good_report(self, job: str) -> list[bytes]:
        """What the adapted guest would say over its channel."""
        import json

        from refloat.codec import encode

        secrets = self.store.load(job, "secrets", Secrets)
        assert secrets is not None
        data = encode(REPORT)
        data.pop("received")
        data["seq"] = data.pop("sequence")
        data.update(v=1, job=job, token=secrets.token, nonce=secrets.nonce)
        return [json.dumps(data).encode() + b"\n"]


def make_world(directory: Path) -> World:
    store = Store.open(directory / "refloat.sqlite")
    store.ensure_target("web")
    store.save_sync_point("web", POINT)
    store.release_target("web", "", TargetState.READY)
    return World(directory, store)


__all__ = ["MAC", "POINT", "TARGET", "FakeChannel", "World", "make_world"]
