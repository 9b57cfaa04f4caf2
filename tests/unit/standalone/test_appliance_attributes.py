"""The program that sets NTFS' own attributes in the appliance, run here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.guest import undo
from refloat.guest.disk import mounted
from refloat.guest.journal import Journal
from refloat.guest.tree import NTFS_ACL, GuestFileError
from refloat.guest.windows.acl import StrictAcl, descriptor, prove
from refloat.guest.windows.boundary import WINDOWS
from refloat.standalone.appliance_attributes import PLACE, ApplianceTree, program
from tests.windows import disks
from tests.windows.disks import SERVER
from tests.windows.volumes import volume_of

HIVE = "/C/Windows/System32/config/SYSTEM"

pytestmark = pytest.mark.skipif(
    bool(disks.can_be_made()) or not shutil.which("setfattr"), reason="needs root, FUSE, ntfs-3g and setfattr"
)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[ApplianceTree]:
    volume = volume_of(SERVER, disks.make(SERVER, tmp_path / "disk.raw"))
    root = tmp_path / "root"
    root.mkdir()
    place = root / PLACE.lstrip("/")
    place.mkdir()
    (place / "program").write_bytes(program(str(root)))
    with mounted(volume.found(), root / "C", writable=True):
        running = subprocess.Popen(["sh", str(place / "program")])
        try:
            with ApplianceTree(root, str(root)) as one:
                yield one
            # It ends by itself, so that nothing keeps the appliance from unmounting.
            assert running.wait(20) == 0
        finally:
            running.kill()
            running.wait()


def test_files_are_protected_and_that_is_read_back(tree: ApplianceTree, tmp_path: Path) -> None:
    one = Journal(tmp_path / "run", tree, WINDOWS, StrictAcl(tree))
    one.directory("/C/Windows/Refloat", "test")
    one.write("/C/Windows/Refloat/it's $(a) name.cmd", b"@echo off\r\n", "test")
    before = tree.meta(HIVE)
    content = tree.read_bytes(HIVE)
    one.write(HIVE, content + b"\0", "test", expect=content)
    prove(tree, one.changes())
    assert dict(tree.meta("/C/Windows/Refloat").xattrs)[NTFS_ACL] == descriptor(True)
    assert tree.meta(HIVE) == before and dict(before.xattrs)[NTFS_ACL] != descriptor(False)
    undo.undo(tree, one)
    assert tree.meta(HIVE) == before and not tree.exists("/C/Windows/Refloat")


def test_what_the_appliance_refuses_is_an_error(tree: ApplianceTree) -> None:
    with pytest.raises(GuestFileError, match=r"out of reach: .*Invalid argument"):
        tree._set_xattr(-1, HIVE, NTFS_ACL, b"no descriptor")
