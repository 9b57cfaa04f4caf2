"""Checkpoints and pull-mode backups of a running libvirt domain (libvirt 7.2 or later).

A checkpoint is a persistent dirty bitmap in each qcow2 disk. A backup job freezes the disks' content at
one instant for its readers, and can mark the same instant as a new checkpoint.
"""

from __future__ import annotations

import logging
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import libvirt

from refloat.errors import Busy, Failed
from refloat.sources.libvirt_hardware import DiskImage
from refloat.sources.offline import image_info, remove_bitmap

log = logging.getLogger(__name__)

PREFIX = "refloat-"
EXPORT_BITMAP = "changed"
CONTEXT = f"qemu:dirty-bitmap:{EXPORT_BITMAP}"

_JOB_END = 30.0  # seconds
# The checkpoint is not there, or QEMU has no consistent bitmap for it.
_UNUSABLE = {libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT, libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT}


def begin_backup(
    domain: libvirt.virDomain, disks: Sequence[DiskImage], socket: Path, since: str | None, checkpoint: str
) -> str:
    """Opens all disks for reading at `socket`, marking the instant as `checkpoint`.

    Returns why the blocks changed since `since` are not known, or "" when each qcow2 disk's export has
    the context CONTEXT.
    """
    doubt = "" if since else "there is no checkpoint of an earlier sync"
    if since:
        try:
            domain.backupBegin(_backup(disks, socket, since), _checkpoint(disks, checkpoint), 0)
            return ""
        except libvirt.libvirtError as error:
            if error.get_error_code() not in _UNUSABLE:
                raise
            doubt = error.get_error_message() or "the checkpoint is inconsistent"
            log.warning("%s: %s", domain.name(), doubt)
    domain.backupBegin(_backup(disks, socket, None), _checkpoint(disks, checkpoint), 0)
    return doubt


def scratch_file(disk: DiskImage, socket: Path) -> Path:
    """Takes the old content of what the guest writes during the backup: beside the disk, where there is
    room for it. libvirt makes and deletes it, unless libvirtd or the host dies."""
    image = Path(disk.path)
    beside = socket.parent if image.is_block_device() else image.parent
    return beside / f"{image.name}.refloat-scratch"


def end_backup(domain: libvirt.virDomain, disks: Sequence[DiskImage], socket: Path) -> None:
    """Ends our backup job if there is one, and returns when it is gone. Raises Busy for somebody else's."""
    if (job := _job(domain)) is not None:
        server = ET.fromstring(job).find("server")
        if server is None or server.get("socket") != str(socket):
            raise Busy(
                f"a backup of {domain.name()} by another program is running",
                code="foreign_backup",
                hint="wait for it to end, or abort it with `virsh domjobabort`",
            )
        with suppress(libvirt.libvirtError):  # it may be ending by itself
            domain.abortJob()
        deadline = time.monotonic() + _JOB_END
        while _job(domain) is not None:
            if time.monotonic() > deadline:
                raise Failed(f"the backup job of {domain.name()} does not end", code="backup_stuck")
            time.sleep(0.05)
    socket.unlink(missing_ok=True)
    for disk in disks:
        scratch_file(disk, socket).unlink(missing_ok=True)


def _job(domain: libvirt.virDomain) -> str | None:
    try:
        return domain.backupGetXMLDesc()
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_BACKUP, libvirt.VIR_ERR_OPERATION_INVALID):
            return None
        raise


def checkpoint_names(domain: libvirt.virDomain) -> set[str]:
    return {one.getName() for one in domain.listAllCheckpoints() if one.getName().startswith(PREFIX)}


def delete_checkpoints(domain: libvirt.virDomain, disks: Sequence[DiskImage], keep: str | None) -> None:
    """Deletes Refloat's checkpoints but `keep`, with their bitmaps."""
    active = bool(domain.isActive())
    for one in domain.listAllCheckpoints():
        if one.getName().startswith(PREFIX) and one.getName() != keep:
            _delete_checkpoint(one, active)
    if not active:
        _delete_bitmaps(disks, keep)


def _delete_checkpoint(checkpoint: libvirt.virDomainCheckpoint, active: bool) -> None:
    if active:
        try:
            checkpoint.delete(0)
            return
        except libvirt.libvirtError as error:
            # After a kill of QEMU the bitmap is gone, and only libvirt still believes in it.
            log.info("checkpoint %s: %s", checkpoint.getName(), error.get_error_message())
    checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def _delete_bitmaps(disks: Sequence[DiskImage], keep: str | None) -> None:
    """libvirt does not touch the bitmaps of a domain that is off."""
    for disk in disks:
        if disk.format != "qcow2" or not Path(disk.path).exists():
            continue
        for name in image_info(disk.path, disk.format).bitmaps:
            if name.startswith(PREFIX) and name != keep:
                remove_bitmap(disk.path, disk.format, name)


def _backup(disks: Sequence[DiskImage], socket: Path, since: str | None) -> str:
    root = ET.Element("domainbackup", mode="pull")
    ET.SubElement(root, "server", transport="unix", socket=str(socket))
    parent = ET.SubElement(root, "disks")
    for disk in disks:
        element = ET.SubElement(parent, "disk", name=disk.key, backup="yes", type="file", exportname=disk.key)
        ET.SubElement(element, "scratch", file=str(scratch_file(disk, socket)))
        if since and disk.format == "qcow2":
            element.set("backupmode", "incremental")
            element.set("incremental", since)
            element.set("exportbitmap", EXPORT_BITMAP)
        else:
            element.set("backupmode", "full")
    return ET.tostring(root, encoding="unicode")


def _checkpoint(disks: Sequence[DiskImage], name: str) -> str | None:
    """None where no disk can have a bitmap: libvirt refuses an empty checkpoint."""
    if all(disk.format != "qcow2" for disk in disks):
        return None
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    parent = ET.SubElement(root, "disks")
    for disk in disks:
        ET.SubElement(parent, "disk", name=disk.key, checkpoint="bitmap" if disk.format == "qcow2" else "no")
    return ET.tostring(root, encoding="unicode")
