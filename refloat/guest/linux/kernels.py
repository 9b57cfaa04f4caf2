"""A guest's kernels: what their initramfs lacks for the destination, and bringing it there to stay."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from refloat.errors import RefloatError
from refloat.guest.families import DISK_MODULES, Family, needed_modules
from refloat.guest.journal import Journal
from refloat.guest.linux import fallback, initramfs, installed, pins, rootless
from refloat.guest.linux.compression import UnknownFormat
from refloat.guest.linux.contents import scan
from refloat.guest.linux.edits import Progress
from refloat.guest.linux.installed import Installed
from refloat.guest.linux.modules import KernelModules
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.linux.tools import TOOLS, tool_in_use
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import AdaptRequest, DiskBus, GuestFacts, GuestKernel, NicModel

# Left free on the boot filesystem after the adaptation, in bytes.
_SPACE_LEFT = 4 * 1024 * 1024


# ---------------------------------------------------------------- looking


@dataclass(frozen=True)
class _Look:
    """What every kernel is looked at with."""

    tree: Tree
    tool: str
    bus: DiskBus
    nic: NicModel
    names: DeviceNames
    known: dict[str, GuestKernel]  # by stamp
    notes: Notes


@dataclass(frozen=True)
class _Obstacle:
    """Why an initramfs (or a kernel without one) cannot be adapted. `anew`: the kernel as it would be taken
    if the guest's own tool were allowed to make another."""

    kernel: Installed
    reason: str
    anew: GuestKernel | None = None


def look(
    tree: Tree,
    family: Family,
    bus: DiskBus,
    nic: NicModel,
    names: DeviceNames,
    known: Sequence[GuestKernel],
    notes: Notes,
) -> tuple[GuestKernel, ...]:
    """Every installed kernel: which one boots next is the boot loader's choice. `known` ones are taken as
    they are if their initramfs is still the same.

    A kernel that cannot be adapted is a problem, but one that is older than another that can is only
    worth a warning: nobody has to choose it.
    """
    found = installed.find(tree, family, notes)
    tool = tool_in_use(tree.exists, family.initramfs_tool)
    with_all = _Look(tree, tool, bus, nic, names, {kernel.stamp: kernel for kernel in known}, notes)
    kernels: list[GuestKernel] = []
    obstacles: list[_Obstacle] = []
    for one in found:
        adaptable, against = _one_kernel(with_all, one)
        kernels += adaptable
        obstacles += against
    newest = max((installed.age(kernel.version) for kernel in kernels), default=())
    for obstacle in obstacles:
        version = obstacle.kernel.version
        if installed.age(version) < newest:
            notes.warnings.append(f"{obstacle.reason}; the older kernel {version} will not boot any more")
        elif obstacle.anew is not None:
            kernels.append(obstacle.anew)
        else:
            notes.problems.append(obstacle.reason)
    if not found and not any("unified" in problem for problem in notes.problems):
        ostree = tree.is_directory("/ostree/repo")
        notes.problems.append(
            "the system is an image (ostree): its kernels cannot be adapted"
            if ostree
            else "no kernel was found in /boot"
        )
    _check_space(tree, kernels, notes)
    return tuple(kernels)


def _one_kernel(look: _Look, one: Installed) -> tuple[list[GuestKernel], list[_Obstacle]]:
    """What is known of each of its initramfs, and what stands against some (or the kernel itself)."""
    modules = KernelModules(look.tree, one.version)
    if not modules.has("virtio_console"):
        look.notes.warnings.append(
            f"kernel {one.version} has no virtio_console: it cannot report over virtio-serial"
        )
    if not one.initramfs:
        reason = rootless.limitation(look.tree, one.kernel, modules, DISK_MODULES[look.bus], look.names)
        kernel = GuestKernel(one.version, "")
        return ([kernel], []) if reason is None else ([], [_Obstacle(one, f"kernel {one.version} {reason}")])
    kernels, against = [], []
    for path in one.initramfs:
        try:
            kernels.append(_one_initramfs(look, modules, path))
        except RefloatError as error:
            reason = f"{path}: {_in_words(look.tool, one.version, error)}"
            against.append(_Obstacle(one, reason, _anew(look, one.version, path, error)))
    return kernels, against


