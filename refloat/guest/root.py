"""Which of a guest's filesystems is its root, and what its own files call the others. Never by guess."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refloat.errors import Refused
from refloat.guest.disk import (
    ROOT_KINDS,
    SYSTEM_MOUNTS,
    CannotMount,
    Found,
    mounts_of,
)
from refloat.guest.host import KERNEL, Host
from refloat.guest.linux.storage import (
    CRYPTTAB,
    FSTAB,
    DeviceNames,
    Entry,
    mounted_at,
    parse_fstab,
    with_mountpoints,
)
from refloat.guest.linux.storage.crypttab import parse_crypttab
from refloat.guest.linux.storage.names import bound, is_kernel_name
from refloat.guest.linux.storage.raid import MDADM_CONFS, digits, parse_mdadm_conf
from refloat.guest.notes import Notes
from refloat.guest.stack import Volumes, renamed
from refloat.guest.tree import Tree
from refloat.guest.windows.volumes import WindowsRoot, check_unlocked, windows_roots
from refloat.model import Mount

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")

_NUMBERED_ARRAY = re.compile(r"/dev/md/?(\d+)")


@dataclass(frozen=True)
class Texts:
    """The guest's own files that name its storage."""

    fstab: str
    crypttab: str = ""
    mdadm_conf: str = ""


@dataclass(frozen=True)
class Root:
    """A root filesystem; `subvolume` is as in Mount. `skipped` says what could not be looked into."""

    found: Found
    subvolume: str
    texts: Texts
    skipped: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"{self.found.describe()}{f' subvolume {self.subvolume}' if self.subvolume else ''}"


def read_texts(tree: Tree) -> Texts:
    mdadm = next((path for path in MDADM_CONFS if tree.is_file(path)), MDADM_CONFS[0])
    return Texts(tree.read_text(FSTAB), tree.read_optional(CRYPTTAB), tree.read_optional(mdadm))


# ---------------------------------------------------------------- finding it


def find_root(
    volumes: Volumes, order: Sequence[str], mountpoint: Path, host: Host = KERNEL
) -> Root | WindowsRoot:
    """Looks into every filesystem that could be it, of Linux or of Windows. Raises Refused where none is, or
    more than one."""
    roots: list[Root] = []
    windows, skipped = windows_roots(volumes.found, mountpoint, host)
    for one in volumes.found:
        if one.filesystem.kind in ROOT_KINDS:
            try:
                roots += _roots_in(one, mountpoint, host)
            except CannotMount as error:
                skipped.append(error.message)
    names = device_names(volumes.found, order)
    every: list[Root | WindowsRoot] = [*(one for one in roots if not _is_of_another(one, names)), *windows]
    if len(every) == 1:
        return replace(every[0], skipped=tuple(skipped))
    if every:
        raise Refused(
            f"more than one filesystem looks like the guest's root: "
            f"{', '.join(one.describe() for one in every)}",
            code="guest_root_ambiguous",
            hint="detach the disk that is not part of the running system",
        )
    check_unlocked(volumes.found)
    seen = [one.describe() for one in volumes.found] or ["no disk at all"]
    raise Refused(
        f"no root filesystem of Linux or Windows was found on the guest's disks "
        f"({'; '.join((*seen, *volumes.closed, *skipped))})",
        code="guest_root_missing",
        hint="encrypted disks need their passphrase; skip the adaptation for guests of other kinds",
    )


def _roots_in(one: Found, mountpoint: Path, host: Host) -> list[Root]:
    if one.filesystem.kind == "btrfs":
        return _btrfs_roots(one, mountpoint, host)
    with host.mounted(one, mountpoint) as path:
        texts = _texts_of_root(path)
    return [Root(one, "", texts)] if texts else []


def _btrfs_roots(one: Found, mountpoint: Path, host: Host) -> list[Root]:
    """The default subvolume and those at the top level: each a root if the fstab in it says so itself.

    A snapshot of a root looks like one, but its fstab names the original.
    """
    candidates: list[tuple[str, Root]] = []  # with the path of the subvolume
    with host.mounted(one, mountpoint) as path:
        default, number = host.mounted_subvolume(path)
        texts = _texts_of_root(path)
        if texts:
            candidates.append((default, Root(one, "", texts)))
    with host.mounted(one, mountpoint, subvolume="/") as path:
        for name in host.subvolumes(path):
            texts = _texts_of_root(path / name) if name != default else None
            if texts:
                candidates.append((name, Root(one, name, texts)))
    result = []
    for where, root in candidates:
        said = _root_entry(root.texts).subvolume
        if said in (where, f"subvolid={number}" if where == default else where):
            result.append(replace(root, subvolume=said))
        elif not said and (where == default or len(candidates) == 1):
            result.append(root)
    return result


def _texts_of_root(path: Path) -> Texts | None:
    """By what is there. /lib/modules may lie on a filesystem of its own with /usr: then etc must do."""
    with Tree(path) as tree:
        release = any(tree.is_file(one) for one in OS_RELEASE) or tree.readlink(OS_RELEASE[0]) is not None
        return read_texts(tree) if release and tree.is_file(FSTAB) else None


def _root_entry(texts: Texts) -> Entry:
    entries = parse_fstab(texts.fstab)
    return next((one for one in entries if one.mountpoint == "/"), Entry(0, "", "/", "", frozenset()))


def _is_of_another(root: Root, names: DeviceNames) -> bool:
    """Whether its own fstab says, by a name that does not follow the bus, that / is another filesystem that
    is here: so it is the copy of a root."""
    spec = _root_entry(root.texts).spec
    meant = None if is_kernel_name(spec) or bound(spec) else names.find(spec)
    here = root.found.filesystem
    return meant is not None and (meant.disk, meant.partition, meant.volume) != (
        here.disk,
        here.partition,
        here.volume,
    )


