"""An initramfs made by the guest's own tool, for one that cannot be extended: the guest's code runs.

It runs without any capability, in namespaces of its own (mounts, processes, network, IPC, host name), its
system read-only and without devices, within limits of time and size. Still, this machine's kernel meets it:
for a controller, which is thrown away, or for guests that are trusted.

What comes out is bytes that nobody trusts: accept() reads them as any initramfs of a guest.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from refloat.command import run
from refloat.errors import Failed, RefloatError
from refloat.guest.linux import initramfs
from refloat.guest.linux.compression import BrokenInitramfs
from refloat.guest.linux.contents import scan
from refloat.guest.linux.modules import KernelModules
from refloat.guest.mounts import clear
from refloat.text import safe

_MIB = 1024 * 1024
_OUT = "/run/refloat"
_IMAGE = "initramfs"
# Each gets an empty filesystem; all have to be plain directories of the guest.
_EMPTY = ("/tmp", "/var/tmp", "/run")
_PLACES = ("/var", *_EMPTY, "/proc", "/dev")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,200}")
_LOG_SHOWN = 600

# The guest's configuration names the drivers already (persistence.py). dracut looks at the machine that it
# runs on unless told not to, and there is none to see.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "initramfs-tools": ("mkinitramfs", "-o", "{out}", "{version}"),
    "dracut": ("dracut", "--force", "--no-hostonly", "--kver", "{version}", "{out}"),
    "mkinitcpio": ("mkinitcpio", "-k", "{version}", "-g", "{out}"),
    "mkinitfs": ("mkinitfs", "-o", "{out}", "{version}"),
}


class RebuildFailed(Failed):
    """The guest's tool made nothing that could be used. The guest is as it was."""

    default_code = "initramfs_rebuild"


@dataclass(frozen=True)
class Limits:
    """`seconds` for the whole run; `output` and `scratch` in bytes, the latter of each empty filesystem;
    `memory` in bytes of address space of each process."""

    seconds: int = 900
    output: int = 256 * _MIB
    scratch: int = 1024 * _MIB
    memory: int = 2048 * _MIB


def rebuild(root: Path, tool: str, version: str, work: Path, limits: Limits = Limits()) -> bytes:
    """What the guest's `tool` (a name of TOOLS) makes for its kernel `version`.

    `root` is the mounted guest, everything that belongs to its system mounted below; it is not written.
    `work` is an empty directory outside of the guest. Raises RebuildFailed.
    """
    if not _VERSION.fullmatch(version):
        raise RebuildFailed(f"{safe(version)!r} is no version that a kernel has")
    _check_places(root)
    with _bounded(work, limits.output) as directory:
        out = directory / "out"
        out.mkdir()
        with (directory / "log").open("w+b") as log:
            try:
                run(_argv(root, tool, version, out, limits), timeout=limits.seconds, output=log)
            except RefloatError as error:
                raise RebuildFailed(f"the guest's {tool}: {error.message}; {_tail(directory)}") from error
        return _taken(out / _IMAGE, tool, limits.output)


def accept(content: bytes, modules: KernelModules, needed: Iterable[str]) -> None:
    """Raises BrokenInitramfs unless this is an initramfs with all `needed` modules and something that can
    load them."""
    fd = os.memfd_create("refloat-rebuilt", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as handle:
            handle.write(content)
        contents = scan(fd, modules.version, initramfs.wanted)
    finally:
        os.close(fd)
    lacking = initramfs.missing(contents, modules, needed)
    if lacking:
        raise BrokenInitramfs(f"the new one lacks {', '.join(lacking)}, too")
    if not contents.can_load():
        raise BrokenInitramfs("the new one has no program that could load a module")


# ---------------------------------------------------------------- inside


def _argv(root: Path, tool: str, version: str, out: Path, limits: Limits) -> Sequence[str]:
    places = {"version": version, "out": f"{_OUT}/{_IMAGE}"}
    empty = [word for path in _EMPTY for word in ("--size", str(limits.scratch), "--tmpfs", path)]
    return [
        "prlimit", f"--as={limits.memory}", "--core=0", "--",
        "bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--disable-userns", "--cap-drop", "ALL",
        "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
        "--die-with-parent", "--new-session", "--clearenv", "--setenv", "PATH", _PATH,
        "--setenv", "LC_ALL", "C", "--setenv", "TMPDIR", "/var/tmp",
        "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", *empty,
        # /proc/sys belongs to root: without any capability it could be written (core_pattern).
        "--remount-ro", "/proc",
        "--bind", str(out), _OUT, "--chdir", "/", "--",
        *(word.format_map(places) for word in COMMANDS[tool]),
    ]  # fmt: skip


def _check_places(root: Path) -> None:
    """A symlink there would have something mounted, or made, where it leads."""
    for place in _PLACES:
        path = root / place.lstrip("/")
        if path.is_symlink() or not path.is_dir():
            raise RebuildFailed(f"the guest's {place} is no directory: its tools cannot run in it")


@contextmanager
def _bounded(work: Path, size: int) -> Iterator[Path]:
    """A filesystem of this size at `work`: what the guest writes and says has to fit in it.

    What a killed run left mounted there goes first."""
    clear(work)
    options = f"size={size},nr_inodes=64,nosuid,nodev,noexec"
    try:
        run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(work)])
        yield work
    finally:
        # Lazily: what was killed may still be ending. A mount that stays is what clear() fails for.
        run(["umount", "--lazy", "--", str(work)], check=False)
        clear(work)


def _tail(directory: Path) -> str:
    said = (directory / "log").open("rb").read(_MIB)[-_LOG_SHOWN:]
    return safe(said.decode("utf-8", "replace").strip()) or "it said nothing"


def _taken(path: Path, tool: str, limit: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RebuildFailed(f"the guest's {tool} made no initramfs: {error.strerror}") from error
    with open(fd, "rb") as handle:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= limit:
            raise RebuildFailed(f"the guest's {tool} made no initramfs of at most {limit} bytes")
        return handle.read(limit)
