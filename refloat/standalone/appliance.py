"""The libguestfs appliance: a small VM whose kernel opens the guest's disks, so that this machine's does not.

The mounted guest is shown through FUSE; every access by path goes through tree.py as ever. One appliance
serves one set of disks. Sources: guestfs(3) on isolation and on mount-local.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refloat.errors import Failed, Refused
from refloat.guest import disk, mounts
from refloat.guest.disk import (
    WINDOWS_MOUNTS,
    CannotMount,
    driver_of,
    mount_options,
    not_plain,
    system_places,
)
from refloat.guest.probe import Found
from refloat.guest.stack import Volumes
from refloat.guest.tree import Tree
from refloat.guest.windows.repair import DISCARD_OPTIONS, repair_failed
from refloat.standalone import appliance_attributes
from refloat.standalone.appliance_attributes import ApplianceTree
from refloat.standalone.appliance_volumes import volumes

_MOUNT_WAIT = 60.0
# LUKS 2 takes up to half of the memory of the machine that made a key slot, at most 1 GiB, to open it.
_MEMORY_FOR_KEYS = 2048  # MiB


class ApplianceHost:
    """Host by libguestfs. `note` is told, once, that an appliance starts: that takes a while."""

    # By FUSE this machine would run them, whose kernel is just what the appliance keeps the guest from.
    runs_guest_code = False

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._g: Any = None

    @contextmanager
    def opened(self, devices: Mapping[str, str], keys: Mapping[str, str] | None = None) -> Iterator[Volumes]:
        labels = {_label(index): key for index, key in enumerate(devices)}
        self._g = _launched(dict(zip(labels, devices.values(), strict=True)), bool(keys), self._note)
        try:
            nodes = self._g.list_disk_labels()
            yield _volumes(self._g, {nodes[label]: key for label, key in labels.items()}, keys or {})
            self._shut_down()
        finally:
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
        places = system_places(filesystems)
        for point, (found, subvolume) in places.items():
            if point in WINDOWS_MOUNTS:
                self._g.mkmountpoint(point)
            elif point != "/" and not self._is_plain(point):
                raise not_plain(point)
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

    # The appliance's own caches are gone: it was shut down when opened() ended.
    flush = staticmethod(disk.flush)

    def repair(self, found: Found, mountpoint: Path, *, session: bool) -> None:
        try:
            if session:
                with suppress(RuntimeError):  # it empties the log, and fails as the session is still there
                    self._g.ntfsfix(found.node)
                self._g.mount_vfs(DISCARD_OPTIONS, driver_of("ntfs"), found.node, "/")
                self._g.umount_all()
            self._g.ntfsfix(found.node)
        except RuntimeError as error:
            raise repair_failed(found, str(error)) from error

    # ------------------------------------------------------------ inside

    def _mount(self, found: Found, point: str, subvolume: str, writable: bool) -> None:
        options, kind = mount_options(found, subvolume, writable), driver_of(found.filesystem.kind)
        try:
            self._g.mount_vfs(",".join(options), kind, found.node, point)
        except RuntimeError as error:
            raise CannotMount(
                f"the appliance cannot mount {found.describe()}: {error}",
                hint="the filesystem may be damaged, or newer than the appliance's kernel",
            ) from error
        if writable and self._g.statvfs(point)["flag"] & os.ST_RDONLY:
            raise CannotMount(f"the appliance can mount {found.describe()} read-only only")

    def _is_plain(self, point: str) -> bool:
        try:
            return bool(self._g.is_dir(point)) and self._g.realpath(point) == point
        except RuntimeError:  # a loop of symlinks
            return False

    def _shut_down(self) -> None:
        """Everything written is on the disks then."""
        try:
            self._g.shutdown()
        except RuntimeError as error:
            raise Failed(f"the appliance did not shut down in order: {error}", code="appliance") from error

    @contextmanager
    def _shown(self, mountpoint: Path) -> Iterator[None]:
        """The appliance's tree at `mountpoint`, by a FUSE loop in a thread of its own."""
        mounts.clear(mountpoint)
        mountpoint.mkdir(parents=True, exist_ok=True)
        self._g.mount_local(str(mountpoint))
        thread = threading.Thread(target=_serve, args=(self._g,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            mounts.unmount(mountpoint)
            thread.join(_MOUNT_WAIT)
            self._g.sync()
            self._g.umount_all()


def _label(index: int) -> str:
    """The name of a disk in the appliance: of letters alone. What it calls sda is the first that it found."""
    return "disk" + "".join(chr(ord("a") + int(digit)) for digit in str(index))


def _launched(labelled: Mapping[str, str], locked: bool, note: Callable[[str], None]) -> Any:
    """`labelled`: the label of each disk -> its raw file or device. `locked`: there are passphrases."""
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
    if locked:
        g.set_memsize(max(g.get_memsize(), _MEMORY_FOR_KEYS))
    for label, node in labelled.items():
        g.add_drive_opts(node, format="raw", label=label)
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


def _volumes(g: Any, disks: Mapping[str, str], keys: Mapping[str, str]) -> Volumes:
    try:
        return volumes(g, disks, keys)
    except RuntimeError as error:
        raise Refused(
            f"the appliance cannot tell what is on the disks: {error}",
            code="guest_disks_unreadable",
            hint="the partition table, or what LVM or md keep, may be damaged",
        ) from error
