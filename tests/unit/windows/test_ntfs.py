"""NTFS as Windows leaves it: read from the device, refused or repaired, never written by a look."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refloat.errors import Refused
from refloat.guest.disk import CannotMount, mounted
from refloat.guest.generation import generation
from refloat.guest.windows.ntfs import NtfsDamaged, NtfsState, is_bitlocker, ntfs_state, run_mark
from refloat.guest.windows.repair import repair
from tests.windows.disks import SERVER, Phony
from tests.windows.volumes import CLEAN, NO_CLIENT, Volume, page, volume_of

OPEN = NtfsState(unclean=True)
CACHED = NtfsState(unclean=True, cached=True)


@pytest.fixture
def volume(disk_of: Callable[[Phony], Path]) -> Volume:
    return volume_of(SERVER, disk_of(SERVER))


@pytest.mark.parametrize(
    ("pages", "state"),
    [
        ((page(client=NO_CLIENT), page(900)), NtfsState()),
        ((page(flags=CLEAN), page(900)), NtfsState()),
        ((page(900, flags=CLEAN), page(1000)), OPEN),  # the newer one counts
        ((page(), page(900, flags=CLEAN)), OPEN),
        ((page(version=(2, 0)), page(900, version=(2, 0))), CACHED),
        ((page(flags=CLEAN, version=(2, 1)), page(900, version=(2, 1))), CACHED),
        ((page()[:2000] + bytes(2096), page(900, flags=CLEAN)), NtfsState()),  # one was half written
        ((page()[:2000] + bytes(2096), page(900)), OPEN),
        ((bytes(4096), bytes(4096)), OPEN),
        ((b"RSTR" + os.urandom(4092), b"RCRD" + os.urandom(4092)), OPEN),
    ],
)
def test_the_log_says_whether_windows_closed_it_and_ntfs_3g_agrees(
    volume: Volume, tmp_path: Path, pages: tuple[bytes, bytes], state: NtfsState
) -> None:
    volume.log(*pages)
    assert ntfs_state(volume.read) == state
    before = volume.image.read_bytes()
    if state.unclean:
        # Not even then is the log thrown away: the mount is refused.
        with pytest.raises(CannotMount), mounted(volume.found(), tmp_path / "mnt", writable=True):
            pass
        assert volume.image.read_bytes() == before
    with mounted(volume.found(), tmp_path / "mnt") as root:
        assert (root / "Windows").is_dir()
    assert volume.image.read_bytes() == before


@pytest.mark.parametrize("version", [(1, 1), (2, 0)])
def test_a_repair_empties_the_log_and_has_windows_check_the_volume(
    volume: Volume, tmp_path: Path, version: tuple[int, int]
) -> None:
    volume.leave_open(version)
    repair(volume.found(), tmp_path / "mnt", session=False)
    assert ntfs_state(volume.read) == NtfsState(marked=True)
    with mounted(volume.found(), tmp_path / "mnt", writable=True) as root:
        (root / "Windows/new").write_bytes(b"new")


@pytest.mark.parametrize("version", [None, (1, 1), (2, 0)])
def test_a_hibernated_volume_is_never_written_until_its_session_is_discarded(
    volume: Volume, tmp_path: Path, version: tuple[int, int] | None
) -> None:
    volume.hibernate()
    if version:
        volume.leave_open(version)
    before = volume.image.read_bytes()
    refused = pytest.raises(CannotMount, match="read-only")
    with refused, mounted(volume.found(), tmp_path / "mnt", writable=True):
        pass
    assert volume.image.read_bytes() == before
    repair(volume.found(), tmp_path / "mnt", session=True)
    with mounted(volume.found(), tmp_path / "mnt", writable=True) as root:
        assert not (root / "hiberfil.sys").exists() and (root / "Windows").is_dir()


def test_the_mark_moves_when_windows_has_run_and_not_by_looking(volume: Volume, tmp_path: Path) -> None:
    with mounted(volume.found(), tmp_path / "mnt", writable=True) as root:
        (root / "Windows/new").write_bytes(b"new")
    mark = generation("ntfs", volume.read)
    with mounted(volume.found(), tmp_path / "mnt"):
        pass
    assert generation("ntfs", volume.read) == mark
    volume.log(page(flags=CLEAN), page(900))  # Windows makes a new log when it mounts the volume
    assert generation("ntfs", volume.read) != mark
    run = generation("ntfs", volume.read)
    volume.log(page(2000, flags=CLEAN), page(1900))
    assert generation("ntfs", volume.read) != run


def test_bitlocker_and_what_is_no_ntfs() -> None:
    boot = bytearray(512)
    boot[3:11] = b"-FVE-FS-"
    assert is_bitlocker(lambda offset, length: bytes(boot[offset : offset + length]))
    with pytest.raises(NtfsDamaged, match="no boot sector"):
        ntfs_state(lambda offset, length: bytes(boot[offset : offset + length]))
    with pytest.raises(ValueError, match="no boot sector"):
        run_mark(lambda offset, length: b"")


@pytest.fixture(scope="module")
def start(originals: Callable[[Phony], Path]) -> tuple[Volume, bytes]:
    return (volume := volume_of(SERVER, originals(SERVER))), volume.read(0, 512)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_hostile_volume_is_refused_or_read_but_nothing_else(
    start: tuple[Volume, bytes], data: st.DataObject
) -> None:
    """Bytes of the boot sector, the records and the log are changed at random."""
    volume, _ = start
    flips = data.draw(
        st.dictionaries(st.integers(0, 10 * 1024 * 4), st.binary(min_size=1, max_size=8), max_size=6)
    )

    def read(offset: int, length: int) -> bytes:
        content = bytearray(volume.read(offset, min(length, 1 << 20)))
        for index, (at, change) in enumerate(flips.items()):
            if index % 2 == 0 or offset < 512:
                place = at % max(len(content), 1)
                content[place : place + len(change)] = change[: max(len(content) - place, 0)]
        return bytes(content)

    try:
        state = ntfs_state(read)
    except Refused:
        return
    assert isinstance(state.describe(), str) and len(run_mark(read)) == 37
