"""The change journal: the only way to change a guest's files.

Each change is written to a file outside of the guest, and made durable there, before the guest is
touched; what a changed file held before is kept beside it. So after a kill at any moment a rerun
knows what it did, does nothing twice, and the journals of both runs together list each change once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from refloat.codec import decode, encode
from refloat.durable import sync_directory, write_durably
from refloat.errors import Failed
from refloat.guest.boundary import LINUX, Boundary
from refloat.guest.tree import TEXT_LIMIT, GuestFileError, Meta, Tree
from refloat.model import Change, ChangeKind, FileState, ValueChange

DIFF_LIMIT = 64 * 1024
_FILE = "journal.jsonl"
_CHUNK = 1024 * 1024
_NO_NEWLINE = "\n\\ No newline at end of file\n"


class Conflict(Failed):
    """A file is not what the change was computed from."""

    default_code = "guest_file_conflict"


class Labels(Protocol):
    """What new files are protected with: extended attributes by real path and kind (an S_IF*)."""

    def of(self, path: str, kind: int) -> tuple[tuple[str, bytes], ...]: ...


class _NoLabels:
    def of(self, path: str, kind: int) -> tuple[tuple[str, bytes], ...]:
        return ()


NO_LABELS: Labels = _NoLabels()


class Journal:
    """Writes into `tree`, recording in `directory` (outside of the guest, kept until the job ends).

    New files get `labels`, as those of the guest's own SELinux policy; changed ones keep theirs.
    """

    def __init__(
        self,
        directory: Path,
        tree: Tree,
        boundary: Boundary = LINUX,
        labels: Labels = NO_LABELS,
    ) -> None:
        self.run_dir = directory
        self._tree = tree
        self.check = boundary.check
        self._labels = labels
        self._backups = directory / "backups"
        self._backups.mkdir(parents=True, exist_ok=True)
        self._path = directory / _FILE
        self._entries = _load(self._path)

    def changes(self) -> tuple[Change, ...]:
        """Every change of this run and of the runs before it, in order."""
        return tuple(self._entries[seq] for seq in sorted(self._entries))

    def write(
        self,
        path: str,
        content: bytes,
        reason: str,
        *,
        mode: int = 0o644,
        shown: bool = True,
        expect: bytes | None = None,
        values: Sequence[ValueChange] = (),
        limit: int = TEXT_LIMIT,
    ) -> bool:
        """Gives a file this content; returns whether that changed anything.

        An existing file keeps its mode, owner and extended attributes; a new one belongs to root and
        gets `mode`. `expect` is the content that the new one was computed from: Conflict is raised if
        the file has another by now. Without `shown` (secrets) the journal has hashes only, no diff. A file
        of more than `limit` bytes is refused; `values` are what differs in a registry hive.
        """
        real = self._guard(path)
        before, meta, old = self._current(real, mode, limit)
        if expect is not None and (before is None or before.sha256 != _sha256(expect)):
            raise _changed(real)
        if before is not None and old == content:
            return False
        after = FileState(_sha256(content), len(content), meta.mode, meta.uid, meta.gid)
        diff = _diff(real, old, content) if shown else ""
        self._keep(before, old)
        self._record(Change(0, real, ChangeKind.FILE, before, after, reason, diff, tuple(values)))
        self._tree.replace_file(real, (content,), meta)
        return True

    def write_text(self, path: str, text: str, reason: str, *, expect: str | None = None) -> bool:
        """write() for text read with Tree.read_text()."""
        content = text.encode("utf-8", "surrogateescape")
        before = None if expect is None else expect.encode("utf-8", "surrogateescape")
        return self.write(path, content, reason, expect=before)

    def extend(self, path: str, tail: bytes, reason: str, *, expect_size: int, expect_sha256: str) -> None:
        """Appends to a large file that must have exactly this content now.

        The old content is not kept as a copy: cutting the file back to its old size restores it, and
        the journal's hash proves it.
        """
        real = self._guard(path)
        meta = self._tree.meta(real)
        with self._tree.open(real) as fd:
            digest, size = hashlib.sha256(), 0
            for chunk in _chunks(fd):
                digest.update(chunk)
                size += len(chunk)
            if (size, digest.hexdigest()) != (expect_size, expect_sha256):
                raise _changed(real)
            before = FileState(digest.hexdigest(), size, meta.mode, meta.uid, meta.gid)
            digest.update(tail)
            after = replace(before, sha256=digest.hexdigest(), size=size + len(tail))
            self._record(Change(0, real, ChangeKind.FILE, before, after, reason))
            self._tree.replace_file(real, _chained(fd, tail), meta)

    def directory(self, path: str, reason: str, *, mode: int = 0o755) -> bool:
        """Makes a directory unless it exists."""
        status = self._tree.stat(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            return False
        real = self._guard(path)
        self._record(Change(0, real, ChangeKind.DIRECTORY, None, FileState(mode=mode), reason))
        self._tree.make_directory(real, Meta(mode, xattrs=self._labels.of(real, stat.S_IFDIR)))
        return True

    def symlink(self, path: str, target: str, reason: str) -> bool:
        """Makes a symlink. Raises Conflict if the name is taken by anything else."""
        parent, name = os.path.split(path)
        real = f"{self._tree.real(parent).rstrip('/')}/{name}"
        self.check(real)
        if self._tree.readlink(real) == target:
            return False
        if self._tree.stat(real, follow=False) is not None:
            raise Conflict(f"the guest already has a {real}", hint="remove it or let it be inspected")
        self._record(Change(0, real, ChangeKind.SYMLINK, None, FileState(target=target), reason))
        self._tree.make_symlink(real, target, self._labels.of(real, stat.S_IFLNK))
        return True

    def backup_of(self, change: Change) -> Path | None:
        """Where the old content of a changed file is kept; None for new and for extended files."""
        if change.before is None or not change.before.sha256:
            return None
        path = self._backups / change.before.sha256
        return path if path.exists() else None

    # ------------------------------------------------------------ inside

    def _guard(self, path: str) -> str:
        real = self._tree.real(path)
        self.check(real)
        return real

    def _current(self, real: str, mode: int, limit: int) -> tuple[FileState | None, Meta, bytes]:
        status = self._tree.stat(real, follow=False)
        if status is None:
            return None, Meta(mode, xattrs=self._labels.of(real, stat.S_IFREG)), b""
        if not stat.S_ISREG(status.st_mode):
            raise GuestFileError(f"the guest's {real} is not a regular file")
        content = self._tree.read_bytes(real, limit)
        meta = self._tree.meta(real)
        return FileState(_sha256(content), len(content), meta.mode, meta.uid, meta.gid), meta, content

    def _keep(self, before: FileState | None, content: bytes) -> None:
        if before is None:
            return
        path = self._backups / before.sha256
        if not path.exists():
            write_durably(path, content)

    def _record(self, change: Change) -> None:
        """Makes the entry durable. One that was recorded, but never reached the guest, is replaced."""
        pending = next((entry for entry in self._entries.values() if _same_start(entry, change)), None)
        seq = pending.seq if pending else max(self._entries, default=0) + 1
        entry = replace(change, seq=seq)
        if entry == pending:
            return
        line = json.dumps(encode(entry), ensure_ascii=True) + "\n"
        fresh = not self._path.exists()
        with open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as handle:
            handle.write(line.encode())
            handle.flush()
            os.fsync(handle.fileno())
        if fresh:
            sync_directory(self._path.parent)
        self._entries[seq] = entry


def has_begun(directory: Path) -> bool:
    """Whether a guest may have been changed by a journal in this directory."""
    return (directory / _FILE).exists()


def _same_start(entry: Change, change: Change) -> bool:
    return (entry.path, entry.kind, entry.before) == (change.path, change.kind, change.before)


def _load(path: Path) -> dict[int, Change]:
    """The entries by number, the last line of a number winning. A torn last line was never acted on."""
    entries: dict[int, Change] = {}
    if not path.exists():
        return entries
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) != len(content):
        os.truncate(path, len(whole))
    for line in whole.splitlines():
        change = decode(Change, json.loads(line))
        entries[change.seq] = change
    return entries


def _changed(real: str) -> Conflict:
    return Conflict(f"the guest's {real} changed while it was being adapted", hint="run adapt again")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _diff(path: str, before: bytes, after: bytes) -> str:
    if max(len(before), len(after)) > DIFF_LIMIT:
        return ""
    try:
        old, new = before.decode(), after.decode()
    except UnicodeDecodeError:
        return ""
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a{path}", f"b{path}", n=2
    )
    return "".join(line if line.endswith("\n") else f"{line}{_NO_NEWLINE}" for line in lines)


def _chunks(fd: int) -> Iterator[bytes]:
    offset = 0
    while chunk := os.pread(fd, _CHUNK, offset):
        offset += len(chunk)
        yield chunk


def _chained(fd: int, tail: bytes) -> Iterator[bytes]:
    yield from _chunks(fd)
    yield tail
