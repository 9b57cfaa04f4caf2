"""New files belong to SYSTEM and the administrators alone; replaced ones keep what they had."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refloat.errors import Failed
from refloat.guest import undo
from refloat.guest.boundary import BoundaryViolation
from refloat.guest.disk import mounted
from refloat.guest.journal import Conflict, Journal
from refloat.guest.tree import NTFS_ACL, NTFS_ATTRIBUTES, Tree
from refloat.guest.windows import paths
from refloat.guest.windows.acl import StrictAcl, descriptor, prove
from refloat.guest.windows.boundary import WINDOWS
from tests.windows.disks import SERVER, Phony
from tests.windows.volumes import volume_of

HIVE = "/C/Windows/System32/config/SYSTEM"


@pytest.fixture
def tree(disk_of: Callable[[Phony], Path], tmp_path: Path) -> Iterator[Tree]:
    volume = volume_of(SERVER, disk_of(SERVER))
    (tmp_path / "mnt").mkdir()
    with mounted(volume.found(), tmp_path / "mnt/C", writable=True), Tree(tmp_path / "mnt") as one:
        yield one


def journal(tree: Tree, tmp_path: Path) -> Journal:
    return Journal(tmp_path / "run", tree, WINDOWS, StrictAcl(tree))


@pytest.mark.parametrize("directory", [False, True])
def test_the_descriptor_is_what_it_says(directory: bool) -> None:
    content = descriptor(directory)
    revision, _, control, owner, group, sacl, dacl = struct.unpack_from("<BBHIIII", content)
    assert (revision, control, sacl) == (1, 0x9004, 0)  # protected: nothing is inherited
    assert content[owner : owner + 16].hex() == "01020000000000052000000020020000"  # S-1-5-32-544
    assert content[group : group + 12].hex() == "010100000000000512000000"  # S-1-5-18
    version, _, size, count, _ = struct.unpack_from("<BBHHH", content, dacl)
    assert (version, count) == (2, 2) and size == owner - dacl
    at, seen = dacl + 8, []
    for _ in range(count):
        kind, flags, length, mask = struct.unpack_from("<BBHI", content, at)
        assert (kind, flags, mask) == (0, 3 if directory else 0, 0x1F01FF)
        seen.append(content[at + 8 : at + length])
        at += length
    assert seen == [content[group : group + 12], content[owner : owner + 16]] and at == owner


def test_new_files_are_strict_and_that_is_proven(tree: Tree, tmp_path: Path) -> None:
    one = journal(tree, tmp_path)
    one.directory("/C/Windows/Refloat", "test")
    one.write("/C/Windows/Refloat/firstboot.cmd", b"@echo off\r\n", "test")
    one.write("/C/Windows/System32/drivers/viostor.sys", b"MZ", "test")
    prove(tree, one.changes())
    assert dict(tree.meta("/C/Windows/Refloat").xattrs)[NTFS_ACL] == descriptor(True)
    # As it was before: for everyone.
    everyone = dict(tree.meta("/C/Windows").xattrs)[NTFS_ACL]
    os.setxattr(tmp_path / "mnt/C/Windows/Refloat/firstboot.cmd", NTFS_ACL, everyone)
    with pytest.raises(Failed, match=r"not protected as they must be: .*firstboot\.cmd \(") as caught:
        prove(tree, one.changes())
    assert caught.value.code == "guest_acl"


def test_what_is_replaced_keeps_its_protection_and_its_attributes(tree: Tree, tmp_path: Path) -> None:
    where = tmp_path / f"mnt{HIVE}"
    own, hidden_system_archive = descriptor(True), struct.pack("<I", 0x26)
    os.setxattr(where, NTFS_ACL, own)
    os.setxattr(where, NTFS_ATTRIBUTES, hidden_system_archive)
    before, content = dict(tree.meta(HIVE).xattrs), where.read_bytes()
    one = journal(tree, tmp_path)
    one.write(HIVE, content + b"\0", "test", expect=content, limit=1 << 30)
    assert dict(tree.meta(HIVE).xattrs) == before
    assert before == {NTFS_ACL: own, NTFS_ATTRIBUTES: hidden_system_archive}
    assert undo.undo(tree, one) == (HIVE,)
    assert dict(tree.meta(HIVE).xattrs) == before and where.read_bytes() == content


def test_undo_leaves_nothing_of_what_was_new(tree: Tree, tmp_path: Path) -> None:
    one = journal(tree, tmp_path)
    one.directory("/C/Windows/Refloat", "test")
    one.write("/C/Windows/Refloat/firstboot.cmd", b"@echo off\r\n", "test")
    undo.undo(tree, one)
    assert not tree.exists("/C/Windows/Refloat")


def test_a_name_in_another_case_is_the_same_file(tree: Tree, tmp_path: Path) -> None:
    assert paths.find(tree, "/c/WINDOWS/system32/CONFIG/system") == HIVE
    assert paths.find(tree, "/C/Windows/nothing/there") is None
    assert paths.spelled(tree, "/C/windows/refloat/x") == "/C/Windows/refloat/x"
    with pytest.raises(Conflict, match=r"/C/Windows/System32/drivers/ntfs\.sys, which Windows takes for"):
        journal(tree, tmp_path).write("/C/Windows/System32/drivers/NTFS.SYS", b"MZ", "test")
    (tmp_path / "mnt/C/Windows/SYSTEM32").mkdir()
    with pytest.raises(paths.Ambiguous, match="SYSTEM32 and System32"):
        paths.find(tree, HIVE)


@pytest.mark.parametrize(
    "path",
    [
        "/C/Windows/System32/config/SAM",
        "/C/windows/system32/CONFIG/security",
        "/C/Users/Public/desktop.ini",
        "/C/Program Files/Application/data.bin",
        "/C/Windows/System32/winload.exe",
        "/C/Windows/System32/drivers/etc/hosts",
        "/C/Windows/NTDS/ntds.dit",
        "/C/hiberfil.sys",
        "/ESP/EFI/Microsoft/Boot/bootmgfw.efi",
        "/ESP/EFI/Boot/other.efi",
    ],
)
def test_what_is_out_of_bounds_is_never_written(path: str) -> None:
    with pytest.raises(BoundaryViolation):
        WINDOWS.check(path)
