"""The declared fallback: an initramfs to which nothing can be appended is made anew by the guest's own tool.

That tool is the only code of a guest that an adaptation ever runs: by policy alone, and only where what runs
it may (Host.runs_guest_code). It runs before the first change, so that a tool which fails, or which makes
what nobody can use, leaves the guest as it was. What it made is kept beside the journal: a run after a kill
does not run it again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refloat.durable import write_durably
from refloat.errors import Failed, Refused
from refloat.guest.families import needed_modules
from refloat.guest.journal import Journal, has_begun
from refloat.guest.linux import initramfs, rebuild
from refloat.guest.linux.compression import BrokenInitramfs
from refloat.guest.linux.edits import Progress
from refloat.guest.linux.modules import KernelModules
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.linux.tools import TOOLS
from refloat.guest.mounts import clear
from refloat.guest.tree import Tree
from refloat.model import AdaptRequest, GuestFacts, GuestKernel

_MIB = 1024 * 1024
# Room on the boot filesystem for a new initramfs: it has more drivers in it than the old one, and is not
# known before it is made. The tool's result is held to it.
_LEAST, _MOST = 96 * _MIB, rebuild.Limits().output
_APPENDED = 16 * _MIB  # for the drivers behind it, if the tool did not take them
_KEPT, _WORK = "rebuilt", "rebuild"


def could_help(tree: Tree, tool: str, old: int, error: Exception) -> bool:
    """Whether the guest's `tool` may make what could not be read or extended; `old` is its size in bytes.

    Broken as well as unknown formats: the old file is not looked at again, and the new one is judged as any
    other. What a kernel does not have (ModuleMissing) no tool can put into an initramfs.
    """
    maker = rebuild.MAKERS.get(tool)
    if maker is None or not isinstance(error, BrokenInitramfs) or old > _MOST:
        return False
    return any(map(tree.is_file, maker.programs))


def space(old: int) -> int:
    """Bytes to be free for the successor of an initramfs of `old` bytes."""
    return min(max(_LEAST, 2 * old), _MOST) + _APPENDED


def check(facts: GuestFacts, allowed: bool, possible: bool) -> None:
    """Raises Refused where the guest's tool would have to run and must not (`allowed`, by policy) or cannot
    (`possible`, by what would run it)."""
    lost = [one for one in facts.kernels if one.cannot_extend]
    if not lost or (allowed and possible):
        return
    what = "; ".join(f"{one.initramfs} cannot be extended ({one.cannot_extend})" for one in lost)
    commands = " and ".join(dict.fromkeys(_command(facts, one) for one in lost))
    if not allowed:
        raise Refused(
            f"{what}: only the guest's own tool could make it anew, and nobody allowed that",
            code="rebuild_not_allowed",
            hint="`rebuild: allowed` in the policy, or --rebuild of `refloat guest`, lets it run, confined; "
            f"or run {commands} in the guest",
        )
    raise Refused(
        f"{what}: the guest's own tool could make it anew, but the appliance runs no program of a guest",
        code="rebuild_not_here",
        hint="say --trusted for images of your own, or let a hub adapt the guest in its controller; or run "
        f"{commands} in the guest",
    )


def _command(facts: GuestFacts, kernel: GuestKernel) -> str:
    return TOOLS[facts.initramfs_tool].rebuild.format(version=kernel.version)


# ---------------------------------------------------------------- before the first change


def make(
    tree: Tree,
    root: Path,
    facts: GuestFacts,
    request: AdaptRequest,
    run_dir: Path,
    progress: Progress,
) -> None:
    """Makes and keeps what put() will write; `root` is where `tree` is mounted. Nothing in the guest changes.

    Raises Refused where that fails, Failed where a run before this one has changed something already.
    """
    # What a killed run left mounted there would keep the guest's filesystems in use to the end.
    clear(run_dir / _WORK)
    names = DeviceNames([disk.key for disk in request.disks], facts.filesystems)
    for kernel in facts.kernels:
        kept = _kept(run_dir, kernel)
        if not kernel.cannot_extend or (has_begun(run_dir) and kept.exists()):
            continue
        progress("rebuild", {"kernel": kernel.version, "tool": facts.initramfs_tool})
        try:
            content, said = _made(tree, root, facts, kernel, request, names, run_dir)
        except Failed as error:
            kind = Failed if has_begun(run_dir) else Refused
            raise kind(
                f"{kernel.initramfs} could not be made anew: {error.message}",
                code=error.code,
                hint=f"it is as it was; see that {_command(facts, kernel)} works in the guest, and try again",
            ) from error
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_durably(_said(kept), said.encode())
        write_durably(kept, content)  # last: with it all is there


def _made(
    tree: Tree,
    root: Path,
    facts: GuestFacts,
    kernel: GuestKernel,
    request: AdaptRequest,
    names: DeviceNames,
    run_dir: Path,
) -> tuple[bytes, str]:
    """The new initramfs with what it lacks appended, and what is to be said of it."""
    tool, modules = facts.initramfs_tool, KernelModules(tree, kernel.version)
    limits = rebuild.limits_here(kernel.space - _APPENDED)
    made = rebuild.rebuild(root, tool, kernel.version, run_dir / _WORK, limits)
    with _as_file(made) as fd:
        addition = initramfs.for_destination(fd, modules, request, names)
    whole = made + (addition.tail if addition else b"")
    rebuild.accept(whole, modules, needed_modules(request.disk_bus, request.nic_model))
    if len(whole) > kernel.space:
        raise Failed(f"it has {len(whole)} bytes, and there is room for {kernel.space}", code="no_space")
    parts = [f"made anew, as it could not be extended ({kernel.cannot_extend})"]
    parts.append(rebuild.told(tool, kernel.version, limits))
    return whole, "; ".join([*parts, *(addition.reasons() if addition else ())])


@contextmanager
def _as_file(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("refloat-rebuilt", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as handle:
            handle.write(content)
        yield fd
    finally:
        os.close(fd)


# ---------------------------------------------------------------- with the other changes


def put(journal: Journal, kernel: GuestKernel) -> int:
    """Writes what make() kept; returns its size in bytes. The old content is kept by the journal."""
    kept = _kept(journal.run_dir, kernel)
    content, reason = kept.read_bytes(), _said(kept).read_text()
    journal.write(kernel.initramfs, content, reason, shown=False, limit=_MOST + _APPENDED)
    return len(content)


def _kept(run_dir: Path, kernel: GuestKernel) -> Path:
    return run_dir / _KEPT / hashlib.sha256(kernel.initramfs.encode()).hexdigest()[:16]


def _said(kept: Path) -> Path:
    return kept.with_suffix(".txt")
