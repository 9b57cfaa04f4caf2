"""The journal: durable before the guest is touched, and the same after any kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from refloat.guest.boundary import BoundaryViolation
from refloat.guest.journal import Conflict, Journal
from refloat.guest.tree import Tree
from refloat.model import ChangeKind
from tests.unit.guest.guests import snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="new files in a guest belong to root")


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "guest"
    (root / "etc/systemd/system").mkdir(parents=True)
    (root / "boot").mkdir()
    (root / "etc/fstab").write_text("old\n")
    (root / "etc/fstab").chmod(0o640)
    (root / "boot/initrd.img-1").write_bytes(b"x" * 1000)
    return root


def work(journal: Journal) -> None:
    """One change of each kind."""
    journal.write_text("/etc/fstab", "new\n", "names")
    size, digest = 1000, hashlib.sha256(b"x" * 1000).hexdigest()
    try:
        journal.extend("/boot/initrd.img-1", b"tail", "drivers", expect_size=size, expect_sha256=digest)
    except Conflict:
        # As adapt does it: what was appended before is seen, and nothing is appended again.
        assert journal._tree.read_bytes("/boot/initrd.img-1") == b"x" * 1000 + b"tail"
    journal.directory("/etc/refloat", "first boot")
    journal.write("/etc/refloat/secrets", b"TOKEN='s3cret'\n", "first boot", mode=0o600, shown=False)
    journal.directory("/etc/systemd/system/rescue.target.wants", "first boot")
    link = "/etc/systemd/system/rescue.target.wants/refloat-report.service"
    journal.symlink(link, "/etc/systemd/system/refloat-report.service", "first boot")


def test_changes_say_what_was_and_what_is(root: Path, tmp_path: Path) -> None:
    with Tree(root) as tree:
        journal = Journal(tmp_path / "run", tree)
        work(journal)
        changes = journal.changes()
    assert [change.kind for change in changes] == [
        ChangeKind.FILE, ChangeKind.FILE, ChangeKind.DIRECTORY, ChangeKind.FILE, ChangeKind.DIRECTORY,
        ChangeKind.SYMLINK,
    ]  # fmt: skip
    fstab = changes[0]
    assert fstab.before is not None
    assert fstab.before.mode == fstab.after.mode == 0o640
    assert fstab.after.sha256 == hashlib.sha256(b"new\n").hexdigest()
    assert "-old\n+new\n" in fstab.diff
    backup = journal.backup_of(fstab)
    assert backup is not None and backup.read_text() == "old\n"
    assert (root / "etc/fstab").stat().st_mode & 0o777 == 0o640
    assert (root / "etc/refloat/secrets").stat().st_mode & 0o777 == 0o600


def test_secret_is_in_no_journal(root: Path, tmp_path: Path) -> None:
    with Tree(root) as tree:
        work(Journal(tmp_path / "run", tree))
    kept = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"s3cret" not in kept


def test_same_content_is_no_change(root: Path, tmp_path: Path) -> None:
    with Tree(root) as tree:
        journal = Journal(tmp_path / "run", tree)
        assert not journal.write_text("/etc/fstab", "old\n", "nothing")
        assert journal.changes() == ()


def test_unexpected_content_is_a_conflict(root: Path, tmp_path: Path) -> None:
    with Tree(root) as tree:
        journal = Journal(tmp_path / "run", tree)
        with pytest.raises(Conflict):
            journal.write_text("/etc/fstab", "new\n", "names", expect="what it was once\n")
    assert (root / "etc/fstab").read_text() == "old\n"


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/planted", "/etc/refloat/../shadow"])
def test_boundary_is_asked_about_real_paths(root: Path, tmp_path: Path, path: str) -> None:
    (root / "etc/passwd").write_text("root")
    (root / "etc/shadow").write_text("root")
    (root / "etc/refloat").mkdir()
    (root / "etc/planted").symlink_to("passwd")
    before = snapshot(root)
    with Tree(root) as tree, pytest.raises(BoundaryViolation):
        Journal(tmp_path / "run", tree).write(path, b"evil", "test")
    assert snapshot(root) == before


def test_allowed_name_that_leads_elsewhere_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "etc/passwd").write_text("root")
    (root / "etc/fstab").unlink()
    (root / "etc/fstab").symlink_to("passwd")
    with Tree(root) as tree, pytest.raises(BoundaryViolation):
        Journal(tmp_path / "run", tree).write("/etc/fstab", b"evil", "test")
    assert (root / "etc/passwd").read_text() == "root"


def _killing(
    call: Callable[..., object], moment: int, counter: list[int], *, after: bool
) -> Callable[..., object]:
    def killed(*arguments: object, **named: object) -> object:
        counter[0] += 1
        if counter[0] == moment and not after:
            raise Killed
        result = call(*arguments, **named)
        if counter[0] == moment:
            raise Killed
        return result

    return killed


_WRITES = ("replace_file", "make_directory", "make_symlink")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("moment", range(1, 7))
def test_kill_at_each_write(root: Path, tmp_path: Path, moment: int, after: bool) -> None:
    plain = tmp_path / "plain"
    with Tree(root) as tree:
        reference = Journal(plain, tree)
        before = snapshot(root)
        work(reference)
    wanted, listed = snapshot(root), reference.changes()
    _restore(root, before)

    counter = [0]
    with Tree(root) as tree:
        for name in _WRITES:
            setattr(tree, name, _killing(getattr(tree, name), moment, counter, after=after))
        with pytest.raises(Killed):
            work(Journal(tmp_path / "run", tree))
    with Tree(root) as tree:
        journal = Journal(tmp_path / "run", tree)
        work(journal)
    assert snapshot(root) == wanted
    assert journal.changes() == listed


@pytest.mark.parametrize("call", ["mkdir", "fchown", "fchmod", "rename"])
def test_kill_in_the_middle_of_a_directory(
    root: Path, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never there with another mode than it should have: a rerun would take it as it is."""
    with Tree(root) as tree:
        journal = Journal(tmp_path / "run", tree)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(os, call, _killing(getattr(os, call), 1, [0], after=True))
            journal.directory("/etc/refloat", "first boot", mode=0o751)
        Journal(tmp_path / "run", tree).directory("/etc/refloat", "first boot", mode=0o751)
    assert (root / "etc/refloat").stat().st_mode & 0o7777 == 0o751
    assert not list((root / "etc").glob(".refloat*"))


