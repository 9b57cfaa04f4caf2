"""What is in a guest: facts for the decision, read without changing anything.

Whoever calls this passes devices on which mounting does no harm: copy-on-write views (cow.py) or copies.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from refloat.guest.disk import Found
from refloat.guest.families import (
    FAMILIES,
    Family,
    family_of,
    parse_os_release,
    unsupported,
)
from refloat.guest.firstboot.inits import init_of
from refloat.guest.firstboot.senders import senders_of
from refloat.guest.host import KERNEL, Host
from refloat.guest.linux import boot, cpu, guards, kernels, network, storage, udev_names
from refloat.guest.linux.storage import FSTAB
from refloat.guest.linux.tools import tool_in_use
from refloat.guest.notes import Notes
from refloat.guest.root import OS_RELEASE, check_entries, device_names, find_root
from refloat.guest.root import place as place
from refloat.guest.tree import Tree
from refloat.guest.unnamed_esp import with_esp
from refloat.guest.windows import system as windows
from refloat.guest.windows.volumes import WindowsRoot, with_mounts
from refloat.model import (
    DiskBus,
    Firmware,
    GuestFacts,
    GuestKernel,
    NicModel,
)

_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}


def inspect(
    devices: Mapping[str, str],
    order: Sequence[str],
    bus: DiskBus,
    nic: NicModel,
    keys: Mapping[str, str] | None = None,
    host: Host = KERNEL,
) -> GuestFacts:
    """The facts about the guest on these disks (key -> device node or raw image).

    `order` lists the keys as the guest's kernel numbers its disks; `bus` and `nic` are what it will find
    at the destination; `keys` are passphrases by the UUID of the LUKS container. Raises Refused where no
    root filesystem is found, or more than one.
    """
    # Not a TemporaryDirectory: nothing may ever walk into a mount that could not be removed.
    mountpoint = Path(tempfile.mkdtemp(prefix="refloat-inspect-"))
    try:
        with host.opened(devices, keys) as volumes:
            root = find_root(volumes, order, mountpoint, host)
            if isinstance(root, WindowsRoot):
                filesystems = with_mounts(root, volumes.found, mountpoint, host)
                facts = windows.look(filesystems, order, mountpoint, (bus, nic), host)
                esp_left = ""
            else:
                filesystems = place(volumes.found, root.found, root.texts, order, root.subvolume)
                filesystems, esp_left = with_esp(filesystems, root.texts.fstab, mountpoint, host)
                with host.mounted_system(filesystems, mountpoint) as tree:
                    facts = examine(tree, filesystems, order, bus, nic)
        said = (*facts.warnings, *volumes.closed, *root.skipped)
        left = (esp_left,) if esp_left else ()
        if facts.firmware is Firmware.UEFI:  # without it the guest does not boot
            return replace(facts, warnings=said, problems=(*facts.problems, *left))
        return replace(facts, warnings=(*said, *left))
    finally:
        mountpoint.rmdir()


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
    names = device_names(found, order)
    release = parse_os_release(next((tree.read_text(path) for path in OS_RELEASE if tree.is_file(path)), ""))
    family = _family(release, notes)
    architecture = _architecture(tree, notes)
    check_entries(root, entries, names, notes)
    storage.look(tree, names, bus, notes)
    booting = boot.look(tree, family, architecture, filesystems, names, notes)
    _check_init(tree, family, notes)
    guards.look(tree, notes)
    nics, stack = network.look(tree, family, notes)
    nics = udev_names.tied(tree, nics)
    kernels_found = kernels.look(tree, family, bus, nic, names, known, notes) if family else ()
    return GuestFacts(
        family=family.name if family else "",
        os_id=release.get("ID", ""),
        os_name=release.get("PRETTY_NAME", release.get("NAME", "")),
        os_version=release.get("VERSION_ID", ""),
        architecture=architecture,
        hostname=tree.read_optional("/etc/hostname").strip(),
        firmware=booting.firmware,
        bootloader=booting.loader,
        initramfs_tool=tool_in_use(tree.exists, family.initramfs_tool) if family else "",
        network_stack=stack,
        root=root.filesystem,
        filesystems=filesystems,
        kernels=kernels_found,
        nics=nics,
        unstable_names=tuple(notes.unstable),
        problems=tuple(notes.problems),
        warnings=tuple(notes.warnings),
        firmwares=booting.firmwares,
        cpu_level=cpu.needed_level(release, (one.version for one in kernels_found)),
        senders=senders_of(tree),
    )


def _family(release: Mapping[str, str], notes: Notes) -> Family | None:
    family = family_of(release)
    if family is None:
        supported = ", ".join(sorted(identity for row in FAMILIES for identity in row.ids))
        name = release.get("ID", "an unnamed system")
        because = unsupported(release) or f"none of the supported systems: {supported}"
        notes.problems.append(f"{name} is {because}")
    return family


def _check_init(tree: Tree, family: Family | None, notes: Notes) -> None:
    init = init_of(tree)
    if not init:
        notes.problems.append("the guest's init system is not known: the first boot needs one that is")
    elif family and init not in family.inits:
        known = ", ".join(family.inits)
        notes.problems.append(f"the guest's init system is {init}; known of {family.name}: {known}")


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
