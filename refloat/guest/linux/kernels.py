"""A guest's kernels: what their initramfs lacks for the destination, and bringing it there to stay."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence

from refloat.errors import RefloatError
from refloat.guest.families import DISK_MODULES, Family, needed_modules
from refloat.guest.journal import Journal
from refloat.guest.linux import initramfs
from refloat.guest.linux.boot import grub
from refloat.guest.linux.edits import Progress
from refloat.guest.linux.modules import KernelModules
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import AdaptRequest, GuestFacts, GuestKernel

# Left free on the boot filesystem after the adaptation, in bytes.
_SPACE_LEFT = 4 * 1024 * 1024
_MODULES_FILE = "/etc/initramfs-tools/modules"
# Added besides what the destination needs, where the guest's kernel has them: the guest can then be
# moved between virtio buses without another adaptation.
_WELCOME = ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "sd_mod")


# ---------------------------------------------------------------- looking


def look(
    tree: Tree,
    family: Family,
    needed: Sequence[str],
    known: Sequence[GuestKernel],
    notes: Notes,
) -> tuple[GuestKernel, ...]:
    """Every installed kernel: which one boots next is the boot loader's choice. `known` ones are taken as
    they are if their initramfs is still the same."""
    head, _, tail = family.kernel.partition("{}")
    versions = [
        name.removeprefix(head).removesuffix(tail)
        for name in tree.listdir("/boot")
        if name.startswith(head) and name.endswith(tail)
    ]
    stamps = {kernel.stamp: kernel for kernel in known}
    kernels = []
    for version in versions:
        path = f"/boot/{family.initramfs.format(version)}"
        if not tree.is_file(path):
            notes.warnings.append(f"kernel {version} has no initramfs {path}")
            continue
        try:
            kernels.append(_look(tree, needed, stamps, version, path, notes))
        except RefloatError as error:
            notes.problems.append(f"{path}: {error.message}")
    if not versions:
        notes.problems.append("no kernel was found in /boot")
    elif not kernels and not any("/boot/" in problem for problem in notes.problems):
        notes.problems.append("no kernel has an initramfs")
    space = max((kernel.space for kernel in kernels), default=0)
    free = tree.free_space("/boot")
    if space and free < space + _SPACE_LEFT:
        notes.problems.append(f"/boot has {free} bytes free, and {space + _SPACE_LEFT} are needed")
    return tuple(kernels)


def _look(
    tree: Tree,
    needed: Sequence[str],
    known: Mapping[str, GuestKernel],
    version: str,
    path: str,
    notes: Notes,
) -> GuestKernel:
    modules = KernelModules(tree, version)
    if not modules.has("virtio_console"):
        notes.warnings.append(f"kernel {version} has no virtio_console: it cannot report over virtio-serial")
    with tree.open(path) as fd:
        status = os.fstat(fd)
        stamp = f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
        if stamp in known and known[stamp].version == version:
            return known[stamp]
        contents = initramfs.scan(fd, version)
    missing = initramfs.missing(contents, modules, needed)
    space = contents.size + sum(modules.size(name) for name in missing) + initramfs.INDEX_ALLOWANCE
    return GuestKernel(version, path, missing, space if missing else 0, stamp)


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
        addition = initramfs.addition(
            tree,
            kernel.initramfs,
            KernelModules(tree, kernel.version),
            needed=needed_modules(request.disk_bus, request.nic_model),
            force=DISK_MODULES[request.disk_bus],
            welcome=_WELCOME,
            mend=lambda path, text: grub.rewrite_resume(text, names, path).text,
        )
        if addition is not None:
            size, digest = _fingerprint(tree, kernel.initramfs)
            journal.extend(
                kernel.initramfs,
                addition.tail,
                f"drivers appended: {' '.join(addition.added)}",
                expect_size=size,
                expect_sha256=digest,
            )
        progress("initramfs", {"kernel": kernel.version, "added": len(addition.added) if addition else 0})


def persistence(tree: Tree, journal: Journal, request: AdaptRequest, progress: Progress) -> None:
    """The next kernel update builds a new initramfs, which has to hold the same drivers."""
    if not tree.is_directory("/etc/initramfs-tools"):
        return
    old = tree.read_optional(_MODULES_FILE)
    listed = {line.split()[0] for line in old.splitlines() if line.split()}
    lines = [name for name in needed_modules(request.disk_bus, request.nic_model) if name not in listed]
    if lines:
        glue = "" if not old or old.endswith("\n") else "\n"
        block = "# Drivers for the virtual hardware since the recovery by Refloat.\n"
        text = old + glue + block + "".join(f"{name}\n" for name in lines)
        expect = old if tree.is_file(_MODULES_FILE) else None
        journal.write_text(_MODULES_FILE, text, "drivers in every future initramfs", expect=expect)
    progress("persistence", {"modules": len(lines)})


def _fingerprint(tree: Tree, path: str) -> tuple[int, str]:
    with tree.open(path) as fd, open(f"/proc/self/fd/{fd}", "rb") as handle:
        return os.fstat(fd).st_size, hashlib.file_digest(handle, "sha256").hexdigest()
