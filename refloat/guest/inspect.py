"""What is in a guest: facts for the decision, read without changing anything.

Whoever calls this passes devices on which mounting does no harm: copy-on-write views (cow.py) or copies.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from refloat.errors import RefloatError, Refused
from refloat.guest.disk import ROOT_KINDS, Found, find_filesystems, mounted, mounted_system
from refloat.guest.families import (
    ALL_STACKS,
    FAMILIES,
    IFUPDOWN,
    Family,
    NetworkStack,
    family_of,
    needed_modules,
    parse_os_release,
)
from refloat.guest.linux import boot, initramfs, network, storage
from refloat.guest.linux.modules import KernelModules
from refloat.guest.tree import Tree
from refloat.model import (
    DiskBus,
    Firmware,
    GuestFacts,
    GuestKernel,
    NicConfig,
    NicModel,
)

FSTAB = "/etc/fstab"
CRYPTTAB = "/etc/crypttab"
RESUME = "/etc/initramfs-tools/conf.d/resume"
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}
# Left free on the boot filesystem after the adaptation, in bytes.
_SPACE_LEFT = 4 * 1024 * 1024


@dataclass
class Notes:
    """What inspection finds on its way. `problems` say why the guest cannot be adapted."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unstable: list[str] = field(default_factory=list)

    def take(self, path: str, done: storage.Rewritten) -> None:
        self.problems += done.problems
        self.warnings += done.warnings
        self.unstable += [f"{path}:{edit.line} {edit.old}" for edit in done.edits]


def inspect(devices: Mapping[str, str], order: Sequence[str], bus: DiskBus, nic: NicModel) -> GuestFacts:
    """The facts about the guest on these disks (key -> device node or raw image).

    `order` lists the keys as the guest's kernel numbers its disks; `bus` and `nic` are what it will find
    at the destination. Raises Refused where no root filesystem is found, or more than one.
    """
    found = find_filesystems(devices)
    # Not a TemporaryDirectory: nothing may ever walk into a mount that could not be removed.
    mountpoint = Path(tempfile.mkdtemp(prefix="refloat-inspect-"))
    try:
        root, fstab = _find_root(found, mountpoint)
        filesystems = place(found, root, fstab, order)
        with mounted_system(filesystems, mountpoint) as tree:
            return examine(tree, filesystems, order, bus, nic)
    finally:
        mountpoint.rmdir()


# ---------------------------------------------------------------- the root filesystem


def _find_root(found: Sequence[Found], mountpoint: Path) -> tuple[Found, str]:
    """The root filesystem and its fstab."""
    candidates = [one for one in found if one.filesystem.kind in ROOT_KINDS]
    roots = []
    for one in candidates:
        with mounted(one, mountpoint) as path, Tree(path) as tree:
            if _is_root(tree):
                roots.append((one, tree.read_text(FSTAB)))
    if len(roots) == 1:
        return roots[0]
    seen = "; ".join(one.describe() for one in found) or "no disk at all"
    if not roots:
        raise Refused(
            f"no Linux root filesystem was found on the guest's disks ({seen})",
            code="guest_root_missing",
            hint="ext4 without LVM or encryption can be adapted; skip the adaptation for other guests",
        )
    names = ", ".join(one.describe() for one, _ in roots)
    raise Refused(
        f"more than one filesystem looks like the guest's root: {names}",
        code="guest_root_ambiguous",
        hint="detach the disk that is not part of the running system",
    )


def _is_root(tree: Tree) -> bool:
    """By what is there. /lib/modules may lie on a filesystem of its own with /usr: then etc must do."""
    release = any(tree.is_file(path) for path in _OS_RELEASE) or tree.readlink(_OS_RELEASE[0]) is not None
    return release and tree.is_file(FSTAB)


def place(found: Sequence[Found], root: Found, fstab: str, order: Sequence[str]) -> tuple[Found, ...]:
    """The filesystems with their mount points; the root's is "/" whatever its fstab says."""
    entries = storage.parse_fstab(fstab)
    names = _names(found, order)
    placed = storage.with_mountpoints((one.filesystem for one in found), entries, names)
    result = []
    for one, filesystem in zip(found, placed, strict=True):
        if one is root:
            filesystem = replace(filesystem, mountpoint="/")
        elif filesystem.mountpoint == "/":
            filesystem = replace(filesystem, mountpoint="")
        result.append(replace(one, filesystem=filesystem))
    return tuple(result)


