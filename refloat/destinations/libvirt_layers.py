"""Rollback points on libvirt: a qcow2 layer over each replica volume takes all writes.

    snapshot   BASE <- BASE.TAG.qcow2 (attached)     the base is read-only to QEMU from here on
    revert     BASE (attached), layer deleted        time does not depend on the disks' size
    merge      the layer's blocks into BASE, BASE (attached), layer deleted

The layer's name says which volume and which job it belongs to, so that a killed run's leftovers are
recognised without any record of them. Each function asks libvirt what is already true and goes on there.
"""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace

import libvirt

from refloat.destinations.libvirt_domains import Domains
from refloat.destinations.libvirt_live import LiveDisk, attached_paths, parse_disks
from refloat.destinations.libvirt_spec import DiskSpec, DomainSpec
from refloat.destinations.libvirt_volumes import VolumePool
from refloat.errors import Failed, Refused
from refloat.libvirt_connection import libvirt_errors
from refloat.model import PowerState, RollbackPoint

_TAG = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MERGING = "merging"  # label: this domain runs, paused, only for the merge of this tag
_POLL = 0.1  # seconds


def layer_path(base: str, tag: str) -> str:
    return f"{base}.{tag}.qcow2"


def is_layer(volume: str, tag: str) -> bool:
    return volume.endswith(f".{tag}.qcow2")


