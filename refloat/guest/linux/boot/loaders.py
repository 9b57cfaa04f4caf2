"""The boot loaders and their files: rows of data. A guest may hold several, and all are kept right."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from refloat.guest.linux.boot import arguments, formats, grub
from refloat.guest.linux.boot.arguments import CommandLine, Wanted
from refloat.guest.linux.edits import Rewritten
from refloat.guest.tree import GuestFileError, Tree

# More of one kind than any system has: whoever planted them shall not cost memory.
_FILES_LIMIT = 500

Rewriter = Callable[[str, str, Wanted], Rewritten]


def _by_lines(lines: Callable[[str], tuple[CommandLine, ...]]) -> Rewriter:
    return lambda text, path, wanted: arguments.rewrite(text, path, lines(text), wanted)


def _nothing(text: str) -> int:
    return 0


@dataclass(frozen=True)
class Format:
    """How a file holds kernel arguments. `starts` counts the kernels that it starts by itself.

    `defaults`: the console is added to one such file only, and not if any other has it.
    """

    rewrite: Rewriter
    starts: Callable[[str], int] = _nothing
    defaults: bool = False
    consoles: Callable[[str], bool] = lambda text: False


def _defaults_have_console(text: str) -> bool:
    return arguments.has_console(text, grub.default_lines(text))


GRUB = Format(_by_lines(grub.command_lines), grub.starts)
CUSTOM = Format(GRUB.rewrite)  # a shell script around a piece of grub.cfg
ENVIRONMENT = Format(grub.rewrite_environment)
ENTRY = Format(_by_lines(formats.entry_lines), formats.entry_starts)
LEGACY = Format(_by_lines(formats.legacy_lines), formats.legacy_starts)
SYSLINUX = Format(_by_lines(formats.syslinux_lines), formats.syslinux_starts)
PLAIN = Format(_by_lines(formats.plain_lines))
GRUB_DEFAULTS = Format(grub.rewrite_defaults, defaults=True, consoles=_defaults_have_console)
UPDATE_EXTLINUX = Format(formats.rewrite_update_extlinux)
RESUME = Format(lambda text, path, wanted: grub.rewrite_resume(text, wanted.names, path))
BOOTLOADER = Format(
    _by_lines(lambda text: tuple(one.value for one in grub.assignments(text, r"(?:XEN_KERNEL|\w+)_APPEND")))
)


@dataclass(frozen=True)
class Place:
    """Files that hold kernel arguments. `@esp` stands for the mount point of the EFI system partition.

    Those of a `loader` count only where it is installed.
    """

    pattern: str
    format: Format
    because: str
    loader: str = ""


_NOW = "each kernel is told its root filesystem by UUID"
_LATER = "the next update of the boot loader keeps to UUIDs"

PLACES = (
    Place("/boot/grub/grub.cfg", GRUB, _NOW),
    Place("/boot/grub2/grub.cfg", GRUB, _NOW),
    Place("/boot/grub/custom.cfg", GRUB, _NOW),
    Place("/boot/grub2/custom.cfg", GRUB, _NOW),
    Place("@esp/EFI/*/grub.cfg", GRUB, _NOW),
    Place("/boot/grub/grubenv", ENVIRONMENT, _NOW),
    Place("/boot/grub2/grubenv", ENVIRONMENT, _NOW),
    Place("@esp/EFI/*/grubenv", ENVIRONMENT, _NOW),
    Place("/boot/loader/entries/*.conf", ENTRY, _NOW),
    Place("@esp/loader/entries/*.conf", ENTRY, _NOW),
    Place("/boot/grub/menu.lst", LEGACY, _NOW, "grub-legacy"),
    Place("/boot/grub/grub.conf", LEGACY, _NOW, "grub-legacy"),
    Place("@esp/EFI/*/grub.conf", LEGACY, _NOW, "grub-legacy"),
    Place("/boot/extlinux.conf", SYSLINUX, _NOW),
    Place("/extlinux.conf", SYSLINUX, _NOW),
    Place("/boot/extlinux/*.conf", SYSLINUX, _NOW),
    Place("/boot/extlinux/*.cfg", SYSLINUX, _NOW),
    Place("/boot/syslinux/*.cfg", SYSLINUX, _NOW),
    Place("@esp/EFI/syslinux/*.cfg", SYSLINUX, _NOW),
    Place("/etc/default/grub", GRUB_DEFAULTS, _LATER),
    Place("/etc/default/grub.d/*.cfg", GRUB_DEFAULTS, _LATER),
    Place("/etc/grub.d/*custom*", CUSTOM, _LATER),
    Place("/etc/sysconfig/bootloader", BOOTLOADER, _LATER),
    Place("/etc/kernel/cmdline", PLAIN, _LATER),
    Place("/etc/cmdline.d/*.conf", PLAIN, _LATER),
    Place("/etc/update-extlinux.conf", UPDATE_EXTLINUX, _LATER),
    Place("/etc/initramfs-tools/conf.d/resume", RESUME, "the swap device is named by UUID"),
)
DEVICE_MAPS = ("/boot/grub/device.map", "/boot/grub2/device.map")


@dataclass(frozen=True)
class Loader:
    """A boot loader, told by any of these files; by those in `alone` only if there is no other."""

    name: str
    evidence: tuple[str, ...]
    alone: tuple[str, ...] = ()


LOADERS = (
    Loader("grub2", ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "@esp/EFI/*/grub.cfg")),
    Loader("systemd-boot", ("@esp/EFI/systemd/systemd-boot*.efi", "@esp/loader/loader.conf")),
    Loader(
        "extlinux",
        (
            "/boot/extlinux.conf",
            "/extlinux.conf",
            "/boot/extlinux/extlinux.conf",
            "/boot/syslinux/syslinux.cfg",
            "@esp/EFI/syslinux/syslinux.cfg",
        ),
    ),
    # A menu.lst often outlives the move to GRUB 2, with names of long ago.
    Loader(
        "grub-legacy",
        ("/boot/grub/stage2", "@esp/EFI/*/grub.conf"),
        alone=("/boot/grub/grub.conf", "/boot/grub/menu.lst"),
    ),
)


@dataclass(frozen=True)
class BootFile:
    path: str
    place: Place


def installed(tree: Tree, esp: Sequence[str]) -> tuple[str, ...]:
    """The names of the boot loaders."""
    found = [row.name for row in LOADERS if _any(tree, row.evidence, esp)]
    return tuple(found or (row.name for row in LOADERS if _any(tree, row.alone, esp)))


def files(tree: Tree, esp: Sequence[str], loaders: Sequence[str]) -> tuple[BootFile, ...]:
    """Every file with kernel arguments, each once though symlinks may lead to it. `esp` are mount points."""
    found: dict[str, BootFile] = {}
    for place in PLACES:
        if not place.loader or place.loader in loaders:
            for path in find(tree, place.pattern, esp):
                found.setdefault(tree.real(path), BootFile(path, place))
    return tuple(found.values())


def find(tree: Tree, pattern: str, esp: Sequence[str]) -> Iterator[str]:
    """The regular files that match. What is below an ESP is compared without regard to case, and named
    as it is written there: vfat opens it by any spelling. Raises GuestFileError for far too many."""
    bases = [(mount, pattern.removeprefix("@esp")) for mount in esp] if "@esp" in pattern else [("", pattern)]
    count = 0
    for base, rest in bases:
        for path in _walk(tree, base, rest.strip("/").split("/"), folded=bool(base)):
            count += 1
            if count > _FILES_LIMIT:
                raise GuestFileError(f"the guest has more than {_FILES_LIMIT} files {pattern}")
            yield path


def _walk(tree: Tree, base: str, parts: Sequence[str], *, folded: bool) -> Iterator[str]:
    if not parts:
        if tree.is_file(base):
            yield base
        return
    if folded or "*" in parts[0]:
        wanted = parts[0].casefold() if folded else parts[0]
        names = tree.listdir(base or "/")
        matches = [n for n in names if fnmatch.fnmatchcase(n.casefold() if folded else n, wanted)]
    else:
        matches = [parts[0]]
    for name in matches:
        yield from _walk(tree, f"{base}/{name}", parts[1:], folded=folded)


def _any(tree: Tree, patterns: Sequence[str], esp: Sequence[str]) -> bool:
    return any(True for pattern in patterns for _ in find(tree, pattern, esp))