# ---------------------------------------------------------------- facts


def examine(
    tree: Tree,
    found: Sequence[Found],
    order: Sequence[str],
    bus: DiskBus,
    nic: NicModel,
    known: Sequence[GuestKernel] = (),
) -> GuestFacts:
    """The facts about a mounted guest; `found` are its filesystems with their mount points. `known` kernels
    are taken as they are if their initramfs is still the same."""
    notes = Notes()
    root = next(one for one in found if one.filesystem.mountpoint == "/")
    entries = storage.parse_fstab(tree.read_text(FSTAB))
    filesystems = tuple(one.filesystem for one in found)
    names = _names(found, order)
    release = parse_os_release(next((tree.read_text(path) for path in _OS_RELEASE if tree.is_file(path)), ""))
    family = _family(release, notes)
    architecture = _architecture(tree, notes)
    _check_root_entry(root, entries, names, notes)
    _unstable_names(tree, family, names, notes)
    _check_init(tree, notes)
    firmware = _firmware(tree, entries, notes)
    nics, stack = _network(tree, family, notes)
    look = partial(_kernel, tree, needed_modules(bus, nic), {kernel.stamp: kernel for kernel in known})
    kernels = _kernels(tree, family, look, notes) if family else ()
    return GuestFacts(
        family=family.name if family else "",
        os_id=release.get("ID", ""),
        os_name=release.get("PRETTY_NAME", release.get("NAME", "")),
        os_version=release.get("VERSION_ID", ""),
        architecture=architecture,
        hostname=tree.read_optional("/etc/hostname").strip(),
        firmware=firmware,
        bootloader="grub2" if family and tree.is_file(family.grub_cfg) else "",
        initramfs_tool=family.initramfs_tool if family else "",
        network_stack=stack,
        root=root.filesystem,
        filesystems=filesystems,
        kernels=kernels,
        nics=nics,
        unstable_names=tuple(notes.unstable),
        problems=tuple(notes.problems),
        warnings=tuple(notes.warnings),
    )


def _names(found: Sequence[Found], order: Sequence[str]) -> storage.DeviceNames:
    partuuids = {one.partuuid.lower(): one.filesystem for one in found if one.partuuid}
    return storage.DeviceNames(order, (one.filesystem for one in found), partuuids)


def _family(release: Mapping[str, str], notes: Notes) -> Family | None:
    family = family_of(release)
    if family is None:
        supported = ", ".join(sorted(identity for row in FAMILIES for identity in row.ids))
        name = release.get("ID", "an unnamed system")
        notes.problems.append(f"{name} is none of the supported systems: {supported}")
    return family


def _check_init(tree: Tree, notes: Notes) -> None:
    if not tree.exists("/lib/systemd/systemd") and not tree.exists("/usr/lib/systemd/systemd"):
        notes.problems.append("the guest has no systemd, which the first boot needs")


def _architecture(tree: Tree, notes: Notes) -> str:
    """From the ELF header of a program that every system has."""
    machine = ""
    for path in ("/bin/sh", "/usr/bin/env"):
        if tree.is_file(path):
            with tree.open(path) as fd:
                head = Path(f"/proc/self/fd/{fd}").open("rb").read(20)  # noqa: SIM115
            if head[:4] == b"\x7fELF" and len(head) == 20:
                number = struct.unpack("<H", head[18:20])[0]
                machine = _ELF_MACHINES.get(number, f"ELF machine {number}")
                break
    if machine != "x86_64":
        notes.problems.append(f"the guest's architecture is {machine or 'unknown'}, not x86_64")
    return machine


