"""The libguestfs appliance: a small VM whose kernel opens the guest's disks, so that this machine's does not.

The mounted guest is shown through FUSE; every access by path goes through tree.py as ever. One appliance
serves one set of disks. Sources: guestfs(3) on isolation and on mount-local.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refloat.command import run
from refloat.errors import Failed, Refused
from refloat.guest.disk import NTFS_DRIVER, NTFS_OPTIONS, WINDOWS_MOUNTS, CannotMount, layout_of, mounts_of
from refloat.guest.probe import Found
from refloat.guest.stack import Volumes
from refloat.guest.tree import Tree
from refloat.guest.windows.repair import DISCARD_OPTIONS, repair_failed
from refloat.model import GuestFilesystem
from refloat.standalone import appliance_attributes
from refloat.standalone.appliance_attributes import ApplianceTree

_MOUNT_WAIT = 60.0
_UNMOUNT_TRIES = 50
_TOP = ("subvolid=5",)


class ApplianceHost:
    """Host by libguestfs. `note` is told, once, that an appliance starts: that takes a while."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._g: Any = None

    @contextmanager
    def opened(self, devices: Mapping[str, str], keys: Mapping[str, str] | None = None) -> Iterator[Volumes]:
        self._g = _launched(devices, self._note)
        try:
            closed = _unlock(self._g, keys or {})
            yield Volumes(_found(self._g, tuple(devices)), closed)
        finally:
            self._g.shutdown()
            self._g.close()
            self._g = None

    @contextmanager
    def mounted(
        self, found: Found, mountpoint: Path, *, subvolume: str = "", writable: bool = False
    ) -> Iterator[Path]:
        self._mount(found, "/", subvolume, writable)
        with self._shown(mountpoint):
            yield mountpoint

    @contextmanager
    def mounted_system(
        self, filesystems: Sequence[Found], mountpoint: Path, *, writable: bool = False
    ) -> Iterator[Tree]:
        places = {
            mount.point: (found, mount.subvolume)
            for found in reversed(filesystems)
            for mount in mounts_of(found.filesystem)
        }
        for point in layout_of(places):
            if point in places:
                found, subvolume = places[point]
                if point in WINDOWS_MOUNTS:
                    self._g.mkmountpoint(point)
                self._mount(found, point, subvolume, writable)
        windows = "/C" in places and "/" not in places
        if windows:
            appliance_attributes.start(self._g)
        with self._shown(mountpoint), (ApplianceTree if windows else Tree)(mountpoint) as tree:
            yield tree
        if windows:  # it may be mounted once more, for writing
            for point in (appliance_attributes.PLACE, *WINDOWS_MOUNTS):
                if point not in WINDOWS_MOUNTS or point in places:
                    self._g.rmmountpoint(point)

    def mounted_subvolume(self, mountpoint: Path) -> tuple[str, str]:
        """Of the filesystem at the appliance's root, whatever `mountpoint` is called here."""
        number = int(self._g.btrfs_subvolume_get_default("/"))
        rows = self._g.btrfs_subvolume_list("/")
        path = next((row["btrfssubvolume_path"] for row in rows if row["btrfssubvolume_id"] == number), "")
        return (path or "/", str(number))

    def subvolumes(self, path: Path) -> Sequence[str]:
        rows = self._g.btrfs_subvolume_list("/")
        return tuple(row["btrfssubvolume_path"] for row in rows if "/" not in row["btrfssubvolume_path"])

    def read(self, found: Found, offset: int, length: int) -> bytes:
        return bytes(self._g.pread_device(found.node, length, offset))

    def flush(self, devices: Mapping[str, str]) -> None:
        """The appliance flushes when it is shut down, which opened() has done by now."""
        for node in devices.values():
            fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def repair(self, found: Found, mountpoint: Path, *, session: bool) -> None:
        try:
            if session:
                with suppress(RuntimeError):  # it empties the log, and fails as the session is still there
                    self._g.ntfsfix(found.node)
                self._g.mount_vfs(DISCARD_OPTIONS, NTFS_DRIVER, found.node, "/")
                self._g.umount_all()
            self._g.ntfsfix(found.node)
        except RuntimeError as error:
            raise repair_failed(found, str(error)) from error

    # ------------------------------------------------------------ inside

    def _mount(self, found: Found, point: str, subvolume: str, writable: bool) -> None:
        options = ["rw" if writable else "ro", "nosuid", "nodev", "noexec", "noatime"]
        if found.filesystem.kind == "btrfs" and subvolume:
            options.append(subvolume if subvolume.startswith("subvolid=") else f"subvol={subvolume}")
        kind = found.filesystem.kind
        if kind == "ntfs":
            kind, options = NTFS_DRIVER, [*options, *NTFS_OPTIONS]
        try:
            self._g.mount_vfs(",".join(options), kind, found.node, point)
        except RuntimeError as error:
            raise CannotMount(
                f"the appliance cannot mount {found.describe()}: {error}",
                hint="the filesystem may be damaged, or newer than the appliance's kernel",
            ) from error
        if writable and self._g.statvfs(point)["flag"] & os.ST_RDONLY:
            raise CannotMount(f"the appliance can mount {found.describe()} read-only only")

    @contextmanager
    def _shown(self, mountpoint: Path) -> Iterator[None]:
        """The appliance's tree at `mountpoint`, by a FUSE loop in a thread of its own."""
        mountpoint.mkdir(parents=True, exist_ok=True)
        _lazily_gone(mountpoint)
        self._g.mount_local(str(mountpoint))
        thread = threading.Thread(target=_serve, args=(self._g,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            _unmount(mountpoint)
            thread.join(_MOUNT_WAIT)
            self._g.sync()
            self._g.umount_all()


def _launched(devices: Mapping[str, str], note: Callable[[str], None]) -> Any:
    try:
        import guestfs
    except ImportError as error:
        raise Refused(
            "the libguestfs appliance is not installed",
            code="program_missing",
            hint="apt-get install python3-guestfs linux-image-amd64, or say --trusted for images of your own",
        ) from error
    note("starting the appliance that keeps the guest's disks away from this machine's kernel")
    g = guestfs.GuestFS(python_return_dict=True)
    g.set_backend("direct")
    if not _has_kvm():
        g.set_backend_settings(["force_tcg"])
    for node in devices.values():
        g.add_drive_opts(node, format="raw")
    try:
        g.launch()
    except RuntimeError as error:
        g.close()
        raise Failed(
            f"the libguestfs appliance does not start: {error}",
            code="appliance",
            hint="`libguestfs-test-tool` says why; or say --trusted for images of your own",
        ) from error
    return g


def _serve(g: Any) -> None:
    """The FUSE loop. In it, every question for a file that is not there would be printed as an error: the C
    library has a handler for that in each thread, and the Python binding no call that sets it."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    library = ctypes.CDLL("libguestfs.so.0")
    library.guestfs_set_error_handler.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    library.guestfs_set_error_handler(get(g._o, b"guestfs_h"), None, None)
    g.mount_local_run()


def _has_kvm() -> bool:
    flags = Path("/proc/cpuinfo").read_text().split()
    return os.access("/dev/kvm", os.W_OK) and ("vmx" in flags or "svm" in flags)


def _unlock(g: Any, keys: Mapping[str, str]) -> tuple[str, ...]:
    """Opens the LUKS containers for which there is a passphrase, then what LVM finds on them."""
    closed = []
    for node, kind in g.list_filesystems().items():
        if kind != "crypto_LUKS":
            continue
        uuid = g.vfs_uuid(node).casefold()
        key = {name.casefold(): one for name, one in keys.items()}.get(uuid)
        if key is None:
            closed.append(f"the LUKS container {uuid} stays closed: there is no passphrase for it")
            continue
        try:
            g.cryptsetup_open(node, key, f"luks-{uuid}")
        except RuntimeError as error:
            raise Refused(
                f"the passphrase for the LUKS container {uuid} does not open it", code="luks_key"
            ) from error
    g.lvm_scan(True)
    return tuple(closed)


def _found(g: Any, keys: Sequence[str]) -> tuple[Found, ...]:
    """Every filesystem that the appliance sees, in Refloat's words. Its disks are sda, sdb, ... in order."""
    disks = dict(zip(g.list_devices(), keys, strict=False))
    found = []
    for node, kind in g.list_filesystems().items():
        if kind in ("unknown", ""):
            continue
        below = _below(g, node, disks)
        if below is None:
            continue
        disk, partition = below
        volume = "" if node in g.list_partitions() or node in disks else node
        filesystem = GuestFilesystem(
            disk, partition, kind, _asked(g.vfs_uuid, node), _asked(g.vfs_label, node), volume=volume
        )
        found.append(Found(filesystem, node))
    return tuple(found)


def _below(g: Any, node: str, disks: Mapping[str, str]) -> tuple[str, int] | None:
    """The disk and partition on which a filesystem (its first part) lies."""
    if node in disks:
        return disks[node], 0
    if node in g.list_partitions():
        return disks[g.part_to_dev(node)], int(g.part_to_partnum(node))
    if node in g.lvs():
        group = node.split("/")[2]
        uuids = {pv["pv_uuid"].replace("-", ""): pv["pv_name"] for pv in g.pvs_full()}
        first = next(iter(g.vgpvuuids(group)), "")
        return _below(g, uuids.get(first.replace("-", ""), ""), disks) if first else None
    return (next(iter(disks.values())), 0) if node.startswith("/dev/m") else None


def _asked(question: Callable[[str], str], node: str) -> str:
    try:
        return question(node)
    except RuntimeError:
        return ""


def _unmount(mountpoint: Path) -> None:
    for attempt in range(_UNMOUNT_TRIES):
        if run(["umount", str(mountpoint)], timeout=_MOUNT_WAIT, check=False).returncode == 0:
            return
        time.sleep(0.1 * (attempt > 0))
    raise Failed(f"cannot unmount {mountpoint}", code="guest_unmount", hint=f"see `fuser -vm {mountpoint}`")


def _lazily_gone(mountpoint: Path) -> None:
    """A FUSE mount whose appliance was killed: it can only be taken away."""
    if not os.path.ismount(mountpoint) and os.path.lexists(mountpoint):
        try:
            os.listdir(mountpoint)
            return
        except OSError:
            pass
    run(["umount", "-l", str(mountpoint)], timeout=_MOUNT_WAIT, check=False)