class Layers:
    def __init__(self, domains: Domains, volumes: VolumePool) -> None:
        self._domains = domains
        self._volumes = volumes

    # ------------------------------------------------------------ snapshot

    def snapshot(self, vm: str, serials: Sequence[str], tag: str) -> tuple[RollbackPoint, ...]:
        _check_tag(tag)
        domain = self._domains.lookup(vm)
        spec = self._domains.own_spec(domain)
        disks = {disk.serial: disk for disk in parse_disks(self._domains.xml(domain))}
        unknown = [serial for serial in serials if serial not in disks]
        if unknown:
            raise Refused(
                f"VM {vm} has no disk with serial {', '.join(unknown)}",
                code="no_such_disk",
                hint=f"it has {', '.join(disks) or 'none'}",
            )
        todo = [disk for serial in serials if not is_layer((disk := disks[serial]).volume, tag)]
        for disk in todo:
            self._refuse_second_layer(disk)
        for disk in todo:
            self.delete_unused(layer_path(disk.volume, tag))
        if todo and self._domains.power(domain)[0] is not PowerState.OFF:
            self._snapshot_active(domain, todo, tag)
        elif todo:
            self._snapshot_off(spec, todo, tag)
        points = self.points(vm, tag)
        missing = set(serials) - {point.serial for point in points}
        if missing:
            raise Failed(
                f"disks {', '.join(sorted(missing))} of {vm} have no rollback point after snapshot",
                code="snapshot_incomplete",
                hint="nothing has been adapted yet; try again",
            )
        return points

    def _refuse_second_layer(self, disk: LiveDisk) -> None:
        """Refloat's points do not stack: reverting the lower one would leave the upper one baseless."""
        self._volumes.get(disk.volume)
        below = self._volumes.chain(disk.volume, disk.format)
        if below and disk.volume.startswith(f"{below[0]}."):
            raise Refused(
                f"disk {disk.serial} already has a rollback point: {disk.volume}",
                code="rollback_point_exists",
                hint="commit or roll back the job that made it",
            )
        if not self._volumes.owns(disk.volume):
            raise Refused(
                f"volume {disk.volume} is not in Refloat's storage pool",
                code="not_ours",
                hint="a rollback point is a file beside the volume: put the replica in the pool",
            )

    def _snapshot_active(self, domain: libvirt.virDomain, todo: Sequence[LiveDisk], tag: str) -> None:
        snapshot = ET.Element("domainsnapshot")
        disks = ET.SubElement(snapshot, "disks")
        layers = {disk.target: layer_path(disk.volume, tag) for disk in todo}
        for disk in parse_disks(self._domains.xml(domain)):
            row = ET.SubElement(disks, "disk", name=disk.target)
            row.set("snapshot", "external" if disk.target in layers else "no")
            if disk.target in layers:
                row.set("type", "file")
                ET.SubElement(row, "driver", type="qcow2")
                ET.SubElement(row, "source", file=layers[disk.target])
        # Atomic: every disk or none, at one instant. No metadata: libvirt's records of snapshots would
        # forbid to undefine the domain, and Refloat's record is the chain itself.
        flags = (
            libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
            | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        )
        with libvirt_errors(f"snapshot the disks of {domain.name()}"):
            domain.snapshotCreateXML(ET.tostring(snapshot, encoding="unicode"), flags)
        self._align_definition(domain)

    def _snapshot_off(self, spec: DomainSpec, todo: Sequence[LiveDisk], tag: str) -> None:
        formats = {disk.volume: disk.format for disk in spec.disks}
        moved = {}
        for disk in todo:
            path = layer_path(disk.volume, tag)
            self._volumes.create_layer(path, self._volumes.get(disk.volume), formats[disk.volume])
            moved[disk.volume] = (path, "qcow2")
        self._domains.define(_with_volumes(spec, moved))

    def _align_definition(self, domain: libvirt.virDomain) -> None:
        """The next start must use the volumes that the running guest writes to: libvirt follows a
        snapshot and a pivot in the definition too, unless that differs from what runs."""
        live = {disk.serial: disk for disk in parse_disks(self._domains.xml(domain))}
        spec = self._domains.own_spec(domain)
        moved = {}
        for disk in spec.disks:
            running = live.get(disk.serial)
            if running is not None and running.volume != disk.volume:
                moved[disk.volume] = (running.volume, self._format_of(running.volume, disk))
        if moved:
            self._domains.define(_with_volumes(spec, moved))

    def _format_of(self, volume: str, disk: DiskSpec) -> str:
        """The format of a layer's other end, as the layer's header states it."""
        layer = self._volumes.find(disk.volume)
        return layer.backing_format if layer is not None and layer.backing == volume else "qcow2"

    # ------------------------------------------------------------ points

    def points(self, vm: str, tag: str) -> tuple[RollbackPoint, ...]:
        _check_tag(tag)
        domain = self._domains.lookup(vm)
        active = self._domains.power(domain)[0] is not PowerState.OFF
        points = []
        for disk in parse_disks(self._domains.xml(domain)):
            if not is_layer(disk.volume, tag):
                continue
            layer = self._volumes.find(disk.volume)
            if layer is None or not layer.backing or (active and disk.chain[:1] != (layer.backing,)):
                continue
            base = self._volumes.find(layer.backing)
            if base is not None:
                points.append(RollbackPoint(disk.serial, base.path, layer.path, base.stamp, layer.written))
        return tuple(points)

    def stamps(self, vm: str) -> dict[str, str]:
        """By serial: the stamp of each disk's lowest volume, below a layer or attached itself."""
        stamps = {}
        for disk in parse_disks(self._domains.xml(self._domains.lookup(vm))):
            lowest = (disk.volume, *self._volumes.chain(disk.volume, disk.format))[-1]
            stamps[disk.serial] = self._volumes.get(lowest).stamp
        return stamps

    # ------------------------------------------------------------ revert

    def revert(self, vm: str, tag: str) -> None:
        domain = self._domains.lookup(vm)
        self._domains.require_off(domain)
        spec = self._domains.own_spec(domain)
        moved = {}
        for point in self.points(vm, tag):
            moved[point.overlay] = (point.base, self._volumes.get(point.overlay).backing_format)
        if moved:
            # First the definition: a kill after it leaves layers that nothing uses, and the retry's
            # last line deletes them. The other order would leave a domain without its disks.
            spec = _with_volumes(spec, moved)
            self._domains.define(spec)
        stuck = [disk.serial for disk in self._domains.spec(domain).disks if is_layer(disk.volume, tag)]
        if stuck:
            raise Failed(
                f"disks {', '.join(stuck)} of {vm} still name the layer {tag}, whose base is gone",
                code="revert_failed",
                hint="the base volume is missing from the storage pool",
            )
        self._delete_layers(spec, tag)

    def _delete_layers(self, spec: DomainSpec, tag: str) -> None:
        for disk in spec.disks:
            if self._volumes.owns(disk.volume):
                self.delete_unused(layer_path(disk.volume, tag))

    # ------------------------------------------------------------ merge

    def merge(self, vm: str, tag: str) -> None:
        _check_tag(tag)
        domain = self._domains.lookup(vm)
        if self._domains.power(domain)[0] is PowerState.OFF and self.points(vm, tag):
            # QEMU can only merge what it has open. The label tells a retry that this pause is ours.
            self._domains.define(_labelled(self._domains.own_spec(domain), tag))
            self._domains.start_paused(domain)
        if self._domains.power(domain)[0] is not PowerState.OFF:
            for disk in parse_disks(self._domains.xml(domain)):
                if is_layer(disk.volume, tag) and disk.chain:
                    self._commit(domain, disk)
            self._align_definition(domain)
        spec = self._domains.own_spec(domain)
        if (_MERGING, tag) in spec.labels:
            if self._domains.power(domain)[0] is PowerState.PAUSED:
                self._domains.stop(domain, 0)
            spec = _labelled(spec, None)
            self._domains.define(spec)
        stuck = [disk.serial for disk in spec.disks if is_layer(disk.volume, tag)]
        if stuck:
            raise Failed(
                f"disks {', '.join(stuck)} of {vm} are still on the layer {tag}",
                code="merge_incomplete",
                hint="is the storage pool started? Nothing was lost: try again",
            )
        self._delete_layers(spec, tag)

    def _commit(self, domain: libvirt.virDomain, disk: LiveDisk) -> None:
        """Merges one layer into its base and goes on writing there; joins a job that already runs.

        No deadline: a layer may hold terabytes. An exception leaves the job to the next call.
        """
        base = disk.chain[0]
        with libvirt_errors(f"merge {disk.volume}"):
            if disk.job is None:
                domain.blockCommit(disk.target, base, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
            while (now := self._live_disk(domain, disk.target)).volume != base:
                _require_commit(now)
                if now.job is not None and now.job.ready:
                    domain.blockJobAbort(disk.target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
                else:
                    time.sleep(_POLL)

    def _live_disk(self, domain: libvirt.virDomain, target: str) -> LiveDisk:
        disks = parse_disks(self._domains.xml(domain))
        return next(disk for disk in disks if disk.target == target)

    # ------------------------------------------------------------ deleting

    def delete_unused(self, path: str) -> None:
        """Deletes a volume of the pool. Raises Refused while any domain uses it, directly or below
        another volume; done when there is none."""
        user = self._user_of(path)
        if user:
            raise Refused(
                f"volume {path} is attached to VM {user}", code="volume_in_use", hint="detach it there first"
            )
        self._volumes.delete(path)

    def _user_of(self, path: str) -> str:
        for domain in self._domains.all():
            for xml in _both_xmls(domain):
                paths = attached_paths(xml)
                if path in paths or any(
                    path in self._volumes.chain(disk.volume, disk.format)
                    for disk in parse_disks(xml)
                    if disk.volume
                ):
                    return str(domain.name())
        return ""


def _both_xmls(domain: libvirt.virDomain) -> list[str]:
    """Live and persistent XML: they differ while a VM runs. None of a domain that is just going away."""
    try:
        return [domain.XMLDesc(0), domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)]
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return []
        raise


def _require_commit(disk: LiveDisk) -> None:
    if disk.job is None:
        raise Failed(
            f"the merge of {disk.volume} ended before it was complete",
            code="merge_failed",
            hint="is the storage pool full? Both volumes are intact: try again",
        )
    if disk.job.kind != "active-commit":
        raise Failed(
            f"disk {disk.serial} is busy with a {disk.job.kind} that is not Refloat's",
            code="disk_busy",
            hint=f"virsh blockjob VM {disk.target} shows it",
        )


def _check_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag):
        raise Refused(
            f"{tag!r} cannot name a rollback point",
            code="bad_tag",
            hint="letters, digits, _ and -, at most 64",
        )


def _with_volumes(spec: DomainSpec, moved: dict[str, tuple[str, str]]) -> DomainSpec:
    """`spec` with other volumes (old -> new path and format); order, serial and bus stay."""
    disks = []
    for disk in spec.disks:
        volume, format_ = moved.get(disk.volume, (disk.volume, disk.format))
        disks.append(replace(disk, volume=volume, format=format_))
    return replace(spec, disks=tuple(disks))


def _labelled(spec: DomainSpec, tag: str | None) -> DomainSpec:
    labels = tuple(label for label in spec.labels if label[0] != _MERGING)
    return replace(spec, labels=labels if tag is None else (*labels, (_MERGING, tag)))
