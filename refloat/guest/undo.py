"""Taking an adaptation back: every changed file gets the bytes that it had before, by the change journal.

All is checked before anything is changed. What is restored already is passed over, so a killed undo is
simply repeated; so is an adaptation that was killed in the middle undone.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator

from refloat.errors import Refused
from refloat.guest.journal import Journal
from refloat.guest.tree import Meta, Tree
from refloat.model import Change, ChangeKind, FileState

_CHUNK = 1024 * 1024


def undo(tree: Tree, journal: Journal) -> tuple[str, ...]:
    """The paths that were restored, the last change first.

    Raises Refused, before anything is changed, when a file is neither what the adaptation left nor what
    it found.
    """
    changes = tuple(reversed(_merged(journal.changes(), journal.check)))
    foreign = [change.path for change in changes if not _is_known(tree, change)]
    if foreign:
        raise Refused(
            f"changed by somebody else since the adaptation: {', '.join(sorted(foreign))}",
            code="guest_changed",
            hint="nothing was undone; put these files back as the journal's `after` has them, or restore the "
            "disk from a snapshot",
        )
    return tuple(change.path for change in changes if _restore(tree, journal, change))


def _merged(changes: tuple[Change, ...], check: Callable[[str], None]) -> tuple[Change, ...]:
    """One entry per path: from before the first change to after the last one."""
    merged: dict[str, Change] = {}
    for change in changes:
        check(change.path)
        first = merged.get(change.path)
        kept = change if first is None else Change(**{**vars(change), "before": first.before})
        merged.pop(change.path, None)
        merged[change.path] = kept
    return tuple(merged.values())


def _is_known(tree: Tree, change: Change) -> bool:
    state = _state(tree, change)
    # A directory that holds what others put there stays: it is no reason to refuse.
    return change.kind is ChangeKind.DIRECTORY or state in (_essence(change.before), _essence(change.after))


def _essence(state: FileState | None) -> tuple[str, str] | None:
    """What tells one content from another: hash or target. Mode and owner follow them."""
    return None if state is None else (state.sha256, state.target)


def _state(tree: Tree, change: Change) -> tuple[str, str] | None:
    target = tree.readlink(change.path)
    if target is not None:
        return ("", target)
    if tree.stat(change.path, follow=False) is None:
        return None
    if not tree.is_file(change.path):
        return ("", "")
    with tree.open(change.path) as fd, open(f"/proc/self/fd/{fd}", "rb") as handle:
        return (hashlib.file_digest(handle, "sha256").hexdigest(), "")


def _restore(tree: Tree, journal: Journal, change: Change) -> bool:
    tree.remove_unfinished(change.path)
    if _state(tree, change) == _essence(change.before):
        return False
    if change.before is None:
        return _remove(tree, change)
    backup = journal.backup_of(change)
    meta = Meta(change.before.mode, change.before.uid, change.before.gid, tree.meta(change.path).xattrs)
    if backup is not None:
        tree.replace_file(change.path, (backup.read_bytes(),), meta)
    else:
        # An initramfs only grew: what it was is its own beginning.
        with tree.open(change.path) as fd:
            _prove_beginning(fd, change)
            tree.replace_file(change.path, _beginning(fd, change.before.size), meta)
    return True


def _remove(tree: Tree, change: Change) -> bool:
    if change.kind is not ChangeKind.DIRECTORY:
        tree.remove_file(change.path)
        return True
    status = tree.stat(change.path, follow=False)
    if status is None or not stat.S_ISDIR(status.st_mode) or tree.listdir(change.path):
        return False
    tree.remove_directory(change.path)
    return True


def _prove_beginning(fd: int, change: Change) -> None:
    assert change.before is not None
    digest = hashlib.sha256()
    for chunk in _beginning(fd, change.before.size):
        digest.update(chunk)
    if digest.hexdigest() != change.before.sha256:
        raise Refused(
            f"the guest's {change.path} does not begin with what it held before, and there is no copy of it",
            code="guest_changed",
            hint="restore the disk from a snapshot",
        )


def _beginning(fd: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size and (chunk := os.pread(fd, min(_CHUNK, size - offset), offset)):
        offset += len(chunk)
        yield chunk
