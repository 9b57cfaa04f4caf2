"""The table of mounts, and unmounting: on a table of its own and on real mounts of this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.command import Completed
from refloat.errors import Failed
from refloat.guest import mounts

TABLE = rb"""1 0 0:1 / / rw - ext4 /dev/vda1 rw
2 1 0:2 / /run/mnt ro shared:1 - xfs /dev/dm-0 ro
3 2 0:3 / /run/mnt/boot ro - ext4 /dev/vdb1 ro
4 1 0:4 /@ /run/a\040b\134c rw master:2 - btrfs /dev/vdc1 rw,subvolid=256,subvol=/@\040home
5 1 0:5 / /run/mnt2 ro - ext4 /dev/vdd1 ro
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is run while the table of mounts is the one above."""
    commands: list[str] = []

    def run(argv: Sequence[str], **_: Any) -> Completed:
        commands.append(" ".join(argv))
        return Completed(b"", b"", 0)

    (tmp_path / "table").write_bytes(TABLE)
    monkeypatch.setattr(mounts, "_TABLE", tmp_path / "table")
    monkeypatch.setattr(mounts, "run", run)
    return commands


def test_the_table(ran: list[str]) -> None:
    assert mounts.table()[1] == mounts.Mounted("/run/mnt", "xfs", "/dev/dm-0", "ro")
    strange = mounts.table()[3]
    assert (strange.place, strange.device) == ("/run/a b\\c", "vdc1")
    assert strange.options == "rw,subvolid=256,subvol=/@ home"


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_any_name_is_read_as_it_is(name: bytes) -> None:
    """Also where it holds what Python, but not the kernel, takes for the end of a line."""
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    row = mounts._parsed(b"9 1 0:9 / /" + escaped + b" rw - ext4 /dev/vda rw")
    assert os.fsencode(row.place) == b"/" + name


def test_what_stands_on_a_device_goes_from_the_inside(ran: list[str]) -> None:
    """A plain /boot may be mounted below a root that is a volume."""
    mounts.clear_devices({"dm-0"}.__contains__)
    assert ran == ["umount /run/mnt/boot", "umount /run/mnt"]


def test_a_place_is_cleared_from_the_inside(ran: list[str]) -> None:
    mounts.clear(Path("/run/mnt"))
    mounts.clear(Path("/run/a b\\c"))
    assert ran == ["umount /run/mnt/boot", "umount /run/mnt", "umount /run/a b\\c"]


# ---------------------------------------------------------------- real mounts


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A place to mount at, in a directory whose name needs decoding."""
    where = tmp_path / "a b" / "mnt"
    where.mkdir(parents=True)
    yield where
    while subprocess.run(["umount", "-l", where], capture_output=True).returncode == 0:
        pass


def _tmpfs(where: Path) -> None:
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", where], check=True)


def test_mounts_on_and_below_each_other(place: Path) -> None:
    for where in (place, place, place / "boot"):
        _tmpfs(where)
    mounts.clear(place)
    assert not any(mount.is_within(str(place)) for mount in mounts.table())


def test_a_busy_mount_is_an_error_and_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_PATIENCE", 0.0)
    _tmpfs(place)
    with (place / "file").open("w"), pytest.raises(Failed, match="busy"):
        mounts.unmount(place)
    assert os.path.ismount(place)


def test_a_fuse_mount_whose_server_is_gone(place: Path) -> None:
    """As an appliance that was killed leaves it: nothing can be asked of the place itself."""
    server = os.open("/dev/fuse", os.O_RDWR)
    try:
        options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
        argv = ["mount", "-i", "-t", "fuse", "-o", options, "refloat-test", str(place)]
        subprocess.run(argv, check=True, pass_fds=[server])
    finally:
        os.close(server)
    with pytest.raises(OSError):
        os.listdir(place)
    mounts.clear(place)
    assert os.listdir(place) == []
