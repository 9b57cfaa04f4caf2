"""The destination driver for Apache CloudStack 4.19 and later, on KVM hosts.

A controller VM is promoted by swapping its root volume, which CloudStack allows while the VM is Stopped.
Each verb asks what is there, orders one thing at a time, and is finished when CloudStack's own state says
so: see cloudstack_orders.py for what happens when the hub or an answer is lost in between.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from refloat.destinations.base import Channel, Feasible
from refloat.destinations.cloudstack_api import Api
from refloat.destinations.cloudstack_check import Check
from refloat.destinations.cloudstack_compute import set_compute
from refloat.destinations.cloudstack_disks import delete_volume, set_disks
from refloat.destinations.cloudstack_journal import Journal, Journals
from refloat.destinations.cloudstack_look import Look, Vm, Volume
from refloat.destinations.cloudstack_nics import cidr_of, network_of, set_nics
from refloat.destinations.cloudstack_orders import Orders, alone
from refloat.destinations.cloudstack_plan import Nic, buses_of, can_be, with_buses, with_firmware
from refloat.destinations.cloudstack_settings import CloudStackSettings
from refloat.destinations.cloudstack_snapshots import CONTENT, HOME_DISKS, MADE, Snapshots
from refloat.errors import Failed, Refused, Unreachable
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

_UNLIMITED = 1 << 60
_GIB = 1 << 30
# Notes in the journal: what the controller was before, where Hardware does not say it. Gone when it is that
# again.
_ID, _COMPUTE, _OS, _NAME = "id", "compute", "os_type", "name"


class CloudStackDestination:
    """Destination (base.py). Volume ids are CloudStack's; `directory` holds the driver's journals."""

    has_channel = False

    def __init__(self, settings: CloudStackSettings, directory: Path) -> None:
        self._settings = settings
        self._api = Api(settings)
        self._look = Look(self._api)
        self._journals = Journals(directory)
        self._snapshots = Snapshots(self._look)
        self._check = Check(self._look)

    def _vm(self, vm: str) -> Vm:
        return self._look.vm(vm, str(self._journals.read(vm).notes.get(_ID, "")))

    @contextmanager
    def _alone(self, vm: str, off: bool = False) -> Iterator[tuple[Orders, Vm]]:
        """The right to give orders, and the VM as it is then. Raises Failed (vm_not_off) where it must be
        `off`."""
        before = self._vm(vm)

        def known(journal: Journal) -> list[str]:
            """The ids on which its jobs are: jobs of a snapshot name the snapshot alone."""
            attached = [volume.id for volume in self._look.volumes(before.id)]
            volumes = {*attached, *(journal.notes.get(HOME_DISKS) or {})}
            made = [one.id for volume in volumes for one in self._look.snapshots(volume)]
            return [before.id, *volumes, *made]

        with alone(self._api, self._journals, vm, known) as orders:
            orders.journal.note(_ID, before.id)
            found = self._look.vm(vm, before.id)
            if off and found.power is not PowerState.OFF:
                raise Failed(f"VM {vm} is {found.state}, not off", code="vm_not_off", hint="stop it first")
            yield orders, found

    # ------------------------------------------------------------ looking

    def hardware(self, vm: str) -> Hardware:
        found = self._vm(vm)
        root, data = buses_of(found.details)
        names = {network: name for name, network in self._settings.networks.items()}
        return Hardware(
            cpus=found.cpus,
            memory=found.memory << 20,
            firmware=found.firmware,
            disks=tuple(
                AttachedDisk(volume.serial, volume.id, root if volume.root else data)
                for volume in self._look.volumes(found.id)
            ),
            nics=tuple(
                AttachedNic(nic.mac, names.get(nic.network, nic.network), NicModel.VIRTIO, nic.address)
                for nic in found.nics
            ),
            clock_utc=found.clock_utc,
        )

    def require_devices(self, bus: DiskBus, nic: NicModel) -> None:
        if not can_be([bus]) or nic is not NicModel.VIRTIO:
            raise Refused(
                f"CloudStack gives no {bus} disks with {nic} adapters",
                code="no_such_device",
                hint="it has virtio-blk, virtio-scsi and sata disks, and virtio-net adapters",
            )

    def cpu_flags(self, vm: str) -> frozenset[str] | None:
        """CloudStack does not tell what its hosts' processors are."""
        self._vm(vm)
        return None

    def power_state(self, vm: str) -> PowerState:
        return self._vm(vm).power

    def observe(self, vm: str) -> Observation:
        """Reads and writes of disks only where CloudStack collects them (vm.disk.stats.interval)."""
        found = self._vm(vm)
        if found.power is PowerState.OFF:
            return Observation(PowerState.OFF, found.state)
        volumes = self._look.volumes(found.id)
        return Observation(
            found.power,
            found.state,
            _counted(volumes, "diskkbsread"),
            _counted(volumes, "diskkbswrite"),
            tuple(nic.mac for nic in found.nics) if found.state == "Running" else (),
        )

    def check(self, vm: str, wanted: Hardware, name: str) -> Feasible:
        found = self._vm(vm)
        return self._check.all(found, wanted, name, self._journals.read(vm).notes)

    # ------------------------------------------------------------ power

    def start(self, vm: str) -> None:
        with self._alone(vm) as (orders, _):
            orders.journal.note(CONTENT, None)
            self._order_start(orders, vm)

    def _order_start(self, orders: Orders, vm: str) -> None:
        found = self._vm(vm)
        orders.give("startVirtualMachine", lambda: self._vm(vm).state == "Running", f"VM {vm}", id=found.id)

    def stop(self, vm: str, graceful: float) -> None:
        """Hard is CloudStack's `forced`: as that may mark a VM as stopped whose host is silent, it is not
        ordered then, and nothing is known of the VM."""
        with self._alone(vm) as (orders, found):
            if graceful and found.power is not PowerState.OFF:
                self._ask_to_stop(orders, vm, graceful)
            if self._vm(vm).power is PowerState.OFF:
                return
            if str(found.item.get("hostcontrolstate", "")) == "Offline":
                raise Unreachable(
                    f"the host of VM {vm} is silent: nobody knows whether the VM is off",
                    code="host_offline",
                    hint="bring the host back, or fence it in CloudStack",
                )
            self._give_stop(orders, vm, found.id, True)

    def _ask_to_stop(self, orders: Orders, vm: str, graceful: float) -> None:
        """CloudStack itself stops hard when the guest does not obey in its own time; no error of it ends
        ours."""
        deadline = time.monotonic() + graceful
        try:
            self._give_stop(orders, vm, self._vm(vm).id, False)
        except (Failed, Refused):
            while self._vm(vm).power is not PowerState.OFF and time.monotonic() < deadline:
                time.sleep(self._settings.poll)

    def _give_stop(self, orders: Orders, vm: str, known: str, forced: bool) -> None:
        orders.give(
            "stopVirtualMachine",
            lambda: self._vm(vm).power is PowerState.OFF,
            f"VM {vm}",
            id=known,
            forced=forced,
        )

    # ------------------------------------------------------------ definition

    def set_compute(self, vm: str, cpus: int, memory: int) -> None:
        with self._alone(vm, off=True) as (orders, found):
            set_compute(orders, self._look, found, cpus, -(-memory // (1 << 20)), _COMPUTE)

    def set_disks(self, vm: str, disks: Sequence[AttachedDisk]) -> None:
        with self._alone(vm, off=True) as (orders, found):
            set_disks(orders, self._look, found, disks, HOME_DISKS)
            self._set_details(orders, vm, with_buses(found.details, [disk.bus for disk in disks]))

    def set_nics(self, vm: str, nics: Sequence[AttachedNic]) -> None:
        with self._alone(vm, off=True) as (orders, found):
            for nic in nics:
                self.require_devices(DiskBus.VIRTIO_BLK, nic.model)
            set_nics(orders, self._look, found, nics, self._settings.networks)

    def set_firmware(self, vm: str, firmware: Firmware) -> None:
        """UEFI variables lie on the host and are new: the guest boots by \\EFI\\BOOT\\BOOTX64.EFI."""
        with self._alone(vm, off=True) as (orders, found):
            if found.firmware is not firmware:
                self._set_details(orders, vm, with_firmware(found.details, firmware))

    def _set_details(self, orders: Orders, vm: str, details: dict[str, str]) -> None:
        """All of them: CloudStack replaces what is there by what it is given."""
        found = self._vm(vm)
        params = {"details": [details]} if details else {"cleanupdetails": True}
        orders.give(
            "updateVirtualMachine",
            lambda: _holds(self._vm(vm), details),
            f"the details of VM {vm}",
            id=found.id,
            **params,
        )

    def set_clock(self, vm: str, utc: bool) -> None:
        """By the OS type, from which CloudStack takes clock and devices."""
        with self._alone(vm, off=True) as (orders, found):
            notes = orders.journal.notes
            if found.clock_utc is utc:
                return
            if notes.get(_OS) is None:
                orders.journal.note(_OS, {"id": found.os_type, "utc": found.clock_utc})
            home = notes[_OS]
            name = self._settings.linux_os if utc else self._settings.windows_os
            wanted = str(home["id"]) if home["utc"] is utc else self._look.os_type(name)
            orders.give(
                "updateVirtualMachine",
                lambda: self._vm(vm).os_type == wanted,
                f"the OS type of VM {vm}",
                id=found.id,
                ostypeid=wanted,
            )
            if home["id"] == wanted:
                orders.journal.note(_OS, None)

    def set_name(self, vm: str, name: str) -> None:
        """What DHCP and metadata call it; the display name, by which the estate knows it, stays."""
        with self._alone(vm, off=True) as (orders, found):
            before = str(found.item.get("name", ""))
            home = orders.journal.notes.get(_NAME) or before
            wanted = name or home
            if wanted == before:
                return
            orders.journal.note(_NAME, home)
            orders.give(
                "updateVirtualMachine",
                lambda: self._vm(vm).item.get("name") == wanted,
                f"the host name of VM {vm}",
                id=found.id,
                name=wanted,
            )
            if wanted == home:
                orders.journal.note(_NAME, None)

    # ------------------------------------------------------------ rollback points

    def snapshot(self, vm: str, serials: Sequence[str], tag: str) -> tuple[RollbackPoint, ...]:
        with self._alone(vm) as (orders, found):
            self._snapshots.make(orders, found, serials, tag)
            return self._snapshots.points(found, tag, orders.journal.notes)

    def rollback_points(self, vm: str, tag: str) -> tuple[RollbackPoint, ...]:
        return self._snapshots.points(self._vm(vm), tag, self._journals.read(vm).notes)

    def stamps(self, vm: str) -> dict[str, str]:
        """Of the rollback points: CloudStack sees no writes to a volume, see cloudstack_snapshots.py."""
        return self._snapshots.stamps(self._vm(vm), self._journals.read(vm).notes)

    def revert(self, vm: str, tag: str) -> None:
        with self._alone(vm) as (orders, found):
            self._snapshots.revert(orders, found, tag)

    def merge(self, vm: str, tag: str) -> None:
        """The writes are in the volumes already: only the snapshots go, and the way back with them."""
        with self._alone(vm) as (orders, found):
            self._snapshots.drop(orders, self._snapshots.volumes(found, orders.journal.notes), tag)
            for note in (HOME_DISKS, _COMPUTE, _OS, _NAME, CONTENT, MADE):
                orders.journal.note(note, None)

    # ------------------------------------------------------------ volumes

    def delete_volume(self, vm: str, volume: str) -> None:
        with self._alone(vm) as (orders, found):
            delete_volume(orders, self._look, found, volume)

    def free_bytes(self, vm: str) -> int:
        """What the limits of the account leave; what the storage itself has left only an administrator
        sees."""
        self._check.require_swappable(self._vm(vm))
        left = self._check.account()
        room = [left.get("primarystorageavailable"), left.get("secondarystorageavailable")]
        limited = [int(float(str(gib)) * _GIB) for gib in room if gib not in (None, "", "Unlimited", "-1")]
        return min(limited, default=_UNLIMITED)

    # ------------------------------------------------------------ reaching the guest

    def reach(self, vm: str, address: str, port: int) -> tuple[str, int]:
        """Directly: the hub must have a route to the controllers' network."""
        found = self._vm(vm)
        try:
            wanted = ipaddress.ip_address(address)
        except ValueError as error:
            raise Refused(f"{address!r} is no address", code="bad_address") from error
        spans = [self._span(nic) for nic in found.nics]
        if not any(span is None or wanted in span for span in spans):
            shown = ", ".join(str(span) for span in spans) or "none"
            raise Refused(f"{address} is in none of the networks of {vm}: {shown}", code="out_of_reach")
        return address, port

    def _span(self, nic: Nic) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        """Of an adapter's network; None of one without addresses (L2), where it may be any."""
        cidr = cidr_of(network_of(self._api, nic.network))
        return ipaddress.ip_network(cidr, strict=False) if cidr else None

    def channel(self, vm: str, name: str) -> AbstractContextManager[Channel]:
        raise _no_channel(f"the channel {name}")

    def serial(self, vm: str) -> AbstractContextManager[Channel]:
        raise _no_channel("the serial line")

    def screenshot(self, vm: str) -> bytes:
        """CloudStack shows consoles to people only: see `console`."""
        self._vm(vm)
        return b""

    def console(self, vm: str) -> str:
        """The VM's page in CloudStack's own interface, where a person opens its console. Without a token of
        createConsoleEndpoint: evidence is kept and passed on, and whoever has that link has the console."""
        parts = urlsplit(self._settings.url)
        return f"{parts.scheme}://{parts.netloc}/client/#/vm/{self._vm(vm).id}"


def _counted(volumes: Sequence[Volume], name: str) -> dict[str, int]:
    return {one.serial: int(one.item[name]) * 1024 for one in volumes if one.item.get(name) is not None}


def _holds(vm: Vm, details: dict[str, str]) -> bool:
    return all(vm.details.get(name) == value for name, value in details.items()) and not (
        set(vm.details) - set(details)
    )


def _no_channel(what: str) -> Refused:
    return Refused(
        f"CloudStack does not give {what} of a VM to anybody",
        code="no_channel",
        hint="the guest reports over its network: the hub must be reachable from there",
    )
