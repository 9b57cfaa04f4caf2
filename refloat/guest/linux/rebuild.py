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
from dataclasses import dataclass, replace
from pathlib import Path

from refloat.command import run
from refloat.errors import Failed, RefloatError
from refloat.guest.linux import initramfs
from refloat.guest.linux.compression import BrokenInitramfs
from refloat.guest.linux.contents import scan
from refloat.guest.linux.modules import KernelModules
from refloat.guest.mounts import clear, table
from refloat.text import safe

_MIB = 1024 * 1024
_OUT = "/run/refloat"
_IMAGE = "initramfs"
# Each gets an empty filesystem in memory; all have to be plain directories of the guest. The tools work in
# _WORK: the others are small.
_WORK = "/var/tmp"
_EMPTY = ("/tmp", _WORK, "/run")
_PLACES = ("/var", *_EMPTY, "/proc", "/dev")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,200}")
_LOG_SHOWN = 600
_SMALL = 32 * _MIB

# With MODULES=dep it would look for the hardware, and there is none to see; a copy of its configuration says
# otherwise. Arguments: the result, the kernel's version.
_MKINITRAMFS = f"""\
set -e
cp -r --preserve=mode /etc/initramfs-tools {_WORK}/conf
mkdir -p {_WORK}/conf/conf.d
echo MODULES=most >{_WORK}/conf/conf.d/zz-refloat
exec mkinitramfs -d {_WORK}/conf -o "$1" "$2"
"""


@dataclass(frozen=True)
class Maker:
    """`programs` are paths of which one exists where the tool can run; `argv` is what is run, and `said` how
    it is told to people."""

    programs: tuple[str, ...]
    argv: tuple[str, ...]
    said: str


# By the names of tools.py. Only those that were seen to work here, in guests that then booted.
# dracut looks at the machine that it runs on unless told not to.
MAKERS: Mapping[str, Maker] = {
    "initramfs-tools": Maker(
        ("/usr/sbin/mkinitramfs",),
        ("sh", "-c", _MKINITRAMFS, "mkinitramfs", "{out}", "{version}"),
        "mkinitramfs {version} (MODULES=most)",
    ),
    "dracut": Maker(
        ("/usr/bin/dracut", "/usr/sbin/dracut"),
        ("dracut", "--force", "--no-hostonly", "--kver", "{version}", "{out}"),
        "dracut --no-hostonly --kver {version}",
    ),
}


class RebuildFailed(Failed):
    """The guest's tool made nothing that could be used. The guest is as it was."""

    default_code = "initramfs_rebuild"


@dataclass(frozen=True)
class Limits:
    """`seconds` for the whole run; `output` and `scratch` (what it works in, which is in memory) in bytes;
    `memory` in bytes of address space of each process."""

    seconds: int = 900
    output: int = 256 * _MIB
    scratch: int = 1024 * _MIB
    memory: int = 2048 * _MIB


def limits_here(output: int) -> Limits:
    """For a result of at most `output` bytes, on this machine with the memory that it has now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    usual = Limits()
    return replace(usual, output=min(output, usual.output), scratch=min(usual.scratch, available // 2))


def told(tool: str, version: str, limits: Limits) -> str:
    """What is run and how it is confined, for the change journal."""
    return (
        f"{MAKERS[tool].said.format(version=version)}, the guest's own, run without capabilities, network "
        f"and devices, its system read-only, within {limits.seconds} s, {limits.memory // _MIB} MiB of "
        f"memory for each process, {limits.scratch // _MIB} MiB to work in and {limits.output // _MIB} MiB "
        "of output"
    )


def rebuild(root: Path, tool: str, version: str, work: Path, limits: Limits = Limits()) -> bytes:
    """What the guest's `tool` (a name of MAKERS) makes for its kernel `version`.

    `root` is the mounted guest, everything that belongs to its system mounted below; it is not written.
    `work` is a directory outside of the guest for this alone. Raises RebuildFailed.
    """
    if not _VERSION.fullmatch(version):
        raise RebuildFailed(f"{safe(version)!r} is no version that a kernel has")
    _check_places(root)
    with _runnable(root, work / "root") as system, _bounded(work / "made", limits.output) as directory:
        out = directory / "out"
        out.mkdir()
        with (directory / "log").open("w+b") as log:
            try:
                run(_argv(system, tool, version, out, limits), timeout=limits.seconds, output=log)
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
    sizes = {path: limits.scratch if path == _WORK else min(limits.scratch, _SMALL) for path in _EMPTY}
    empty = [word for path in _EMPTY for word in ("--size", str(sizes[path]), "--tmpfs", path)]
    return [
        "prlimit", f"--as={limits.memory}", "--core=0", "--",
        "bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--disable-userns", "--cap-drop", "ALL",
        "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
        "--die-with-parent", "--new-session", "--clearenv", "--setenv", "PATH", _PATH,
        "--setenv", "LC_ALL", "C", "--setenv", "TMPDIR", _WORK,
        "--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", *empty,
        # /proc/sys belongs to root: without any capability it could be written (core_pattern).
        "--remount-ro", "/proc",
        "--bind", str(out), _OUT, "--chdir", "/", "--",
        *(word.format_map(places) for word in MAKERS[tool].argv),
    ]  # fmt: skip


def _check_places(root: Path) -> None:
    """A symlink there would have something mounted, or made, where it leads."""
    for place in _PLACES:
        path = root / place.lstrip("/")
        if path.is_symlink() or not path.is_dir():
            raise RebuildFailed(f"the guest's {place} is no directory: its tools cannot run in it")


@contextmanager
def _runnable(root: Path, place: Path) -> Iterator[Path]:
    """The guest's system once more, read-only and for itself: where Refloat mounts it, no program runs.

    What a killed run left mounted there goes first."""
    clear(place)
    place.mkdir(parents=True, exist_ok=True)
    try:
        run(["mount", "--rbind", "--make-rprivate", "--", str(root), str(place)])
        for mount in [one.place for one in table() if one.is_within(os.path.realpath(place))]:
            run(["mount", "-o", "remount,bind,ro,nosuid,nodev,exec", "--", mount])
        yield place
    finally:
        clear(place)


@contextmanager
def _bounded(work: Path, size: int) -> Iterator[Path]:
    """A filesystem of this size at `work`: what the guest writes and says has to fit in it.

    What a killed run left mounted there goes first."""
    clear(work)
    work.mkdir(parents=True, exist_ok=True)
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
