"""Rollback points on CloudStack: one volume snapshot under each replica disk.

Unlike an overlay a snapshot takes no writes: the volume itself goes on being written, and a revert copies
(or, on RBD and Linstor, turns) it back. So nothing here shows whether somebody wrote to a volume; what can
be shown is that the rollback point is the one that was made, and that the volume was reverted from exactly
that. A VM snapshot would block root swap, adapters and reverts: never made here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from refloat.destinations.cloudstack_look import Look, Snapshot, Vm, Volume
from refloat.destinations.cloudstack_orders import Orders
from refloat.destinations.cloudstack_plan import is_tag, snapshot_name
from refloat.errors import Failed, Refused
from refloat.model import PowerState, RollbackPoint

CONTENT = "content"  # note: by volume, the stamp of the rollback point that it was reverted to, until a start
MADE = "made"  # note: by volume, the stamp of the rollback point that came through the gate
HOME_DISKS = "disks"  # note: where each disk of the controller was, while it is not there
RATE = "revert_rate"  # note: bytes per second of the slowest revert seen


def check_tag(tag: str) -> None:
    if not is_tag(tag):
        raise Refused(f"{tag!r} cannot name a rollback point", code="bad_tag")


class Snapshots:
    def __init__(self, look: Look) -> None:
        self._look = look

    # ------------------------------------------------------------ looking

    def volumes(self, vm: Vm, notes: Mapping[str, Any]) -> list[Volume]:
        """The attached ones in their order, then those on their way: a hub that died in a root swap left the
        replica's root attached to nothing, and its rollback point is there all the same."""
        attached = self._look.volumes(vm.id)
        others = [name for name in notes.get(HOME_DISKS) or {} if name not in {one.id for one in attached}]
        return attached + [found for name in others if (found := self._look.volume(name)) is not None]

    def points(self, vm: Vm, tag: str, notes: Mapping[str, Any]) -> tuple[RollbackPoint, ...]:
        """One that was reverted to has done its work."""
        found, content = [], notes.get(CONTENT) or {}
        for volume in self.volumes(vm, notes):
            one = self._of(volume, tag)
            if one is not None and one.usable and volume.id not in content:
                found.append(RollbackPoint(volume.serial, volume.id, one.id, one.stamp, 0))
        return tuple(found)

    def stamps(self, vm: Vm, notes: Mapping[str, Any]) -> dict[str, str]:
        stamps, content = {}, notes.get(CONTENT) or {}
        for volume in self._look.volumes(vm.id):
            made = self._look.snapshots(volume.id)
            stamps[volume.serial] = str(
                content.get(volume.id) or (made[0].stamp if made else "no rollback point")
            )
        return stamps

    def _of(self, volume: Volume, tag: str) -> Snapshot | None:
        """The oldest with this tag: an answer that was lost may have left a second one."""
        return next((one for one in self._look.snapshots(volume.id) if one.tag == tag), None)

    # ------------------------------------------------------------ making

    def make(self, orders: Orders, vm: Vm, serials: Sequence[str], tag: str) -> None:
        """One after the other: CloudStack takes one at a time of a VM. Each is whole and revertable on
        return."""
        check_tag(tag)
        disks = {volume.serial: volume for volume in self._look.volumes(vm.id)}
        unknown = [serial for serial in serials if serial not in disks]
        if unknown:
            raise Refused(
                f"VM {vm.name} has no disk with serial {', '.join(unknown)}",
                code="no_such_disk",
                hint=f"it has {', '.join(disks) or 'none'}",
            )
        chosen = [disks[serial] for serial in serials]
        for volume in chosen:
            self._require_none_else(volume, tag)
        orders.journal.note(CONTENT, None)
        for volume in chosen:
            self._make(orders, volume, tag)

    def _require_none_else(self, volume: Volume, tag: str) -> None:
        others = {one.tag for one in self._look.snapshots(volume.id)} - {tag}
        if others:
            raise Refused(
                f"disk {volume.serial} already has a rollback point: {', '.join(sorted(others))}",
                code="rollback_point_exists",
                hint="commit or roll back the job that made it",
            )

    def _make(self, orders: Orders, volume: Volume, tag: str) -> None:
        orders.give(
            "createSnapshot",
            lambda: self._of(volume, tag) is not None,
            f"volume {volume.name}",
            volumeid=volume.id,
            name=snapshot_name(tag, volume.serial),
        )
        made = self._whole(volume, tag)
        if made is None or not made.usable:
            state = f"{made.state}, revertable: {made.revertable}" if made else "gone"
            raise Failed(
                f"the snapshot of volume {volume.name} is no rollback point: {state}",
                code="no_rollback_point",
                hint="its storage cannot revert volumes, or the snapshot failed: see docs/cloudstack.md",
            )
        orders.journal.note(MADE, {**(orders.journal.notes.get(MADE) or {}), volume.id: made.stamp})

    def _whole(self, volume: Volume, tag: str) -> Snapshot | None:
        """The snapshot when it has come to its last state: its copy to secondary storage may outlast its
        job."""
        settings = self._look.api.settings
        deadline = time.monotonic() + settings.job_timeout
        while True:
            made = self._of(volume, tag)
            if made is None or made.state == "BackedUp" or time.monotonic() > deadline:
                return made
            time.sleep(settings.poll)

    # ------------------------------------------------------------ ending

    def revert(self, orders: Orders, vm: Vm, tag: str) -> None:
        """Every volume, and then the snapshots go. What was reverted is noted before: the platform cannot
        tell."""
        check_tag(tag)
        if vm.power is not PowerState.OFF:
            raise Failed(f"VM {vm.name} is {vm.state}, not off", code="vm_not_off", hint="stop it first")
        volumes = self.volumes(vm, orders.journal.notes)
        content: dict[str, str] = dict(orders.journal.notes.get(CONTENT) or {})
        for volume in volumes:
            made = self._of(volume, tag)
            if made is None or content.get(volume.id) == made.stamp:
                continue
            if not made.usable:
                self._require_never_used(orders, volume, made)
                continue
            self._revert(orders, volume, made)
            content[volume.id] = made.stamp
            orders.journal.note(CONTENT, dict(content))
        self.drop(orders, volumes, tag)
        orders.journal.note(MADE, None)

    def _require_never_used(self, orders: Orders, volume: Volume, made: Snapshot) -> None:
        """One that did not come through the gate: nothing was changed after it. Else it has been spoilt."""
        if (orders.journal.notes.get(MADE) or {}).get(volume.id) == made.stamp:
            raise Failed(
                f"the rollback point {made.name} cannot be reverted to any more: it is {made.state}",
                code="rollback_point_lost",
                hint="mend the snapshot in CloudStack; where that cannot be, delete it and resume: "
                "the replica is "
                "then given up",
            )

    def _revert(self, orders: Orders, volume: Volume, made: Snapshot) -> None:
        """Safe to repeat while the VM is off: an order that a killed hub gave was waited for, and is given
        again."""
        begun = time.monotonic()
        orders.again("revertSnapshot", f"volume {volume.name}", id=made.id)
        rate = int(volume.size / max(time.monotonic() - begun, 0.001))
        known = orders.journal.notes.get(RATE)
        orders.journal.note(RATE, rate if known is None else min(int(known), rate))

    def drop(self, orders: Orders, volumes: Sequence[Volume], tag: str) -> None:
        """Deletes our snapshots with this tag."""
        for volume in volumes:
            for one in self._look.snapshots(volume.id):
                if one.tag == tag:
                    orders.give(
                        "deleteSnapshot",
                        lambda volume=volume, gone=one.id: (  # type: ignore[misc]
                            gone not in {left.id for left in self._look.snapshots(volume.id)}
                        ),
                        f"snapshot {one.name}",
                        id=one.id,
                    )
