"""The comparison of trees: it must see everything that an adaptation could do wrong."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from refloat.model import Change, ChangeKind, FileState
from tests.tree_compare import differences, snapshot

OLD, NEW = b"/dev/sda1 / ext4\n", b"UUID=1 / ext4\n"


def _state(content: bytes, mode: int = 0o644) -> FileState:
    return FileState(hashlib.sha256(content).hexdigest(), len(content), mode, os.getuid(), os.getgid())


JOURNAL = (
    Change(1, "/etc/fstab", ChangeKind.FILE, _state(OLD), _state(NEW), "names"),
    Change(
        2,
        "/etc/refloat",
        ChangeKind.DIRECTORY,
        None,
        FileState(mode=0o755, uid=os.getuid(), gid=os.getgid()),
        "",
    ),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("etc", "home"):
        (tmp_path / name).mkdir(mode=0o755)
    for name, content in (("etc/fstab", OLD), ("etc/shadow", b"secret"), ("home/letter", b"dear")):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644)
    (tmp_path / "bin").symlink_to("usr/bin")
    os.setxattr(tmp_path / "home/letter", "user.note", b"x")
    return tmp_path


def _adapt(root: Path) -> None:
    (root / "etc/fstab").write_bytes(NEW)
    (root / "etc/refloat").mkdir()
    (root / "etc/refloat").chmod(0o755)


def test_what_the_journal_says_is_no_difference(root: Path) -> None:
    before = snapshot(root)
    assert differences(before, before, ()) == []
    _adapt(root)
    assert differences(before, snapshot(root), JOURNAL) == []
    assert len(differences(before, snapshot(root), ())) == 2


def _touch(root: Path) -> None:
    os.utime(root / "etc/shadow", ns=(1, 1))


def _xattr(root: Path) -> None:
    os.removexattr(root / "home/letter", "user.note")


def _link(root: Path) -> None:
    (root / "bin").unlink()
    (root / "bin").symlink_to("usr/sbin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "home/letter").write_bytes(b"DEAR"), "/home/letter: content, modified changed"),
        (lambda root: (root / "home/new").write_bytes(b""), "/home/new: appeared"),
        (lambda root: (root / "home/letter").unlink(), "/home/letter: vanished"),
        (lambda root: (root / "etc/shadow").chmod(0o600), "/etc/shadow: mode changed"),
        (lambda root: (root / "home").chmod(0o700), "/home: mode changed"),
        (_touch, "/etc/shadow: modified changed"),
        (_xattr, "/home/letter: xattrs changed"),
        (_link, "/bin: content changed"),
    ],
)
def test_what_is_not_in_the_journal_is_seen(root: Path, change: Callable[[Path], object], words: str) -> None:
    before = snapshot(root)
    _adapt(root)
    change(root)
    found = differences(before, snapshot(root), JOURNAL)
    assert len(found) == 1 and found[0].startswith(words), found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "etc/fstab").write_bytes(OLD), "after, another content"),
        (lambda root: (root / "etc/fstab").unlink(), "in the journal, but not there"),
        (lambda root: (root / "etc/fstab").chmod(0o600), "mode or owner changed"),
        (lambda root: os.setxattr(root / "etc/fstab", "user.a", b"1"), "extended attributes changed"),
        (lambda root: (root / "etc/refloat").chmod(0o777), "/etc/refloat: after, mode 777"),
        (lambda root: (root / "etc/refloat").rmdir(), "/etc/refloat: in the journal, but not there"),
    ],
)
def test_what_the_journal_says_must_be_so(root: Path, change: Callable[[Path], object], words: str) -> None:
    before = snapshot(root)
    _adapt(root)
    change(root)
    assert words in "; ".join(differences(before, snapshot(root), JOURNAL))


def test_two_changes_of_one_file_are_one(root: Path) -> None:
    before = snapshot(root)
    _adapt(root)
    first = Change(1, "/etc/fstab", ChangeKind.FILE, _state(OLD), _state(b"between"), "")
    second = Change(2, "/etc/fstab", ChangeKind.FILE, _state(b"between"), _state(NEW), "")
    assert differences(before, snapshot(root), (first, second, JOURNAL[1])) == []
