"""Taking an adaptation back, whole or half done, on a tree and on its filesystems' marks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from refloat.errors import Refused
from refloat.guest.adapt import change
from refloat.guest.boundary import BoundaryViolation
from refloat.guest.generation import generation, mounted_since, mounts
from refloat.guest.inspect import examine
from refloat.guest.journal import Journal
from refloat.guest.tree import Tree
from refloat.guest.undo import undo
from refloat.model import DiskBus, NicModel
from tests.unit.guest.guests import ORDER, found, make_guest, request, snapshot


class Killed(BaseException):
    pass


def adapt(guest: Path, run: Path, kill_at: int = 0) -> None:
    """Adapts a guest's tree; with `kill_at`, dies at the n-th write to it."""
    with Tree(guest) as tree:
        facts = examine(tree, found(tree), ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
        if kill_at:
            _mortal(tree, kill_at)
        change(tree, Journal(run, tree), request(facts), facts, lambda step, figures: None)


def _mortal(tree: Tree, kill_at: int) -> None:
    done = 0

    def wrap(name: str) -> None:
        original = getattr(tree, name)

        def counted(*arguments: object) -> None:
            nonlocal done
            done += 1
            if done == kill_at:
                raise Killed
            original(*arguments)

        setattr(tree, name, counted)

    for name in ("replace_file", "make_directory", "make_symlink"):
        wrap(name)


def take_back(guest: Path, run: Path) -> tuple[str, ...]:
    with Tree(guest) as tree:
        return undo(tree, Journal(run, tree))


def test_every_byte_is_as_before(tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "guest")
    before = snapshot(guest)
    adapt(guest, tmp_path / "run")
    assert snapshot(guest) != before
    restored = take_back(guest, tmp_path / "run")
    assert snapshot(guest) == before
    assert "/etc/fstab" in restored
    assert take_back(guest, tmp_path / "run") == (), "a second undo changes nothing"


@pytest.mark.parametrize("kill_at", range(1, 24, 2))
def test_a_run_that_was_killed_anywhere_is_undone(tmp_path: Path, kill_at: int) -> None:
    guest = make_guest(tmp_path / "guest")
    before = snapshot(guest)
    with pytest.raises(Killed):
        adapt(guest, tmp_path / "run", kill_at)
        raise Killed  # fewer writes than that
    take_back(guest, tmp_path / "run")
    assert snapshot(guest) == before


@pytest.mark.parametrize("call", ["mkdir", "symlink", "fchmod", "rename"])
@pytest.mark.parametrize("moment", [1, 2, 5])
def test_a_run_that_was_killed_within_a_write_is_undone(
    tmp_path: Path, call: str, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stays of what never got its name, whatever it was to become."""
    guest = make_guest(tmp_path / "guest")
    before = snapshot(guest)
    original, calls = getattr(os, call), 0

    def dying(*arguments: object, **named: object) -> object:
        nonlocal calls
        inside = named.get("dir_fd") is not None or named.get("src_dir_fd") is not None or call == "fchmod"
        calls += inside
        if inside and calls == moment and call == "rename":
            raise Killed
        result = original(*arguments, **named)
        if inside and calls == moment:
            raise Killed
        return result

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(os, call, dying)
        adapt(guest, tmp_path / "run")
        raise Killed  # fewer calls than that
    take_back(guest, tmp_path / "run")
    assert snapshot(guest) == before


def test_a_file_that_somebody_changed_since_is_refused_and_nothing_is_undone(tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "guest")
    adapt(guest, tmp_path / "run")
    (guest / "etc/default/grub").write_text("mine now\n")
    adapted = snapshot(guest)
    with pytest.raises(Refused, match="changed by somebody else since the adaptation: /etc/default/grub"):
        take_back(guest, tmp_path / "run")
    assert snapshot(guest) == adapted


def test_a_directory_that_others_use_by_now_stays(tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "guest")
    adapt(guest, tmp_path / "run")
    (guest / "etc/refloat/mine").write_text("x")
    take_back(guest, tmp_path / "run")
    assert os.listdir(guest / "etc/refloat") == ["mine"]


def test_a_forged_journal_does_not_leave_the_boundary(tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "guest")
    adapt(guest, tmp_path / "run")
    journal = tmp_path / "run/journal.jsonl"
    journal.write_text(journal.read_text().replace("/etc/fstab", "/etc/shadow"))
    with pytest.raises(BoundaryViolation):
        take_back(guest, tmp_path / "run")


# ---------------------------------------------------------------- has it run since?


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize(("kind", "mib"), [("ext4", 8), ("xfs", 320), ("btrfs", 128)])
def test_a_mark_moves_when_a_guest_has_run(tmp_path: Path, kind: str, mib: int) -> None:
    image, where = tmp_path / "image", tmp_path / "mnt"
    with image.open("wb") as handle:
        handle.truncate(mib << 20)
    where.mkdir()
    made = subprocess.run([f"mkfs.{kind}", "-q", str(image)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"mkfs.{kind}: {made.stderr.decode()[:80]}")

    def mark() -> str:
        with image.open("rb") as handle:
            return generation(kind, lambda offset, length: os.pread(handle.fileno(), length, offset))

    def mount(*options: str) -> None:
        subprocess.run(["mount", "-o", ",".join(("loop", *options)), str(image), str(where)], check=True)
        (where / "log").write_text(str(len(marks)))  # as a guest that runs always does
        subprocess.run(["umount", str(where)], check=True)

    marks: list[str] = []
    mount()
    marks.append(mark())
    assert marks[0] == mark()
    mount()
    marks.append(mark())
    assert len(set(marks)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_our_own_mount_is_known_from_those_of_the_guest(tmp_path: Path) -> None:
    """Also while it is not unmounted in order: the count is on the disk at once."""
    image, where = tmp_path / "image", tmp_path / "mnt"
    where.mkdir()
    subprocess.run(["mke2fs", "-q", "-t", "ext4", str(image), "8m"], check=True)

    def count() -> str:
        with image.open("rb") as handle:
            return mounts("ext4", lambda offset, length: os.pread(handle.fileno(), length, offset))

    def mounted() -> str:
        subprocess.run(["mount", "-o", "loop", str(image), str(where)], check=True)
        try:
            (where / "log").write_text("written")
            subprocess.run(["sync", "-f", str(where)], check=True)
            return count()
        finally:
            subprocess.run(["umount", str(where)], check=True)

    before = count()
    ours = mounted()
    assert not mounted_since(before, before)
    assert not mounted_since(before, ours)
    assert count() == ours
    assert mounted_since(before, mounted())
    assert not mounted_since("", before)


@pytest.mark.parametrize(
    ("before", "now", "moved"),
    [("65535:7", "0:7", False), ("65535:7", "1:7", True), ("0:7", "1:8", True), ("5:7", "4:7", True)],
)
def test_counts_of_mounts(before: str, now: str, moved: bool) -> None:
    """They start anew with each check of the filesystem, which a guest may make when it starts."""
    assert mounted_since(before, now) is moved


def test_what_has_no_mark() -> None:
    assert generation("vfat", lambda offset, length: b"") == ""
    assert mounts("xfs", lambda offset, length: b"") == ""
    with pytest.raises(ValueError, match="no ext4 superblock"):
        mounts("ext4", lambda offset, length: bytes(length))
    with pytest.raises(ValueError, match="no ext4 superblock"):
        generation("ext4", lambda offset, length: bytes(length))
