"""Names of storage devices in a guest's files: from names that follow the bus to UUIDs.

/dev/sda1 is the first partition of the first disk on VMware; on virtio-blk there is no such device. The
functions here are pure: text in, text and edits out; whatever is not edited stays byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from refloat.guest.journal import Journal
from refloat.guest.linux.edits import Edit, Progress, Rewritten, rewrite
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import GuestFilesystem

FSTAB = "/etc/fstab"
CRYPTTAB = "/etc/crypttab"

# The kernel numbers disks of each naming scheme from a. A guest has one scheme for all its disks.
_KERNEL_NAME = re.compile(r"/dev/(?:sd|vd|xvd|hd)([a-z])(\d*)$")
# Follow the bus or the hypervisor's serial numbers: nothing on the disk itself tells what they mean.
_UNMAPPABLE = re.compile(r"/dev/disk/by-(?:path|id)/")
_QUIET_OPTIONS = frozenset({"noauto", "nofail"})


@dataclass(frozen=True)
class Entry:
    """One line of fstab(5)."""

    line: int
    spec: str
    mountpoint: str
    kind: str
    options: frozenset[str]


class DeviceNames:
    """What a guest's device names mean: `order` holds the disks' keys as the guest's kernel numbers them."""

    def __init__(
        self,
        order: Sequence[str],
        filesystems: Iterable[GuestFilesystem],
        partuuids: Mapping[str, GuestFilesystem] | None = None,
    ) -> None:
        self._order = tuple(order)
        self._filesystems = tuple(filesystems)
        self._partuuids = dict(partuuids or {})

    def find(self, name: str) -> GuestFilesystem | None:
        """The filesystem that a name as in fstab stands for, or None if it is not known."""
        key, separator, value = name.partition("=")
        if separator and key in ("UUID", "LABEL"):
            return self._by(key.lower(), value.strip('"'))
        if separator and key == "PARTUUID":
            return self._partuuids.get(value.strip('"').lower())
        for prefix, attribute in (("/dev/disk/by-uuid/", "uuid"), ("/dev/disk/by-label/", "label")):
            if name.startswith(prefix):
                return self._by(attribute, name.removeprefix(prefix))
        match = _KERNEL_NAME.match(name)
        return self._numbered(match) if match else None

    def stable(self, name: str) -> str | None:
        """The name to write instead of one that follows the bus; None where the old one can stay.

        Raises LookupError, with the reason, for a name that cannot be mapped.
        """
        if _UNMAPPABLE.match(name):
            raise LookupError(f"{name} depends on the virtual hardware and says nothing about the disk")
        if not _KERNEL_NAME.match(name):
            return None
        found = self.find(name)
        if found is None:
            raise LookupError(f"{name} is on none of the disks {', '.join(self._order)}")
        if not found.uuid:
            raise LookupError(f"{name} has no UUID ({found.kind or 'nothing known on it'})")
        if sum(one.uuid == found.uuid for one in self._filesystems) > 1:
            raise LookupError(f"{name} has the UUID {found.uuid}, which another filesystem has, too")
        return f"UUID={found.uuid}"

    def _by(self, attribute: str, value: str) -> GuestFilesystem | None:
        matches = [one for one in self._filesystems if value and getattr(one, attribute) == value]
        return matches[0] if len(matches) == 1 else None

    def _numbered(self, match: re.Match[str]) -> GuestFilesystem | None:
        index, partition = ord(match[1]) - ord("a"), int(match[2] or 0)
        if index >= len(self._order):
            return None
        wanted = (self._order[index], partition)
        return next((one for one in self._filesystems if (one.disk, one.partition) == wanted), None)


def parse_fstab(text: str) -> tuple[Entry, ...]:
    """The entries of an fstab, with octal escapes in the mount point decoded."""
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith("#"):
            continue
        kind, options = (*fields[2:4], "", "")[:2]
        decoded = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
        entries.append(Entry(number, fields[0], decoded, kind, frozenset(options.split(","))))
    return tuple(entries)


def with_mountpoints(
    filesystems: Iterable[GuestFilesystem], entries: Iterable[Entry], names: DeviceNames
) -> tuple[GuestFilesystem, ...]:
    """The filesystems with the mount points that fstab gives them ("" where it names none)."""
    where: dict[tuple[str, int], str] = {}
    for entry in entries:
        found = names.find(entry.spec)
        if found is not None and entry.mountpoint.startswith("/"):
            where.setdefault((found.disk, found.partition), entry.mountpoint)
    return tuple(replace(one, mountpoint=where.get((one.disk, one.partition), "")) for one in filesystems)


def rewrite_fstab(text: str, names: DeviceNames) -> Rewritten:
    """Every device name that follows the bus becomes a UUID; comments and spacing stay as they are."""
    lines, edits = text.split("\n"), []
    problems: list[str] = []
    warnings: list[str] = []
    for entry in parse_fstab(text):
        where = f"/etc/fstab:{entry.line}"
        try:
            new = names.stable(entry.spec)
        except LookupError as error:
            quiet = entry.options & _QUIET_OPTIONS
            (warnings if quiet else problems).append(f"{where}: {error}")
            continue
        if new is not None:
            lines[entry.line - 1] = _replace_first(lines[entry.line - 1], entry.spec, new)
            edits.append(Edit(entry.line, entry.spec, new))
    return Rewritten("\n".join(lines), tuple(edits), tuple(problems), tuple(warnings))


def _replace_first(line: str, old: str, new: str) -> str:
    """The first field replaced. Columns that were aligned with more than one blank stay aligned."""
    start = line.index(old)
    head, tail = line[:start], line[start + len(old) :]
    return f"{head}{new}{tail}"


def crypttab_problems(text: str) -> tuple[str, ...]:
    """Encrypted disks are not adapted yet: an entry whose name follows the bus is a reason to refuse."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if len(fields) > 1 and not fields[0].startswith("#") and _KERNEL_NAME.match(fields[1]):
            found.append(f"/etc/crypttab:{number}: {fields[1]} is encrypted and named by its bus")
    return tuple(found)


def look(tree: Tree, names: DeviceNames, notes: Notes) -> None:
    notes.take(FSTAB, rewrite_fstab(tree.read_text(FSTAB), names))
    notes.problems += crypttab_problems(tree.read_optional(CRYPTTAB))


def change(tree: Tree, journal: Journal, names: DeviceNames, progress: Progress) -> None:
    old = tree.read_text(FSTAB)
    done = rewrite_fstab(old, names)
    edits = rewrite(journal, FSTAB, old, done, "names that follow the disk bus become UUIDs")
    progress("storage", {"edits": edits})
