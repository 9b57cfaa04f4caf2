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
from refloat.guest.linux import initramfs, installed, pins, rootless
from refloat.guest.linux.contents import scan
from refloat.guest.linux.edits import Progress
from refloat.guest.linux.installed import Installed
from refloat.guest.linux.modules import KernelModules
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.linux.tools import TOOLS
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import AdaptRequest, DiskBus, GuestFacts, GuestKernel, NicModel

# Left free on the boot filesystem after the adaptation, in bytes.
_SPACE_LEFT = 4 * 1024 * 1024
# Added besides what the destination needs, where the guest's kernel has them: the guest can then be
# moved between virtio buses without another adaptation.
_WELCOME = ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "sd_mod")


# ---------------------------------------------------------------- looking


@dataclass(frozen=True)
class _Look:
    """What every kernel is looked at with."""

    tree: Tree
    family: Family
    bus: DiskBus
    nic: NicModel
    names: DeviceNames
    known: dict[str, GuestKernel]  # by stamp
    notes: Notes


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
    with_all = _Look(tree, family, bus, nic, names, {kernel.stamp: kernel for kernel in known}, notes)
    kernels: list[GuestKernel] = []
    failed: list[tuple[Installed, str]] = []
    for one in found:
        adaptable, reasons = _one_kernel(with_all, one)
        kernels += adaptable
        failed += [(one, reason) for reason in reasons]
    newest = max((installed.age(kernel.version) for kernel in kernels), default=())
    for one, reason in failed:
        if installed.age(one.version) < newest:
            notes.warnings.append(f"{reason}; the older kernel {one.version} will not boot any more")
        else:
            notes.problems.append(reason)
    if not found and not any("unified" in problem for problem in notes.problems):
        ostree = tree.is_directory("/ostree/repo")
        notes.problems.append(
            "the system is an image (ostree): its kernels cannot be adapted"
            if ostree
            else "no kernel was found in /boot"
        )
    _check_space(tree, kernels, notes)
    return tuple(kernels)


def _one_kernel(look: _Look, one: Installed) -> tuple[list[GuestKernel], list[str]]:
    """What is known of each of its initramfs, and why some (or the kernel itself) cannot be adapted."""
    modules = KernelModules(look.tree, one.version)
    if not modules.has("virtio_console"):
        look.notes.warnings.append(
            f"kernel {one.version} has no virtio_console: it cannot report over virtio-serial"
        )
    if not one.initramfs:
        reason = rootless.limitation(look.tree, one.kernel, modules, DISK_MODULES[look.bus], look.names)
        kernel = GuestKernel(one.version, "")
        return ([kernel], []) if reason is None else ([], [f"kernel {one.version} {reason}"])
    kernels, reasons = [], []
    for path in one.initramfs:
        try:
            kernels.append(_one_initramfs(look, modules, path))
        except RefloatError as error:
            reasons.append(f"{path}: {_in_words(look.family, one.version, error)}")
    return kernels, reasons


def _in_words(family: Family, version: str, error: RefloatError) -> str:
    if not initramfs.rebuild_needed(error):
        return error.message
    command = TOOLS[family.initramfs_tool].rebuild.format(version=version)
    return (
        f"append is impossible for this format: {error.message}; "
        f"{command} in the guest, with the drivers in its configuration, makes one that can boot"
    )


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
    for kernel in kernels:
        status = tree.stat(kernel.initramfs) if kernel.space else None
        if status is not None:
            directory = posixpath.dirname(kernel.initramfs)
            sizes.setdefault(directory, []).append((status.st_size, kernel.space - status.st_size))
    for directory, grown in sizes.items():
        needed = max(size for size, _ in grown) + sum(more for _, more in grown) + _SPACE_LEFT
        free = tree.free_space(directory)
        if free < needed:
            notes.problems.append(f"{directory} has {free} bytes free, and {needed} are needed")


# ---------------------------------------------------------------- changing


def drivers(
    tree: Tree,
    journal: Journal,
    facts: GuestFacts,
    request: AdaptRequest,
    names: DeviceNames,
    progress: Progress,
) -> None:
    """Appends to every kernel's initramfs what it lacks."""
    for kernel in facts.kernels:
        if not kernel.initramfs:
            continue
        addition = initramfs.addition(
            tree,
            kernel.initramfs,
            KernelModules(tree, kernel.version),
            needed=needed_modules(request.disk_bus, request.nic_model),
            force=DISK_MODULES[request.disk_bus],
            welcome=_WELCOME,
            mend=lambda configs: pins.mended(configs, names, request.disk_bus),
        )
        if addition is not None:
            size, digest = _fingerprint(tree, kernel.initramfs)
            journal.extend(
                kernel.initramfs,
                addition.tail,
                _reason(addition),
                expect_size=size,
                expect_sha256=digest,
            )
        progress("initramfs", {"kernel": kernel.version, "added": len(addition.added) if addition else 0})


def _reason(addition: initramfs.Addition) -> str:
    parts = []
    if addition.added:
        parts.append(f"drivers appended: {' '.join(addition.added)}")
    if addition.mended:
        parts.append(f"names that follow the bus mended in {' '.join(addition.mended)}")
    return "; ".join(parts)


def _fingerprint(tree: Tree, path: str) -> tuple[int, str]:
    with tree.open(path) as fd, open(f"/proc/self/fd/{fd}", "rb") as handle:
        return os.fstat(fd).st_size, hashlib.file_digest(handle, "sha256").hexdigest()
