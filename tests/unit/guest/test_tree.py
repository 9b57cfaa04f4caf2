"""The tree keeps to the guest, whatever the guest holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.guest.tree import GuestFileError, Meta, Tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("the host's secret")
    (tmp_path / "guest/etc").mkdir(parents=True)
    (tmp_path / "guest/etc/fstab").write_text("table")
    return tmp_path / "guest"


@pytest.fixture
def tree(root: Path) -> Iterator[Tree]:
    with Tree(root) as opened:
        yield opened


@pytest.mark.parametrize(
    "target", ["../../outside", "/../outside", "../../../../../../../../etc/passwd", "/proc/1/root"]
)
def test_symlink_cannot_lead_out(root: Path, tree: Tree, target: str) -> None:
    (root / "etc/link").symlink_to(target)
    assert not tree.exists("/etc/link")
    with pytest.raises(GuestFileError):
        tree.read_text("/etc/link")


def test_absolute_symlink_is_the_guests_own(root: Path, tree: Tree) -> None:
    (root / "etc/link").symlink_to("/etc/fstab")
    assert tree.read_text("/etc/link") == "table"
    assert tree.real("/etc/link") == "/etc/fstab"


def test_climbing_path_stays_inside(tree: Tree) -> None:
    assert not tree.exists("/../outside")
    assert tree.read_text("/../../etc/fstab") == "table"


def test_symlinked_directory_is_followed_inside(root: Path, tree: Tree) -> None:
    (root / "lib").symlink_to("/usr/lib")
    (root / "usr/lib").mkdir(parents=True)
    assert tree.real("/lib/new") == "/usr/lib/new"


def test_fifo_does_not_block_and_is_refused(root: Path, tree: Tree) -> None:
    os.mkfifo(root / "etc/pipe")
    with pytest.raises(GuestFileError, match="not a regular file"):
        tree.read_text("/etc/pipe")


def test_directory_and_device_are_no_files(root: Path, tree: Tree) -> None:
    with pytest.raises(GuestFileError, match="not a regular file"):
        tree.read_text("/etc")
    if os.geteuid() == 0:
        os.mknod(root / "etc/zero", 0o20666, os.makedev(1, 5))
        with pytest.raises(GuestFileError, match="not a regular file"):
            tree.read_text("/etc/zero")


def test_huge_file_is_refused_before_it_is_read(root: Path, tree: Tree) -> None:
    with (root / "etc/huge").open("wb") as handle:
        handle.truncate(1 << 40)
    with pytest.raises(GuestFileError, match="more than"):
        tree.read_text("/etc/huge")


def test_symlink_loop_and_dangling_link(root: Path, tree: Tree) -> None:
    (root / "etc/a").symlink_to("b")
    (root / "etc/b").symlink_to("a")
    (root / "etc/dangling").symlink_to("nowhere")
    assert not tree.exists("/etc/a")
    with pytest.raises(GuestFileError):
        tree.real("/etc/a")
    with pytest.raises(GuestFileError, match="leads to nothing"):
        tree.real("/etc/dangling")


def test_bytes_that_are_no_text_survive(root: Path, tree: Tree) -> None:
    (root / "etc/latin").write_bytes(b"caf\xe9\n")
    assert tree.read_text("/etc/latin").encode("utf-8", "surrogateescape") == b"caf\xe9\n"


def test_replacing_keeps_the_old_file_when_it_fails(root: Path, tree: Tree) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(GuestFileError, match="No space left"):
        tree.replace_file("/etc/fstab", broken(), Meta(0o644, os.geteuid(), os.getegid()))
    assert os.listdir(root / "etc") == ["fstab"]
    assert tree.read_text("/etc/fstab") == "table"


def test_a_directory_that_fails_leaves_nothing(root: Path, tree: Tree) -> None:
    (root / "etc/taken").write_text("a file")
    with pytest.raises(GuestFileError, match="cannot write the guest's /etc/taken"):
        tree.make_directory("/etc/taken", Meta(0o755, os.geteuid(), os.getegid()))
    assert sorted(os.listdir(root / "etc")) == ["fstab", "taken"]


def test_planted_temporary_file_is_not_written_through(root: Path, tree: Tree) -> None:
    (root / "etc/victim").write_text("untouched")
    (root / "etc/.fstab.refloat-new").symlink_to("victim")
    tree.replace_file("/etc/fstab", (b"new",), Meta(0o600, os.geteuid(), os.getegid()))
    assert (root / "etc/victim").read_text() == "untouched"
    assert tree.read_text("/etc/fstab") == "new"
    assert (root / "etc/fstab").stat().st_mode & 0o777 == 0o600


def test_a_directory_with_more_names_than_a_system_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refloat.guest.tree._NAMES_LIMIT", 3)
    for name in "cab":
        (tmp_path / name).touch()
    with Tree(tmp_path) as tree:
        assert tree.listdir("/") == ["a", "b", "c"]
        (tmp_path / "d").touch()
        with pytest.raises(GuestFileError, match="holds more than 3 names"):
            tree.listdir("/")