def test_torn_line_was_never_acted_on(root: Path, tmp_path: Path) -> None:
    with Tree(root) as tree:
        journal = Journal(tmp_path / "run", tree)
        journal.write_text("/etc/fstab", "new\n", "names")
        with (tmp_path / "run/journal.jsonl").open("a") as handle:
            handle.write('{"seq": 2, "path": "/etc/f')
        again = Journal(tmp_path / "run", tree)
        assert again.changes() == journal.changes()
        again.directory("/etc/refloat", "first boot")
    lines = (tmp_path / "run/journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2]


def test_second_change_of_a_file_is_a_second_entry(root: Path, tmp_path: Path) -> None:
    with Tree(root) as tree:
        journal = Journal(tmp_path / "run", tree)
        journal.write_text("/etc/fstab", "new\n", "one")
        journal.write_text("/etc/fstab", "newer\n", "two")
        assert [change.reason for change in journal.changes()] == ["one", "two"]


def _restore(root: Path, before: dict[str, tuple[str, int, bytes]]) -> None:
    for name in sorted(set(snapshot(root)) - set(before), reverse=True):
        path = root / name.lstrip("/")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for name, (kind, mode, content) in before.items():
        if kind == "file":
            (root / name.lstrip("/")).write_bytes(content)
            (root / name.lstrip("/")).chmod(mode)
