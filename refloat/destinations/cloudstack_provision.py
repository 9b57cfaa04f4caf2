"""Controllers made on CloudStack: a VM of a template, and one volume for each disk, attached and protected.

Nothing can be written into a volume there, and a key pair, password or user data would reach the recovered
guest, too. So the template has the keys: the wish names the hub's key (`identity`) and the host key that it
shows. Names carry the wish's id: it is in the display name of the VM and in the name of each volume.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from refloat.destinations.cloudstack_api import Api, Item
from refloat.destinations.cloudstack_disks import mark
from refloat.destinations.cloudstack_journal import Journal, Journals
from refloat.destinations.cloudstack_look import Look, Vm, Volume, offering_of, volume_of
from refloat.destinations.cloudstack_orders import Orders, alone
from refloat.destinations.cloudstack_plan import choose
from refloat.destinations.cloudstack_settings import CloudStackSettings
from refloat.destinations.provisioner import Say
from refloat.errors import Failed, NotFound, Refused
from refloat.model import ReplicaDisk, WantedController

_HOST_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]")
_GIB = 1 << 30
_MIB = 1 << 20
_GONE = ("Destroy", "Expunging", "Expunged")


class CloudStackProvisioner:
    """Provisioner (provisioner.py). `storage` of a wish names a disk offering, `template` a template;
    `options` may name the compute `offering` and the `zone`."""

    def __init__(self, settings: CloudStackSettings, directory: Path) -> None:
        self._settings = settings
        self._api = Api(settings)
        self._look = Look(self._api)
        self._journals = Journals(directory)
        self._scope = {"projectid": settings.project} if settings.project else {}

    def check(self, wanted: WantedController) -> None:
        if not _HOST_NAME.fullmatch(wanted.vm):
            raise Refused(
                f"{wanted.vm!r} cannot be a host name in CloudStack",
                code="bad_name",
                hint="name the controller with `vm:`: letters, digits and hyphens",
            )
        if not wanted.host_key or not wanted.identity:
            raise Refused(
                "a controller on CloudStack needs a template with keys of its own",
                code="keys_needed",
                hint="say `identity` and `host_key` in the target's provision: see docs/cloudstack.md",
            )
        self._deployment(wanted)
        for disk in wanted.disks:
            self._size(wanted, disk.capacity)
        self._vm(wanted)

    def make(self, wanted: WantedController, seed: bytes, say: Say) -> tuple[ReplicaDisk, ...]:
        with self._alone(wanted) as orders:
            for number, disk in enumerate(wanted.disks):
                say(f"making the volume of {disk.key}")
                self._make_volume(orders, wanted, number)
            say("making the controller's own disk")
            say(f"defining the VM {wanted.vm}")
            orders.give(
                "deployVirtualMachine",
                lambda: self._vm(wanted) is not None,
                f"VM {wanted.vm}",
                **self._deployment(wanted),
            )
            vm = self._vm(wanted)
            if vm is None:
                raise Failed(f"VM {wanted.vm} is gone again", code="vm_gone")
            for number, disk in enumerate(wanted.disks):
                say(f"attaching the volume of {disk.key}")
                self._attach(orders, wanted, vm, number)
        return tuple(
            ReplicaDisk(disk.key, self._need(wanted, number).serial)
            for number, disk in enumerate(wanted.disks)
        )

    def address(self, wanted: WantedController) -> str:
        vm = self._vm(wanted)
        if vm is None or not vm.nics or not vm.nics[0].address:
            raise Failed(
                f"CloudStack gave VM {wanted.vm} no address",
                code="no_address",
                hint="an L2 network has none: give the controller an `address` that the template has",
            )
        return vm.nics[0].address

    def left(self, wanted: WantedController) -> tuple[str, ...]:
        found = [] if self._vm(wanted) is None else [f"VM {wanted.vm}"]
        return (*found, *(f"volume {volume.name}" for volume in self._volumes(wanted)))

    def remove(self, wanted: WantedController) -> None:
        with self._alone(wanted) as orders:
            vm = self._vm(wanted)
            volumes = self._volumes(wanted)
            self._require_unused(wanted, vm, volumes)
            if vm is not None:
                # Its own root goes with it; a data disk is only detached.
                orders.give(
                    "destroyVirtualMachine",
                    lambda: self._vm(wanted) is None,
                    f"VM {wanted.vm}",
                    id=vm.id,
                    expunge=True,
                )
            for volume in volumes:
                self._delete(orders, volume)

    # ------------------------------------------------------------ what there is

    def _alone(self, wanted: WantedController) -> AbstractContextManager[Orders]:
        def known(_: Journal) -> Sequence[str]:
            vm = self._vm(wanted)
            return [*([vm.id] if vm else []), *(volume.id for volume in self._volumes(wanted))]

        return alone(self._api, self._journals, wanted.vm, known)

    def _vm(self, wanted: WantedController) -> Vm | None:
        """Raises Refused where another VM has the name."""
        try:
            vm = self._look.vm(wanted.vm)
        except NotFound:
            return None
        if vm.state in ("Destroyed", "Expunging"):
            return None
        ours = vm.item.get("displayname") == _display_name(wanted)
        if not ours and not any(one.name.startswith(wanted.prefix) for one in self._look.volumes(vm.id)):
            raise Refused(
                f"CloudStack already has a VM {wanted.vm}, which was not made for target {wanted.target}",
                code="vm_exists",
                hint="give the controller another name with `vm:`",
            )
        return vm

    def _volumes(self, wanted: WantedController) -> list[Volume]:
        """The replica volumes of this wish."""
        items = self._api.items("listVolumes", "volume", keyword=wanted.prefix, **self._scope)
        found = [volume_of(item) for item in items]
        ours = [one for one in found if one.name.startswith(wanted.prefix) and one.state not in _GONE]
        return sorted(ours, key=lambda one: one.name)

    def _volume(self, wanted: WantedController, number: int) -> Volume | None:
        name = f"{wanted.prefix}{number}"
        return next((one for one in self._volumes(wanted) if one.name == name), None)

    def _need(self, wanted: WantedController, number: int) -> Volume:
        volume = self._volume(wanted, number)
        if volume is None:
            raise Failed(f"volume {wanted.prefix}{number} is gone", code="volume_gone")
        return volume

    def _named(self, command: str, key: str, name: str, what: str, **params: str) -> Item:
        found = [
            item
            for item in self._api.items(command, key, **params)
            if name in (item.get("id"), item.get("name"))
        ]
        if len(found) != 1:
            count = "no" if not found else "several"
            raise Refused(
                f"CloudStack has {count} {what} {name}", code=f"no_such_{what.split()[-1]}", hint="use its id"
            )
        return found[0]

    def _zone(self, wanted: WantedController) -> str:
        zones = self._api.items("listZones", "zone")
        named = wanted.options.get("zone", "")
        fitting = [zone for zone in zones if named in ("", zone.get("id"), zone.get("name"))]
        if len(fitting) != 1:
            names = ", ".join(str(zone.get("name")) for zone in zones) or "none"
            raise Refused(
                f"which zone is not clear: CloudStack has {names}",
                code="no_such_zone",
                hint="name it with `options: {zone: ...}`",
            )
        return str(fitting[0]["id"])

    # ------------------------------------------------------------ how it is made

    def _deployment(self, wanted: WantedController) -> Item:
        """Raises Refused for what the platform does not have."""
        network = self._settings.networks.get(wanted.network)
        if network is None:
            raise Refused(
                f"this site has no network {wanted.network!r}",
                code="no_such_network",
                hint=f"it has {', '.join(sorted(self._settings.networks)) or 'none'}",
            )
        named = wanted.options.get("offering", "") or self._settings.offering
        offerings = [
            offering_of(item)
            for item in self._api.items("listServiceOfferings", "serviceoffering")
            if item.get("state", "Active") == "Active"
        ]
        compute = choose(offerings, named, wanted.cpus, wanted.memory // _MIB, self._settings.cpu_speed)
        short = compute.shortfall(wanted.cpus, wanted.memory // _MIB) if compute else "there is none"
        if compute is None or short:
            raise Refused(f"no compute offering for the controller: {short}", code="no_such_offering")
        template = self._named(
            "listTemplates", "template", wanted.template, "a template", templatefilter="executable"
        )
        nic = {"networkid": network, "mac": wanted.mac}
        if wanted.address:
            nic["ip"] = wanted.address.partition("/")[0]
        return {
            "name": wanted.vm,
            "displayname": _display_name(wanted),
            "zoneid": self._zone(wanted),
            "templateid": template["id"],
            "serviceofferingid": compute.offering,
            "iptonetworklist": [nic],
            "startvm": False,
            **({"details": [compute.details]} if compute.details else {}),
            **self._scope,
        }

    def _size(self, wanted: WantedController, capacity: int) -> Item:
        """What createVolume is told of the size: whole GiB, or nothing where the offering says it."""
        offering = self._named("listDiskOfferings", "diskoffering", wanted.storage, "a disk offering")
        gib = -(-capacity // _GIB)
        if offering.get("iscustomized"):
            return {"diskofferingid": offering["id"], "size": gib}
        if int(offering.get("disksize") or 0) < gib:
            raise Refused(
                f"disk offering {wanted.storage} has {offering.get('disksize')} GiB, {gib} are needed",
                code="offering_too_small",
                hint="name one with a custom size",
            )
        return {"diskofferingid": offering["id"]}

    def _make_volume(self, orders: Orders, wanted: WantedController, number: int) -> None:
        orders.give(
            "createVolume",
            lambda: self._volume(wanted, number) is not None,
            f"volume {wanted.prefix}{number}",
            name=f"{wanted.prefix}{number}",
            zoneid=self._zone(wanted),
            **self._size(wanted, wanted.disks[number].capacity),
            **self._scope,
        )

    def _attach(self, orders: Orders, wanted: WantedController, vm: Vm, number: int) -> None:
        """Device 3 is refused by CloudStack: it is the CD-ROM's."""
        volume = self._need(wanted, number)
        if volume.vm not in ("", vm.id):
            raise Refused(f"volume {volume.name} is attached to another VM", code="volume_in_use")
        device = number + 1 if number < 2 else number + 2
        orders.give(
            "attachVolume",
            lambda: self._need(wanted, number).vm == vm.id,
            f"volume {volume.name}",
            id=volume.id,
            virtualmachineid=vm.id,
            deviceid=device,
        )
        mark(orders, self._look, vm, volume)

    # ------------------------------------------------------------ how it goes

    def _require_unused(self, wanted: WantedController, vm: Vm | None, volumes: Sequence[Volume]) -> None:
        for volume in volumes:
            if volume.root and volume.vm:
                raise Refused(
                    f"VM {wanted.vm} boots from the replica {volume.name}: it is a recovered VM",
                    code="in_use",
                    hint="roll its failover back first",
                )
            if volume.vm and (vm is None or volume.vm != vm.id):
                raise Refused(
                    f"volume {volume.name} is attached to another VM",
                    code="volume_in_use",
                    hint="detach it there first",
                )

    def _delete(self, orders: Orders, volume: Volume) -> None:
        def now() -> Volume | None:
            found = self._look.volume(volume.id)
            return None if found is None or found.state in _GONE else found

        orders.give(
            "detachVolume",
            lambda: (seen := now()) is None or not seen.vm,
            f"volume {volume.name}",
            id=volume.id,
        )
        if volume.protected:
            orders.give(
                "updateVolume",
                lambda: (seen := now()) is None or not seen.protected,
                f"volume {volume.name}",
                id=volume.id,
                deleteprotection=False,
            )
        orders.give("deleteVolume", lambda: now() is None, f"volume {volume.name}", id=volume.id)


def _display_name(wanted: WantedController) -> str:
    return wanted.prefix.rstrip("-")
