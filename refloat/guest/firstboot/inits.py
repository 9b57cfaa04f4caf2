"""How the first boot is started, for each init system: rows of data, and which one a guest has."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from refloat.guest.tree import Tree

SERVICE = "refloat-firstboot"
_SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_UNITS = "/etc/systemd/system"
# A failed mount ends the boot in the emergency target: the report must come from there, too.
_WANTED_BY = {
    "refloat-configure.service": ("multi-user",),
    "refloat-report.service": ("multi-user", "emergency", "rescue"),
}
_RARE = ("emergency", "rescue")
_DEPEND = "/etc/init.d/.depend.boot"
_NETWORK_LINK = re.compile(r"S(\d\d)network(?:ing)?")
# Where the services of the boot are linked: Debian has a runlevel for it, Red Hat and SUSE the usual ones.
_BOOT_LINKS = ("/etc/rcS.d",)
_LEVEL_LINKS = tuple(
    f"{base}/rc{level}.d" for base in ("/etc/rc.d", "/etc/init.d", "/etc") for level in (2, 3, 4, 5)
)


@dataclass(frozen=True)
class Start:
    """What starts the first boot: `files` (path -> file of this package) with their mode, the links that
    enable them, and texts of the guest's own that are replaced (path -> old and new)."""

    files: Mapping[str, str]
    links: Mapping[str, str]
    mode: int = 0o644
    replaced: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def rare(self, link: str) -> bool:
        """Whether hardly any guest had the directory of this link before."""
        return link.startswith(tuple(f"{_UNITS}/{target}.target.wants/" for target in _RARE))


@dataclass(frozen=True)
class Init:
    name: str
    start: Callable[[Tree], Start]


def init_of(tree: Tree) -> str:
    """The name of the guest's init system, by what /sbin/init is; empty for one that is not known."""
    init = tree.real("/sbin/init") if tree.exists("/sbin/init") else ""
    program = posixpath.basename(init)
    if program == "systemd" or (not init and any(tree.exists(path) for path in _SYSTEMD)):
        return "systemd"
    if tree.is_directory("/etc/runlevels") and (tree.exists("/sbin/openrc") or program == "openrc-init"):
        return "openrc"
    # Upstart has jobs of its own for the network, and no inittab.
    if tree.is_file("/etc/inittab") and _service_links(tree):
        return "sysvinit"
    return ""


def start_of(tree: Tree, init: str) -> Start:
    """What starts the first boot in this guest, whose init system is known."""
    return next(row for row in INITS if row.name == init).start(tree)


def _systemd(tree: Tree) -> Start:
    links = {
        f"{_UNITS}/{target}.target.wants/{unit}": f"{_UNITS}/{unit}"
        for unit, targets in _WANTED_BY.items()
        for target in targets
    }
    return Start({f"{_UNITS}/{unit}": unit for unit in _WANTED_BY}, links)


def _openrc(tree: Tree) -> Start:
    path = f"/etc/init.d/{SERVICE}"
    return Start({path: f"{SERVICE}.openrc"}, {f"/etc/runlevels/boot/{SERVICE}": path}, 0o755)


def _sysvinit(tree: Tree) -> Start:
    path = f"/etc/init.d/{SERVICE}"
    links = {}
    for directory in _service_links(tree):
        # Numbers count, unless insserv's list says the order: one before the network's.
        found = [_NETWORK_LINK.fullmatch(name) for name in tree.listdir(directory)]
        number = min((int(match[1]) for match in found if match), default=40)
        links[f"{directory}/S{max(number - 1, 1):02}{SERVICE}"] = path
    replaced = {}
    if tree.is_file(_DEPEND):
        old = tree.read_text(_DEPEND)
        replaced[_DEPEND] = (old, with_service(old))
    return Start({path: f"{SERVICE}.sysvinit"}, links, 0o755, replaced)


def _service_links(tree: Tree) -> tuple[str, ...]:
    """The directories of links, each once under its real path."""
    for directories in (_BOOT_LINKS, _LEVEL_LINKS):
        found = [tree.real(path) for path in directories if tree.is_directory(path)]
        if found:
            return tuple(dict.fromkeys(found))
    return ()


def with_service(depend: str) -> str:
    """insserv's makefile of the boot with our service in it: what is not listed there is not started.

    The words are added so that the first boot can take them out again: " refloat-firstboot", and a line.
    """
    lines = depend.split("\n")
    targets: list[str] = []
    for index, line in enumerate(lines):
        if line.startswith("TARGETS ="):
            targets = line.partition("=")[2].split()
            lines[index] = f"{line} {SERVICE}"
        elif line.partition(":")[0] in ("networking", "network"):
            lines[index] = f"{line} {SERVICE}"
    needs = [name for name in ("mountall.sh", "mountall", "udev") if name in targets]
    rule = " ".join((f"{SERVICE}:", *needs))
    at = len(lines) - 1 if lines and not lines[-1] else len(lines)
    return "\n".join((*lines[:at], rule, *lines[at:]))


INITS = (Init("systemd", _systemd), Init("openrc", _openrc), Init("sysvinit", _sysvinit))
