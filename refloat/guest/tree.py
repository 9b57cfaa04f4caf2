"""The only way to a guest's files.

A guest's content is hostile until proven otherwise: a symlink may point at the host, a file may be a
FIFO that blocks for ever or a device, a text may have a terabyte. So every path is resolved by the
kernel inside the guest's root (openat2 with RESOLVE_IN_ROOT, Linux 5.6), every file is looked at before
it is opened, and every read has a bound.

The methods that write are for journal.py alone: it checks the boundary and records the change first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

from refloat.errors import Failed

TEXT_LIMIT = 4 * 1024 * 1024

# What ntfs-3g has of a file without listing it: its security descriptor, and attributes such as hidden.
NTFS_ACL, NTFS_ATTRIBUTES = "system.ntfs_acl", "system.ntfs_attrib"

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_COPY_CHUNK = 1024 * 1024
_NAMES_LIMIT = 1 << 18  # in one directory


class GuestFileError(Failed):
    """A file of the guest is not what it should be: missing, a device, too large, out of reach."""

    default_code = "guest_file"


@dataclass(frozen=True)
class Meta:
    """What a new file gets, or an old one keeps: mode bits, owner and extended attributes."""

    mode: int
    uid: int = 0
    gid: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def _openat2(directory: int, path: str, flags: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    encoded = os.fsencode(path)
    while True:
        fd = _libc.syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_int(directory),
            ctypes.c_char_p(encoded),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        # EAGAIN: something was renamed on the way; the kernel asks for another try.
        if code not in (errno.EINTR, errno.EAGAIN):
            raise OSError(code, os.strerror(code), path)


def _is_absence(error: OSError) -> bool:
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Tree:
    """A guest's root directory as mounted at `root`. Paths are the guest's own: "/etc/fstab"."""

    def __init__(self, root: Path) -> None:
        self._root_path = os.path.realpath(root)
        self._root = os.open(self._root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ looking

    @contextmanager
    def _at(self, path: str, flags: int = 0) -> Iterator[int]:
        """A descriptor that only names the file: nothing is opened, so no device or FIFO can react."""
        fd = _openat2(self._root, path, os.O_PATH | flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def stat(self, path: str, *, follow: bool = True) -> os.stat_result | None:
        """The file's status, or None where there is none (or only a dangling symlink)."""
        try:
            with self._at(path, 0 if follow else os.O_NOFOLLOW) as fd:
                return os.fstat(fd)
        except OSError as error:
            if _is_absence(error):
                return None
            raise GuestFileError(f"cannot look at the guest's {path}: {error.strerror}") from error

    def exists(self, path: str) -> bool:
        return self.stat(path) is not None

    def is_file(self, path: str) -> bool:
        status = self.stat(path)
        return status is not None and stat.S_ISREG(status.st_mode)

    def is_directory(self, path: str) -> bool:
        status = self.stat(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def real(self, path: str) -> str:
        """The guest path without any symlink: what the boundary is asked about.

        The last component may be missing. Raises GuestFileError where the directory is, too, or
        where the last component is a symlink that leads to nothing.
        """
        try:
            return self._canonical(path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise GuestFileError(f"cannot resolve the guest's {path}: {error.strerror}") from error
        if self.stat(path, follow=False) is not None:
            raise GuestFileError(f"the guest's {path} is a symlink that leads to nothing")
        parent, name = os.path.split(path.rstrip("/"))
        try:
            return f"{self._canonical(parent or '/').rstrip('/')}/{name}"
        except OSError as error:
            raise GuestFileError(f"the guest has no directory for {path}: {error.strerror}") from error

    def _canonical(self, path: str) -> str:
        with self._at(path) as fd:
            full = os.readlink(f"/proc/self/fd/{fd}")
        if self._root_path == "/":
            return full
        return full[len(self._root_path) :] or "/"

    def listdir(self, path: str) -> list[str]:
        """The sorted names in a directory; none where it does not exist. Raises GuestFileError for one with
        more than a system has."""
        try:
            with self._at(path, os.O_DIRECTORY) as fd, os.scandir(f"/proc/self/fd/{fd}") as entries:
                names = sorted(entry.name for entry in islice(entries, _NAMES_LIMIT + 1))
        except OSError as error:
            if _is_absence(error):
                return []
            raise GuestFileError(f"cannot list the guest's {path}: {error.strerror}") from error
        if len(names) > _NAMES_LIMIT:
            raise GuestFileError(f"the guest's {path} holds more than {_NAMES_LIMIT} names")
        return names

    def readlink(self, path: str) -> str | None:
        """A symlink's target, or None for what is no symlink."""
        try:
            with self._at(path, os.O_NOFOLLOW) as fd:
                return os.readlink("", dir_fd=fd)
        except OSError:
            return None

    def free_space(self, path: str) -> int:
        """Bytes that root can still write on the filesystem of `path`."""
        with self._at(path) as fd:
            status = os.fstatvfs(fd)
            return status.f_bfree * status.f_frsize

    # ------------------------------------------------------------ reading

    @contextmanager
    def open(self, path: str) -> Iterator[int]:
        """A descriptor for reading a regular file. Raises GuestFileError for anything else."""
        try:
            with self._at(path) as named:
                if not stat.S_ISREG(os.fstat(named).st_mode):
                    raise GuestFileError(f"the guest's {path} is not a regular file")
                # The same inode again, now for reading: no path is walked a second time.
                fd = os.open(f"/proc/self/fd/{named}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise GuestFileError(f"cannot open the guest's {path}: {error.strerror}") from error
        try:
            yield fd
        finally:
            os.close(fd)

    def read_bytes(self, path: str, limit: int = TEXT_LIMIT) -> bytes:
        """The whole file. Raises GuestFileError if it is larger than `limit` bytes."""
        with self.open(path) as fd:
            size = os.fstat(fd).st_size
            if size > limit:
                raise GuestFileError(f"the guest's {path} has {size} bytes, more than the {limit} expected")
            parts, total = [], 0
            while chunk := os.read(fd, _COPY_CHUNK):
                total += len(chunk)
                if total > limit:
                    raise GuestFileError(f"the guest's {path} grows while it is read")
                parts.append(chunk)
            return b"".join(parts)

    def read_text(self, path: str, limit: int = TEXT_LIMIT) -> str:
        """The file as text; bytes that are no UTF-8 survive a later encode() of the result."""
        return self.read_bytes(path, limit).decode("utf-8", "surrogateescape")

    def read_optional(self, path: str) -> str:
        """The file as text, empty where there is no such regular file."""
        return self.read_text(path) if self.is_file(path) else ""

    def meta(self, path: str) -> Meta:
        """Mode, owner and extended attributes of an existing file (symlinks are followed)."""
        with self._at(path) as fd:
            status, where = os.fstat(fd), f"/proc/self/fd/{fd}"
            xattrs = tuple(_xattrs(where))
        return Meta(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, xattrs)

    # ------------------------------------------------------------ writing (journal.py only)

    def replace_file(self, real: str, chunks: Iterable[bytes], meta: Meta) -> None:
        """Puts a file in place as a whole: a kill leaves the old content or the new, never a half.

        `real` comes from real(). The name of the temporary file is fixed, so that a rerun takes it over.
        """
        parent, name = os.path.split(real)
        temporary = f".{name}.refloat-new"
        with self._writable_directory(parent, real) as directory:
            _unlink_if_there(directory, temporary)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(temporary, flags, 0o600, dir_fd=directory)
                with os.fdopen(fd, "wb") as handle:
                    for chunk in chunks:
                        handle.write(chunk)
                    handle.flush()
                    self._apply_meta(handle.fileno(), f"{parent}/{temporary}", meta)
                    os.fsync(handle.fileno())
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            except OSError:
                _unlink_if_there(directory, temporary)
                raise

    def make_directory(self, real: str, meta: Meta) -> None:
        """Makes an empty directory as a whole: after a kill it is there with its mode, or not at all."""
        parent, name = os.path.split(real)
        temporary = f".{name}.refloat-new"
        with self._writable_directory(parent, real) as directory:
            _rmdir_if_there(directory, temporary)
            try:
                os.mkdir(temporary, 0o700, dir_fd=directory)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(temporary, flags, dir_fd=directory)
                try:
                    self._apply_meta(fd, f"{parent}/{temporary}", meta)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            except OSError:
                _rmdir_if_there(directory, temporary)
                raise

    def make_symlink(self, real: str, target: str, xattrs: tuple[tuple[str, bytes], ...] = ()) -> None:
        """Makes a symlink as a whole: after a kill it is there with its label, or not at all."""
        parent, name = os.path.split(real)
        temporary = f".{name}.refloat-new"
        with self._writable_directory(parent, real) as directory:
            _unlink_if_there(directory, temporary)
            try:
                os.symlink(target, temporary, dir_fd=directory)
                for attribute, value in xattrs:
                    where = f"/proc/self/fd/{directory}/{temporary}"
                    os.setxattr(where, attribute, value, follow_symlinks=False)
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            except OSError:
                _unlink_if_there(directory, temporary)
                raise

    def remove_file(self, real: str) -> None:
        """Removes a file or a symlink."""
        parent, name = os.path.split(real)
        with self._writable_directory(parent, real) as directory:
            _unlink_if_there(directory, name)
            os.fsync(directory)

    def remove_unfinished(self, real: str) -> None:
        """Removes what a killed writing of `real` may have left beside it."""
        parent, name = os.path.split(real)
        temporary = f"{parent.rstrip('/')}/.{name}.refloat-new"
        status = self.stat(temporary, follow=False)
        if status is None:
            return
        with self._writable_directory(parent, real) as directory:
            remove = _rmdir_if_there if stat.S_ISDIR(status.st_mode) else _unlink_if_there
            remove(directory, os.path.basename(temporary))
            os.fsync(directory)

    def remove_directory(self, real: str) -> None:
        parent, name = os.path.split(real)
        with self._writable_directory(parent, real) as directory:
            os.rmdir(name, dir_fd=directory)
            os.fsync(directory)

    def _apply_meta(self, fd: int, path: str, meta: Meta) -> None:
        """`path` is the guest's, of what is open as `fd`."""
        os.fchown(fd, meta.uid, meta.gid)
        os.fchmod(fd, meta.mode)
        for name, value in meta.xattrs:
            self._set_xattr(fd, path, name, value)

    def _set_xattr(self, fd: int, path: str, name: str, value: bytes) -> None:
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            # vfat, as of the EFI system partition, has none: the guest's policy labels it as a whole. (A
            # mode that it cannot keep it ignores, and its files are root's already.)
            if error.errno != errno.ENOTSUP:
                raise

    @contextmanager
    def _writable_directory(self, path: str, real: str) -> Iterator[int]:
        """The directory of what is about to be written; an OSError in the block is said in words."""
        # fsync needs a descriptor that is really open, which O_PATH is not.
        try:
            fd = _openat2(self._root, path or "/", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise GuestFileError(f"cannot open the guest's directory {path}: {error.strerror}") from error
        try:
            yield fd
        except OSError as error:
            raise GuestFileError(f"cannot write the guest's {real}: {error.strerror}") from error
        finally:
            os.close(fd)


def _xattrs(path: str) -> Iterator[tuple[str, bytes]]:
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        names = []
    yield from ((name, os.getxattr(path, name)) for name in names)
    for name in (NTFS_ACL, NTFS_ATTRIBUTES):
        try:
            yield name, os.getxattr(path, name)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENODATA):  # as on any other filesystem
                raise


def _unlink_if_there(directory: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _rmdir_if_there(directory: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=directory)