def _in_words(tool: str, version: str, error: RefloatError) -> str:
    if not isinstance(error, UnknownFormat):
        return error.message
    command = TOOLS[tool].rebuild.format(version=version)
    return (
        f"append is impossible for this format: {error.message}; "
        f"{command} in the guest, with the drivers in its configuration, makes one that can boot"
    )


def _anew(look: _Look, version: str, path: str, error: RefloatError) -> GuestKernel | None:
    status = look.tree.stat(path)
    if status is None or not fallback.could_help(look.tree, look.tool, status.st_size, error):
        return None
    room = fallback.space(status.st_size)
    return GuestKernel(version, path, space=room, cannot_extend=error.message)


def _one_initramfs(look: _Look, modules: KernelModules, path: str) -> GuestKernel:
    with look.tree.open(path) as fd:
        status = os.fstat(fd)
        stamp = f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
        known = look.known.get(stamp)
        if known is not None and (known.version, known.initramfs) == (modules.version, path):
            return known
        contents = scan(fd, modules.version, initramfs.wanted)
    missing = initramfs.missing(contents, modules, needed_modules(look.bus, look.nic))
    changed = bool(missing)
    for inner, done in pins.mended(contents.configs, look.names, look.bus).items():
        look.notes.unstable += [f"{path}:{inner}:{edit.line} {edit.old}" for edit in done.edits]
        look.notes.problems += [f"{path}: {words}" for words in done.problems]
        look.notes.warnings += [f"{path}: {words}" for words in done.warnings]
        changed = changed or bool(done.edits)
    space = contents.size + sum(modules.size(name) for name in missing) + initramfs.INDEX_ALLOWANCE
    return GuestKernel(modules.version, path, missing, space if changed else 0, stamp)


def _check_space(tree: Tree, kernels: Iterable[GuestKernel], notes: Notes) -> None:
    """Each initramfs grows, and is written as a whole beside the old one before it takes its place."""
    sizes: dict[str, list[tuple[int, int]]] = {}
    anew: dict[str, str] = {}
    for kernel in kernels:
        status = tree.stat(kernel.initramfs) if kernel.space else None
        if status is not None:
            directory = posixpath.dirname(kernel.initramfs)
            sizes.setdefault(directory, []).append((status.st_size, kernel.space - status.st_size))
            if kernel.cannot_extend:
                anew[directory] = f": {kernel.initramfs} would be made anew ({kernel.cannot_extend})"
    for directory, grown in sizes.items():
        needed = max(size for size, _ in grown) + sum(more for _, more in grown) + _SPACE_LEFT
        free = tree.free_space(directory)
        if free < needed:
            why = anew.get(directory, "")
            notes.problems.append(f"{directory} has {free} bytes free, and {needed} are needed{why}")


# ---------------------------------------------------------------- changing


def drivers(
    tree: Tree,
    journal: Journal,
    facts: GuestFacts,
    request: AdaptRequest,
    names: DeviceNames,
    progress: Progress,
) -> None:
    """Appends to every kernel's initramfs what it lacks, or writes the one that was made in its place."""
    for kernel in facts.kernels:
        if not kernel.initramfs:
            continue
        if kernel.cannot_extend:
            size = fallback.put(journal, kernel)
            progress("initramfs", {"kernel": kernel.version, "bytes": size})
            continue
        with tree.open(kernel.initramfs) as fd:
            modules = KernelModules(tree, kernel.version)
            addition = initramfs.for_destination(fd, modules, request, names)
        if addition is not None:
            size, digest = _fingerprint(tree, kernel.initramfs)
            journal.extend(
                kernel.initramfs,
                addition.tail,
                "; ".join(addition.reasons()),
                expect_size=size,
                expect_sha256=digest,
            )
        progress("initramfs", {"kernel": kernel.version, "added": len(addition.added) if addition else 0})


def _fingerprint(tree: Tree, path: str) -> tuple[int, str]:
    with tree.open(path) as fd, open(f"/proc/self/fd/{fd}", "rb") as handle:
        return os.fstat(fd).st_size, hashlib.file_digest(handle, "sha256").hexdigest()
