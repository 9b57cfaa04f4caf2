"""How a guest boots: its boot loaders, its firmware, and what the kernels' command lines name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from refloat.guest.families import Family
from refloat.guest.journal import Journal
from refloat.guest.linux.boot import arguments, esp, formats, grub, loaders, uki
from refloat.guest.linux.boot.arguments import Wanted
from refloat.guest.linux.boot.loaders import BootFile
from refloat.guest.linux.edits import Progress, rewrite
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import AdaptRequest, DiskBus, Firmware, GuestFacts, GuestFilesystem

# What shows that a guest is installed for BIOS: the loader's part that the boot sector leads to.
_BIOS_EVIDENCE = (
    "/boot/grub/i386-pc/*.mod",
    "/boot/grub2/i386-pc/*.mod",
    "/boot/grub/i386-pc/core.img",
    "/boot/grub2/i386-pc/core.img",
    "/boot/grub/stage2",
    "/boot/ldlinux.sys",
    "/boot/extlinux/ldlinux.sys",
    "/boot/syslinux/ldlinux.sys",
    "/ldlinux.sys",
)


@dataclass(frozen=True)
class Booting:
    """`firmware` is what it is most likely started by, `firmwares` all that it is installed for."""

    firmware: Firmware
    firmwares: tuple[Firmware, ...]
    loader: str  # names, joined by a comma; "" for none known


# ---------------------------------------------------------------- looking


def look(
    tree: Tree,
    family: Family | None,
    architecture: str,
    filesystems: Sequence[GuestFilesystem],
    names: DeviceNames,
    notes: Notes,
) -> Booting:
    """How the guest boots; names that follow the bus and reasons against adapting it go to `notes`."""
    mounts = esp.mounted_at(filesystems)
    installed = loaders.installed(tree, mounts)
    kernels = 0
    for one in loaders.files(tree, mounts, installed):
        text = tree.read_text(one.path)
        notes.take(one.path, one.place.format.rewrite(text, one.path, Wanted(names)))
        kernels += one.place.format.starts(text)
    kernels += _unified_kernels(tree, mounts, names, notes)
    if not installed and not kernels:
        notes.problems.append("no boot loader was found that is known: GRUB, systemd-boot or extlinux")
    elif not kernels:
        notes.problems.append(f"no file of {' or '.join(installed)} starts a kernel")
    firmwares = _firmwares(tree, mounts, filesystems, notes)
    if Firmware.UEFI in firmwares:
        _look_at_fallback(tree, family, architecture, mounts, firmwares, notes)
    return Booting(firmwares[0], firmwares, ", ".join(installed))


def _unified_kernels(tree: Tree, mounts: Sequence[str], names: DeviceNames, notes: Notes) -> int:
    kernels = 0
    for path in esp.programs(tree, mounts):
        text = uki.embedded_arguments(tree, path)
        if text is not None:
            kernels += 1
            notes.problems += uki.problems(text, path, names)
    return kernels


def _firmwares(
    tree: Tree, mounts: Sequence[str], filesystems: Sequence[GuestFilesystem], notes: Notes
) -> tuple[Firmware, ...]:
    """By the loaders that are installed. Many images are for both; what is mounted is what is in use."""
    found = []
    if esp.programs(tree, mounts):
        found.append(Firmware.UEFI)
    if any(True for pattern in _BIOS_EVIDENCE for _ in loaders.find(tree, pattern, ())):
        found.append(Firmware.BIOS)
    if found:
        return tuple(found)
    if any(mount != "/boot" for mount in mounts):
        notes.problems.append(f"the EFI system partition at {mounts[0]} holds no EFI program")
        return (Firmware.UEFI,)
    if any(one.esp for one in filesystems):
        notes.problems.append(
            "the guest has no loader for BIOS, and no EFI system partition that is certainly its own:"
            " name it in /etc/fstab, at /boot/efi"
        )
        return (Firmware.UEFI,)
    notes.warnings.append("nothing shows which firmware the boot loader is installed for: BIOS is assumed")
    return (Firmware.BIOS,)


def _look_at_fallback(
    tree: Tree,
    family: Family | None,
    architecture: str,
    mounts: Sequence[str],
    firmwares: Sequence[Firmware],
    notes: Notes,
) -> None:
    plans = {mount: esp.fallback(tree, mount, _vendors(family), architecture) for mount in mounts}
    said = [plan.problem for plan in plans.values() if plan.problem]
    if len(said) == len(plans):
        # A guest that also boots by BIOS may do without.
        (notes.warnings if Firmware.BIOS in firmwares else notes.problems).extend(said)
    for mount, plan in plans.items():
        esp.check_space(tree, mount, plan, notes)


def _vendors(family: Family | None) -> tuple[str, ...]:
    return family.efi if family else ()


# ---------------------------------------------------------------- changing


def change(
    tree: Tree,
    journal: Journal,
    family: Family,
    request: AdaptRequest,
    facts: GuestFacts,
    names: DeviceNames,
    progress: Progress,
) -> None:
    """Rewrites the files of every boot loader, and those that the next ones are generated from."""
    mounts = esp.mounted_at(facts.filesystems)
    found = loaders.files(tree, mounts, loaders.installed(tree, mounts))
    wanted = Wanted(names, request.serial_console)
    edits = 0
    for one in found:
        old = tree.read_text(one.path)
        done = one.place.format.rewrite(old, one.path, _for_file(tree, one, found, wanted))
        added = any(arguments.SERIAL in edit.new for edit in done.edits)
        because = f"{one.place.because}; a serial console is added" if added else one.place.because
        edits += rewrite(journal, one.path, old, done, because)
    edits += _device_maps(tree, journal, request.disk_bus)
    copies = 0
    for mount in mounts if Firmware.UEFI in (facts.firmwares or (facts.firmware,)) else ():
        copies += esp.copy(tree, journal, esp.fallback(tree, mount, _vendors(family), facts.architecture))
    progress("boot", {"edits": edits, "loaders": copies})


def _for_file(tree: Tree, one: BootFile, found: Sequence[BootFile], wanted: Wanted) -> Wanted:
    """The console goes into one file of defaults, and only if none of them has it."""
    if not wanted.console or not one.place.format.defaults:
        return wanted
    others = [other for other in found if other.place.format.defaults]
    has = any(other.place.format.consoles(tree.read_text(other.path)) for other in others)
    return replace(wanted, console=one.path == grub.GRUB_DEFAULTS and not has)


def _device_maps(tree: Tree, journal: Journal, bus: DiskBus) -> int:
    edits = 0
    for path in loaders.DEVICE_MAPS:
        old = tree.read_optional(path)
        done = formats.rewrite_device_map(old, path, bus)
        edits += rewrite(journal, path, old, done, "grub-install finds the disk under its new name")
    return edits