# ---------------------------------------------------------------- what belongs to it


def device_names(found: Iterable[Found], order: Sequence[str]) -> DeviceNames:
    return DeviceNames(order, (one.filesystem for one in found))


def place(
    found: Sequence[Found],
    root: Found,
    texts: Texts | str,
    order: Sequence[str],
    subvolume: str = "",
) -> tuple[Found, ...]:
    """The filesystems under the names that the guest's own files give them, with their mount points; the
    root's is "/" whatever its fstab says. `texts` may be the fstab alone."""
    texts = Texts(texts) if isinstance(texts, str) else texts
    at = next(index for index, one in enumerate(found) if one is root)
    entries = parse_fstab(texts.fstab)
    known = _named(found, at, entries, texts, order)
    placed = with_mountpoints((one.filesystem for one in known), entries, device_names(known, order))
    result = []
    for index, (one, filesystem) in enumerate(zip(known, placed, strict=True)):
        mounts = tuple(mount for mount in filesystem.mounts if mount.point != "/")
        if index == at:
            mounts = (Mount("/", subvolume), *mounts)
        result.append(replace(one, filesystem=mounted_at(filesystem, mounts)))
    return tuple(result)


def subvolume_now(root: Found, texts: Texts) -> str:
    """The subvolume that a known root's own fstab means at this moment."""
    known = next((mount.subvolume for mount in mounts_of(root.filesystem) if mount.point == "/"), "")
    return (_root_entry(texts).subvolume or known) if root.filesystem.kind == "btrfs" else ""


def _named(
    found: Sequence[Found], at: int, entries: Sequence[Entry], texts: Texts, order: Sequence[str]
) -> list[Found]:
    known = list(found)
    arrays = {one.uuid: one.name for one in parse_mdadm_conf(texts.mdadm_conf) if one.uuid and one.name}
    for index, one in enumerate(known):
        for uuid, name in arrays.items():
            if _array_uuid(one) == uuid and name.startswith("/dev/"):
                known[index] = renamed(one, name, *_other_array_names(name))
    names = device_names(known, order)
    for entry in parse_crypttab(texts.crypttab):
        container = names.find(entry.spec)
        for index, one in enumerate(known):
            if container and container.kind == "crypto_LUKS" and _opened_from(one, container.uuid):
                known[index] = renamed(one, f"/dev/mapper/{entry.name}")
    spec = next((entry.spec for entry in entries if entry.mountpoint == "/"), "")
    if spec and device_names(known, order).find(spec) is None:
        known[at] = _proven(known, at, spec) or known[at]
    return known


def _proven(known: Sequence[Found], at: int, spec: str) -> Found | None:
    """The root under the name in its own fstab, where that can mean nothing else: the file lies on it."""
    one = known[at]
    here = one.filesystem
    depends = bound(spec)
    if depends and not here.volume and depends.partition == here.partition:
        return replace(one, filesystem=replace(here, names=(*here.names, spec)))
    if spec.startswith("/dev/mapper/") and not depends and _luks_name(one):
        return renamed(one, spec)
    arrays = [other for other in known if _array_uuid(other)]
    if spec.startswith("/dev/md") and arrays == [one]:
        return renamed(one, one.filesystem.volume, spec)
    return None


def _other_array_names(name: str) -> tuple[str, ...]:
    """/dev/md0 and /dev/md/0 are the same."""
    match = _NUMBERED_ARRAY.fullmatch(name)
    return (f"/dev/md{match[1]}", f"/dev/md/{match[1]}") if match else ()


def _array_uuid(one: Found) -> str:
    prefix = "/dev/disk/by-id/md-uuid-"
    names = (one.filesystem.volume, *one.filesystem.names)
    return next((digits(name.removeprefix(prefix)) for name in names if name.startswith(prefix)), "")


def _luks_name(one: Found) -> str:
    names = (one.filesystem.volume, *one.filesystem.names)
    return next((name for name in names if name.startswith("/dev/mapper/luks-")), "")


def _opened_from(one: Found, uuid: str) -> bool:
    return _luks_name(one) == f"/dev/mapper/luks-{uuid.casefold()}"


# ---------------------------------------------------------------- checks


def check_entries(root: Found, entries: Sequence[Entry], names: DeviceNames, notes: Notes) -> None:
    """The fstab must mean the filesystem on which it was found: otherwise the disks' order is not what
    it was at the source, and every other name would be mapped to the wrong disk. What else belongs to the
    system must be here: else a directory would be changed in which the guest never looks."""
    entry = next((one for one in entries if one.mountpoint == "/"), None)
    if entry is None:
        notes.problems.append(f"{FSTAB} has no entry for /")
        return
    meant = names.find(entry.spec)
    here = root.filesystem
    if meant is None or (meant.disk, meant.partition, meant.volume) != (
        here.disk,
        here.partition,
        here.volume,
    ):
        notes.problems.append(
            f"{FSTAB}:{entry.line} says that / is {entry.spec}, but it was found on {root.describe()}"
        )
    for entry in entries:
        if entry.mountpoint in SYSTEM_MOUNTS and names.find(entry.spec) is None:
            optional = entry.may_fail and entry.mountpoint in ("/efi", "/boot/efi")
            (notes.warnings if optional else notes.problems).append(
                f"{FSTAB}:{entry.line}: {entry.mountpoint} is {entry.spec}, which was not found on the disks"
            )
