"""Two states of a guest's tree, compared: what changed must be what the change journal says, and only that.

Standard library and the model only: it also runs where a guest's disks can be opened at all, in a controller.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refloat.model import Change, ChangeKind, FileState


@dataclass(frozen=True)
class Entry:
    """A file, directory, symlink or device node. `content` is a file's sha256, a symlink's target or a
    node's number; `modified` (nanoseconds) is that of files alone: a directory's changes with its entries."""

    kind: str
    content: str
    mode: int
    uid: int
    gid: int
    xattrs: tuple[tuple[str, str], ...] = ()
    modified: int = 0


Snapshot = dict[str, Entry]

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "node",
    stat.S_IFBLK: "node",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def snapshot(root: Path) -> Snapshot:
    """Everything at and below `root`, by absolute path; symlinks are never followed. Mounts below count."""
    return dict(_walk(os.fsencode(root), b"/"))


def _walk(root: bytes, inner: bytes) -> Iterator[tuple[str, Entry]]:
    path = root + inner
    entry = _entry(path)
    yield os.fsdecode(inner), entry
    if entry.kind == "directory":
        for name in sorted(os.listdir(path)):
            yield from _walk(root, inner.rstrip(b"/") + b"/" + name)


def _entry(path: bytes) -> Entry:
    status = os.lstat(path)
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    content, modified = "", 0
    if kind == "file":
        with open(path, "rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        modified = status.st_mtime_ns
    elif kind == "symlink":
        content = os.fsdecode(os.readlink(path))
    elif kind == "node":
        content = str(status.st_rdev)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False).hex()) for name in names)
    return Entry(kind, content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, xattrs, modified)


def differences(before: Snapshot, after: Snapshot, journal: Sequence[Change]) -> list[str]:
    """What the journal does not account for, in words; empty: the two differ exactly by its entries.

    Besides what is not in it: what it claims and did not happen, another content, mode or owner than it
    says, and extended attributes that a changed file lost.
    """
    changes = _merged(journal)
    found = []
    for path in sorted({*before, *after, *changes}):
        change = changes.get(path)
        if change is None:
            found += _untouched(path, before.get(path), after.get(path))
        else:
            found += _as_said(path, change, before.get(path), after.get(path))
    return found


def _merged(journal: Sequence[Change]) -> Mapping[str, Change]:
    """One change per path: from before its first to after its last."""
    merged: dict[str, Change] = {}
    for change in journal:
        first = merged.get(change.path)
        merged[change.path] = Change(**{**vars(change), "before": first.before}) if first else change
    return merged


def _untouched(path: str, before: Entry | None, after: Entry | None) -> list[str]:
    if before == after:
        return []
    if before is None or after is None:
        return [f"{path}: {'appeared' if before is None else 'vanished'}, not in the journal"]
    names = [name for name in vars(before) if getattr(before, name) != getattr(after, name)]
    return [f"{path}: {', '.join(names)} changed, not in the journal"]


def _as_said(path: str, change: Change, before: Entry | None, after: Entry | None) -> list[str]:
    found = []
    if after is None:
        return [f"{path}: in the journal, but not there"]
    if after.kind != change.kind.value:
        found.append(f"{path}: is a {after.kind}, the journal says {change.kind.value}")
    if (before is None) != (change.before is None):
        found.append(f"{path}: the journal is wrong about whether it existed")
    if before is not None and change.before is not None:
        found += [f"{path}: before, {one}" for one in _unlike(change, change.before, before)]
        if before.xattrs != after.xattrs:
            found.append(f"{path}: extended attributes changed")
        if (before.mode, before.uid, before.gid) != (after.mode, after.uid, after.gid):
            found.append(f"{path}: mode or owner changed")
    return found + [f"{path}: after, {one}" for one in _unlike(change, change.after, after)]


def _unlike(change: Change, said: FileState, entry: Entry) -> Iterator[str]:
    content = said.target if change.kind is ChangeKind.SYMLINK else said.sha256
    if content != entry.content:
        yield "another content than the journal says"
    if change.kind is ChangeKind.SYMLINK:
        if (entry.uid, entry.gid) != (0, 0):
            yield "does not belong to root"
    elif (said.mode, said.uid, said.gid) != (entry.mode, entry.uid, entry.gid):
        yield (
            f"mode {entry.mode:o} of {entry.uid}:{entry.gid}, the journal says "
            f"{said.mode:o} of {said.uid}:{said.gid}"
        )
