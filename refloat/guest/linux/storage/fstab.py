"""fstab(5): its entries, where they mount what, and names that follow the bus made into UUIDs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from refloat.guest.linux.edits import Edit, Rewritten
from refloat.guest.linux.storage.names import DeviceNames, bound, is_kernel_name
from refloat.model import GuestFilesystem, Mount

FSTAB = "/etc/fstab"

# Fields end at blanks and tabs alone: a no-break space is part of a name.
_FIELD = re.compile(r"[^ \t]+")
_OCTAL = re.compile(r"\\([0-3][0-7]{2})")
_QUIET_OPTIONS = frozenset({"noauto", "nofail"})
# Options whose value is another device of the filesystem: its log, or one of its parts.
_DEVICE_OPTIONS = frozenset({"device", "journal_path", "logdev", "rtdev"})


@dataclass(frozen=True)
class Entry:
    """One line of fstab(5)."""

    line: int
    spec: str
    mountpoint: str
    kind: str
    options: frozenset[str]

    def option(self, name: str) -> str:
        """The value of an option `name=value`, empty if it is not there."""
        found = (one.partition("=") for one in self.options)
        return next((value for key, _, value in found if key == name), "")

    @property
    def may_fail(self) -> bool:
        return bool(self.options & _QUIET_OPTIONS)

    @property
    def subvolume(self) -> str:
        """Of btrfs, as in Mount: its path, "subvolid=N", or nothing for the default one."""
        path, number = self.option("subvol"), self.option("subvolid")
        if path:
            return path.strip("/") or "/"
        return f"subvolid={number}" if number else ""


def parse_fstab(text: str) -> tuple[Entry, ...]:
    """The entries of an fstab, with octal escapes decoded."""
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = [_OCTAL.sub(lambda match: chr(int(match[1], 8)), one) for one in _fields(line)]
        if len(fields) < 2 or fields[0].startswith("#"):
            continue
        kind, options = (*fields[2:4], "", "")[:2]
        entries.append(Entry(number, fields[0], fields[1], kind, frozenset(options.split(","))))
    return tuple(entries)


def with_mountpoints(
    filesystems: Iterable[GuestFilesystem], entries: Iterable[Entry], names: DeviceNames
) -> tuple[GuestFilesystem, ...]:
    """The filesystems with the places where fstab mounts them, in its order."""
    mounts: dict[tuple[str, int, str], list[Mount]] = {}
    for entry in entries:
        found = names.find(entry.spec)
        if found is not None and entry.mountpoint.startswith("/"):
            point = entry.mountpoint.rstrip("/") or "/"
            where = mounts.setdefault((found.disk, found.partition, found.volume), [])
            if all(mount.point != point for mount in where):
                where.append(Mount(point, entry.subvolume if found.kind == "btrfs" else ""))
    return tuple(
        mounted_at(one, mounts.get((one.disk, one.partition, one.volume), ())) for one in filesystems
    )


def mounted_at(filesystem: GuestFilesystem, mounts: Iterable[Mount]) -> GuestFilesystem:
    every = tuple(mounts)
    return replace(filesystem, mounts=every, mountpoint=every[0].point if every else "")


def rewrite_fstab(text: str, names: DeviceNames) -> Rewritten:
    """Every device name that follows the bus becomes a UUID; comments and spacing stay as they are."""
    lines, edits = text.split("\n"), []
    problems: list[str] = []
    warnings: list[str] = []
    for entry in parse_fstab(text):
        where = f"{FSTAB}:{entry.line}"
        complaints = warnings if entry.may_fail else problems
        complaints += [f"{where}: {reason}" for reason in _options_of_the_bus(entry)]
        try:
            new = names.stable(entry.spec)
        except LookupError as error:
            complaints.append(f"{where}: {error}")
            continue
        if new is not None:
            lines[entry.line - 1] = _with_first_field(lines[entry.line - 1], new)
            edits.append(Edit(entry.line, entry.spec, new))
    return Rewritten("\n".join(lines), tuple(edits), tuple(problems), tuple(warnings))


def _fields(line: str) -> list[str]:
    return _FIELD.findall(line.rstrip("\r"))


def _with_first_field(line: str, new: str) -> str:
    match = _FIELD.search(line)
    return f"{line[: match.start()]}{new}{line[match.end() :]}" if match else line


def _options_of_the_bus(entry: Entry) -> list[str]:
    found = []
    for option in sorted(entry.options):
        key, _, value = option.partition("=")
        if key in _DEVICE_OPTIONS and (is_kernel_name(value) or bound(value)):
            found.append(f"the option {option} names a device by its bus, and no stable name can replace it")
    return found