def _check_root_entry(
    root: Found, entries: Sequence[storage.Entry], names: storage.DeviceNames, notes: Notes
) -> None:
    """The fstab must mean the filesystem on which it was found: otherwise the disks' order is not what
    it was at the source, and every other name would be mapped to the wrong disk."""
    entry = next((one for one in entries if one.mountpoint == "/"), None)
    if entry is None:
        notes.problems.append(f"{FSTAB} has no entry for /")
        return
    meant = names.find(entry.spec)
    here = root.filesystem
    if meant is None or (meant.disk, meant.partition) != (here.disk, here.partition):
        notes.problems.append(
            f"{FSTAB}:{entry.line} says that / is {entry.spec}, but it was found on {root.describe()}"
        )


def _unstable_names(tree: Tree, family: Family | None, names: storage.DeviceNames, notes: Notes) -> None:
    notes.take(FSTAB, storage.rewrite_fstab(tree.read_text(FSTAB), names))
    notes.problems += storage.crypttab_problems(tree.read_optional(CRYPTTAB))
    if family is None:
        return
    if not tree.is_file(family.grub_cfg):
        notes.problems.append(f"there is no {family.grub_cfg}: only GRUB 2 can be adapted")
        return
    grub = tree.read_text(family.grub_cfg)
    notes.take(family.grub_cfg, boot.rewrite_grub_cfg(grub, names, family.grub_cfg))
    if not boot.linux_lines(grub):
        notes.problems.append(f"{family.grub_cfg} starts no kernel")
    notes.take(boot.GRUB_DEFAULTS, boot.rewrite_grub_defaults(tree.read_optional(boot.GRUB_DEFAULTS), names))
    notes.take(RESUME, boot.rewrite_resume(tree.read_optional(RESUME), names, RESUME))


def _firmware(tree: Tree, entries: Sequence[storage.Entry], notes: Notes) -> Firmware:
    """By the boot loader that is installed. A guest with both is taken for the one that it mounts."""
    if any(entry.mountpoint == "/boot/efi" for entry in entries):
        notes.problems.append("the guest boots by UEFI, which this version cannot adapt")
        return Firmware.UEFI
    if not tree.is_directory("/boot/grub/i386-pc"):
        notes.warnings.append("/boot/grub/i386-pc is missing: GRUB may not be installed for BIOS")
    return Firmware.BIOS


def _network(tree: Tree, family: Family | None, notes: Notes) -> tuple[tuple[NicConfig, ...], str]:
    in_use = [stack for stack in ALL_STACKS if _is_used(tree, stack)]
    files = network.ifupdown_files(tree)
    resolver = tree.read_optional("/etc/resolv.conf")
    nics = network.ifupdown_nics(files, resolver)
    if nics:
        in_use.insert(0, IFUPDOWN)
    for stack in in_use:
        if family and stack not in family.stacks:
            notes.problems.append(f"the network is configured by {stack.name}, which cannot be restored yet")
    if not in_use:
        notes.warnings.append("no network configuration was found")
    notes.warnings += [f"{where} sets a MAC itself" for where in network.pinned_addresses(files)]
    return nics, in_use[0].name if in_use else ""


def _is_used(tree: Tree, stack: NetworkStack) -> bool:
    """Whether a stack other than ifupdown has a file that configures something."""
    if stack is IFUPDOWN:
        return False
    return any(
        name.endswith((".yaml", ".yml", ".nmconnection", ".network"))
        for path in stack.evidence
        for name in tree.listdir(path)
    )


# ---------------------------------------------------------------- kernels


def _kernels(
    tree: Tree, family: Family, look: Callable[[str, str, Notes], GuestKernel], notes: Notes
) -> tuple[GuestKernel, ...]:
    """Every installed kernel: which one boots next is the boot loader's choice."""
    head, _, tail = family.kernel.partition("{}")
    versions = [
        name.removeprefix(head).removesuffix(tail)
        for name in tree.listdir("/boot")
        if name.startswith(head) and name.endswith(tail)
    ]
    kernels = []
    for version in versions:
        path = f"/boot/{family.initramfs.format(version)}"
        if not tree.is_file(path):
            notes.warnings.append(f"kernel {version} has no initramfs {path}")
            continue
        try:
            kernels.append(look(version, path, notes))
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


def _kernel(
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
