"""The tools that make initramfs: how each is told, in an archive and in the guest's own configuration,
which drivers it needs. Rows of data and pure functions from text to text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from refloat.guest.linux.contents import Contents

COMMENT = "# Drivers for the virtual hardware since the recovery by Refloat.\n"

# ---------------------------------------------------------------- in an archive


def _listed(text: str, modules: Sequence[str]) -> str:
    """One module a line, those before staying where they are."""
    listed = {line.split()[0].replace("-", "_") for line in text.splitlines() if line.split()}
    return _glued(text) + "".join(f"{name}\n" for name in modules if name not in listed)


def _sourced(text: str, modules: Sequence[str]) -> str:
    """A shell's assignment: the file is read by the initramfs' own init."""
    return f'{_glued(text)}MODULES="$MODULES {" ".join(modules)}"\n'


def _glued(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


@dataclass(frozen=True)
class ForceList:
    """A file from which an initramfs loads modules unasked, in archives that have `needs`: a program, or
    the file itself."""

    path: str
    needs: str
    extend: Callable[[str, Sequence[str]], str]
    because: str


FORCE_LISTS = (
    ForceList("conf/modules", "conf/modules", _listed, "initramfs-tools: load_modules"),
    ForceList("config", "init_functions", _sourced, "mkinitcpio's init: modprobe -qab $MODULES"),
    ForceList("etc/modules", "nlplug-findfs", _listed, "Alpine's init: modprobe for each line"),
    ForceList(
        "etc/modules-load.d/refloat.conf",
        "systemd-modules-load",
        _listed,
        "dracut and mkinitcpio with systemd; without it udev alone loads what the devices ask for",
    ),
)


def is_force_list(path: str) -> bool:
    return any(row.path == path for row in FORCE_LISTS)


def forced(contents: Contents, modules: Sequence[str]) -> dict[str, str]:
    """The files, by their path in the archive, with which it loads `modules` unasked."""
    present = contents.programs | set(contents.configs)
    return {
        row.path: row.extend(contents.configs.get(row.path, ""), modules)
        for row in FORCE_LISTS
        if modules and row.needs in present
    }


# ---------------------------------------------------------------- in the guest's configuration


@dataclass(frozen=True)
class Drivers:
    """What has to be in every future initramfs: names, and the files of a kernel's modules (relative to
    its module directory, any compression)."""

    names: tuple[str, ...]
    files: tuple[str, ...]


def initramfs_tools_modules(text: str, drivers: Drivers) -> str:
    """/etc/initramfs-tools/modules: one a line."""
    listed = {line.split()[0] for line in text.splitlines() if line.split()}
    lines = [f"{name}\n" for name in drivers.names if name not in listed]
    return f"{_glued(text)}{COMMENT}{''.join(lines)}" if lines else text


def dracut_conf(text: str, drivers: Drivers) -> str:
    """A file of our own in /etc/dracut.conf.d; the blanks within the quotes are part of the syntax.

    Hostonly images get these drivers, too: dracut itself would take those of the new hardware from then
    on, but not where an image is made for an old kernel or in a chroot.
    """
    return f'{COMMENT}add_drivers+=" {" ".join(drivers.names)} "\n'


_ARRAY = re.compile(r"^([ \t]*MODULES=\()([^()]*)(\))", re.MULTILINE)
_STRING = re.compile(r"^([ \t]*MODULES=[\"'])([^\"']*)([\"'])", re.MULTILINE)


def mkinitcpio_conf(text: str, drivers: Drivers) -> str:
    """MODULES=(...) of /etc/mkinitcpio.conf (a string in old ones): the last assignment counts."""
    matches = [*_ARRAY.finditer(text), *_STRING.finditer(text)]
    if not matches:
        return f"{_glued(text)}{COMMENT}MODULES+=({' '.join(drivers.names)})\n"
    last = max(matches, key=lambda match: match.start())
    listed = last[2].replace("-", "_").split()
    new = [name for name in drivers.names if name not in listed]
    if not new:
        return text
    inner = f"{last[2]}{' ' if last[2].strip() else ''}{' '.join(new)}"
    return f"{text[: last.start(2)]}{inner}{text[last.end(2) :]}"


def mkinitcpio_drop_in(text: str, drivers: Drivers) -> str:
    return f"{COMMENT}MODULES+=({' '.join(drivers.names)})\n"


_FEATURES = re.compile(r"^([ \t]*features=([\"']))(.*?)(\2[ \t]*)$", re.MULTILINE)


def mkinitfs_conf(text: str, drivers: Drivers) -> str:
    """features="..." of /etc/mkinitfs/mkinitfs.conf: the feature `refloat` is a file of our own."""
    matches = list(_FEATURES.finditer(text))
    if not matches:
        return f'{_glued(text)}{COMMENT}features="$features refloat"\n'
    last = matches[-1]
    if "refloat" in last[3].split():
        return text
    return f"{text[: last.end(3)]}{' ' if last[3] else ''}refloat{text[last.end(3) :]}"


def mkinitfs_feature(text: str, drivers: Drivers) -> str:
    """Patterns of module files; what they depend on is taken along."""
    return "".join(f"{path}*\n" for path in drivers.files)


@dataclass(frozen=True)
class Keeping:
    """A file that keeps the drivers; `new` ones are of our own making and replaced as a whole."""

    path: str
    text: Callable[[str, Drivers], str]
    new: bool = False


@dataclass(frozen=True)
class InitramfsTool:
    """`configured` are paths of which one exists where the tool is installed, `rebuild` its command for
    one kernel as an administrator would give it."""

    name: str
    configured: tuple[str, ...]
    keeping: tuple[Keeping, ...]
    rebuild: str


MKINITCPIO = InitramfsTool(
    "mkinitcpio",
    ("/etc/mkinitcpio.conf",),
    (Keeping("/etc/mkinitcpio.conf", mkinitcpio_conf),),
    "mkinitcpio -P",
)
# Since version 38; a preset that names its configuration file switches the directory off.
MKINITCPIO_DROP_IN = Keeping("/etc/mkinitcpio.conf.d/refloat.conf", mkinitcpio_drop_in, new=True)
PRESET_CONFIG = re.compile(r"^[ \t]*\w+_config=", re.MULTILINE)

TOOLS: Mapping[str, InitramfsTool] = {
    tool.name: tool
    for tool in (
        InitramfsTool(
            "initramfs-tools",
            ("/etc/initramfs-tools",),
            (Keeping("/etc/initramfs-tools/modules", initramfs_tools_modules),),
            "update-initramfs -u -k {version}",
        ),
        InitramfsTool(
            "dracut",
            ("/etc/dracut.conf.d", "/etc/dracut.conf"),
            (Keeping("/etc/dracut.conf.d/refloat.conf", dracut_conf, new=True),),
            "dracut --force --kver {version}",
        ),
        MKINITCPIO,
        InitramfsTool(
            "mkinitfs",
            ("/etc/mkinitfs/mkinitfs.conf",),
            (
                Keeping("/etc/mkinitfs/features.d/refloat.modules", mkinitfs_feature, new=True),
                Keeping("/etc/mkinitfs/mkinitfs.conf", mkinitfs_conf),
            ),
            "mkinitfs {version}",
        ),
    )
}


def tool_in_use(present: Callable[[str], bool], usual: str) -> str:
    """The name of the tool that is configured in a guest; `usual` where that is among several, or none is.
    A Debian can have dracut instead of its own."""
    found = [name for name, tool in TOOLS.items() if any(present(path) for path in tool.configured)]
    return found[0] if len(found) == 1 else usual
