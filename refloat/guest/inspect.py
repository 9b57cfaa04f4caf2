"""What is in a guest: facts for the decision, read without changing anything.

Whoever calls this passes devices on which mounting does no harm: copy-on-write views (cow.py) or copies.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from refloat.errors import Refused
from refloat.guest.disk import ROOT_KINDS, Found, find_filesystems, mounted, mounted_system
from refloat.guest.families import (
    FAMILIES,
    Family,
    family_of,
    parse_os_release,
    unsupported,
)
from refloat.guest.linux import boot, guards, kernels, network, storage
from refloat.guest.linux.storage import FSTAB
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import (
    DiskBus,
    GuestFacts,
    GuestKernel,
    NicModel,
)

_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}


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
    storage.look(tree, names, bus, notes)
    firmware, loader = boot.look(tree, family, entries, names, notes)
    _check_init(tree, notes)
    guards.look(tree, notes)
    nics, stack = network.look(tree, family, notes)
    kernels_found = kernels.look(tree, family, bus, nic, names, known, notes) if family else ()
    return GuestFacts(
        family=family.name if family else "",
        os_id=release.get("ID", ""),
        os_name=release.get("PRETTY_NAME", release.get("NAME", "")),
        os_version=release.get("VERSION_ID", ""),
        architecture=architecture,
        hostname=tree.read_optional("/etc/hostname").strip(),
        firmware=firmware,
        bootloader=loader,
        initramfs_tool=family.initramfs_tool if family else "",
        network_stack=stack,
        root=root.filesystem,
        filesystems=filesystems,
        kernels=kernels_found,
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
        because = unsupported(release) or f"none of the supported systems: {supported}"
        notes.problems.append(f"{name} is {because}")
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
