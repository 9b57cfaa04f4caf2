"""Volumes of one storage pool, through libvirt's storage API only: a remote host works like this one."""

from __future__ import annotations

import posixpath
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import libvirt

from refloat.errors import Failed, NotFound, Refused
from refloat.libvirt_connection import Connection, libvirt_errors

T = TypeVar("T")

_CLUSTER = 64 << 10
_REFRESH_TRIES = 50


@dataclass(frozen=True)
class Volume:
    """A volume as its host's file system and its header show it now. Sizes in bytes.

    `stamp` is the time of the last write to the file, with nanoseconds. `backing` is the path of the
    layer below ("" for none). `format` is what libvirt *guesses* from the content: never trust it for a
    raw volume, whose content is the guest's.
    """

    path: str
    capacity: int
    physical: int
    stamp: str
    format: str
    backing: str = ""
    backing_format: str = ""

    @property
    def written(self) -> int:
        """What a qcow2 layer holds beyond the metadata of an empty one; 0 proves that it is empty.

        An empty image is header, refcount table, refcount block and the L1 table (8 bytes for each
        512 MiB of capacity); the first write of the guest allocates an L2 table behind them.
        """
        l1_bytes = 8 * -(-self.capacity // (512 << 20))
        empty = 3 * _CLUSTER + -(-l1_bytes // _CLUSTER) * _CLUSTER
        return max(0, self.physical - empty)


class VolumePool:
    """The volumes of the started directory pool `name`; without a name, of the pool that has the volume's
    directory. All paths are paths on libvirt's host."""

    def __init__(self, connection: Connection, name: str = "") -> None:
        self._connection = connection
        self.name = name

    def owns(self, path: str) -> bool:
        """Raises NotFound or Failed where the named pool does not exist or is not started."""
        with libvirt_errors("look up the storage pool"):
            return self._pool_of(path) is not None

    def find(self, path: str) -> Volume | None:
        """The volume at `path`, in this pool or another; None where there is none."""
        with libvirt_errors(f"look up volume {path}"):
            for _ in range(_REFRESH_TRIES):
                handle = self._lookup(path)
                if handle is None:
                    return None
                xml = _or_none(handle.XMLDesc)
                if xml is not None:
                    return parse_volume(xml)
                time.sleep(0.1)  # the pool is being refreshed: for a moment it knows no volume
            return None

    def get(self, path: str) -> Volume:
        volume = self.find(path)
        if volume is None:
            raise NotFound(
                f"there is no volume {path}",
                code="no_such_volume",
                hint="virsh vol-list POOL shows a pool's volumes",
            )
        return volume

    def create_layer(self, path: str, base: Volume, base_format: str) -> None:
        """An empty qcow2 layer over `base`, whose format is stated: QEMU must never guess it."""
        volume = ET.Element("volume")
        ET.SubElement(volume, "name").text = posixpath.basename(path)
        ET.SubElement(volume, "capacity", unit="bytes").text = str(base.capacity)
        ET.SubElement(ET.SubElement(volume, "target"), "format", type="qcow2")
        backing = ET.SubElement(volume, "backingStore")
        ET.SubElement(backing, "path").text = base.path
        ET.SubElement(backing, "format", type=base_format)
        with libvirt_errors(f"create volume {path}"):
            self._own_pool(path).createXML(ET.tostring(volume, encoding="unicode"))

    def delete(self, path: str) -> None:
        """Deletes the volume, which must be of this pool; done when there is none.

        Raises Refused for a path outside it. Whether anything uses it is the caller's question.
        """
        with libvirt_errors(f"delete volume {path}"):
            self._own_pool(path)
            handle = self._lookup(path)
            if handle is not None:
                handle.delete()

    def chain(self, path: str, format_: str) -> tuple[str, ...]:
        """The volumes below `path`, nearest first, as the headers of the layers name them.

        Only a volume that is stated to be qcow2 has a header: in a raw one it would be the guest's text.
        """
        below: list[str] = []
        while format_ == "qcow2":
            volume = self.find(path)
            if volume is None or not volume.backing or volume.backing in below:
                break
            path, format_ = volume.backing, volume.backing_format
            below.append(path)
        return tuple(below)

    def free_bytes(self, path: str) -> int:
        """What the pool of the volume at `path` can still take."""
        with libvirt_errors(f"read the storage pool of {path}"):
            pool = self._own_pool(path)
            refresh(pool)
            return pool.info()[3]

    def _own_pool(self, path: str) -> libvirt.virStoragePool:
        pool = self._pool_of(path)
        if pool is None:
            raise Refused(
                f"volume {path} is not in storage pool {self.name or 'of any name'}",
                code="not_ours",
                hint="Refloat's layers are files: use a pool of type dir or netfs",
            )
        return pool

    def _pool_of(self, path: str) -> libvirt.virStoragePool | None:
        pools = [self.named()] if self.name else self._active_pools()
        directory = posixpath.dirname(path)
        return next((pool for pool in pools if _directory(pool) == directory), None)

    def named(self) -> libvirt.virStoragePool:
        """Raises NotFound or Failed where it does not exist or is not started; libvirtError as it comes."""
        try:
            pool = self._connection.get().storagePoolLookupByName(self.name)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                raise
            raise NotFound(
                f"libvirt has no storage pool {self.name}",
                code="no_such_pool",
                hint="virsh pool-list --all shows the names",
            ) from error
        if not pool.isActive():
            raise Failed(
                f"storage pool {self.name} is not started",
                code="pool_inactive",
                hint=f"virsh pool-start {self.name}",
            )
        return pool

    def _active_pools(self) -> list[libvirt.virStoragePool]:
        active = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
        return self._connection.get().listAllStoragePools(active)

    def _lookup(self, path: str) -> libvirt.virStorageVol | None:
        pool, name = self._pool_of(path), posixpath.basename(path)
        if pool is None:
            return _or_none(lambda: self._connection.get().storageVolLookupByPath(path))
        handle = _or_none(lambda: pool.storageVolLookupByName(name))
        if handle is not None and _is_current(handle):
            return handle
        refresh(pool)  # QEMU makes layers, and tools make and remove files, behind libvirt's back
        return _or_none(lambda: pool.storageVolLookupByName(name))


def parse_volume(xml: str) -> Volume:
    root = ET.fromstring(xml)
    backing = root.find("backingStore")
    return Volume(
        path=root.findtext("target/path") or "",
        capacity=int(root.findtext("capacity") or 0),
        physical=int(root.findtext("physical") or root.findtext("allocation") or 0),
        stamp=root.findtext("target/timestamps/mtime") or "",
        format=_format(root.find("target")),
        backing="" if backing is None else backing.findtext("path") or "",
        backing_format=_format(backing),
    )


def _format(parent: ET.Element | None) -> str:
    element = None if parent is None else parent.find("format")
    return "" if element is None else element.get("type", "")


def _or_none(lookup: Callable[[], T]) -> T | None:
    try:
        return lookup()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            return None
        raise


def _directory(pool: libvirt.virStoragePool) -> str:
    return (ET.fromstring(pool.XMLDesc()).findtext("target/path") or "").rstrip("/")


def _is_current(handle: libvirt.virStorageVol) -> bool:
    try:
        return bool(handle.XMLDesc())
    except libvirt.libvirtError:
        return False


def refresh(pool: libvirt.virStoragePool) -> None:
    """libvirt refuses to refresh a pool while it creates or deletes a volume in it: ask again."""
    for _ in range(_REFRESH_TRIES):
        try:
            pool.refresh(0)
            return
        except libvirt.libvirtError as error:
            if "asynchronous jobs" not in (error.get_error_message() or ""):
                raise
            time.sleep(0.1)
    pool.refresh(0)
