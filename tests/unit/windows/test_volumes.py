"""Which volumes are Windows', and which guests are refused for what is on their disks."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from refloat.errors import Refused
from refloat.guest.disk import CannotMount, mounted_system
from refloat.guest.probe import Found
from refloat.guest.root import find_root
from refloat.guest.windows.volumes import WindowsRoot, check_closed, with_mounts
from refloat.model import Firmware
from tests.windows import disks
from tests.windows.disks import GUESTS, MIB, SERVER, Phony
from tests.windows.host import MtoolsHost
from tests.windows.volumes import volume_of

UEFI = next(one for one in GUESTS if one.firmware is Firmware.UEFI)
HOST = MtoolsHost()


def placed(mountpoint: Path, **images: Path) -> dict[str, Found]:
    """Mount point -> volume."""
    with HOST.opened({key: str(image) for key, image in images.items()}) as volumes:
        root = find_root(volumes, list(images), mountpoint, HOST)
        assert isinstance(root, WindowsRoot)
        found = with_mounts(root, volumes.found, mountpoint, HOST)
    return {one.filesystem.mountpoint: one for one in found if one.filesystem.mountpoint}


@pytest.mark.parametrize("one", GUESTS, ids=lambda one: one.name)
def test_each_guest_has_its_volumes_in_their_places(
    one: Phony, disk_of: Callable[[Phony], Path], tmp_path: Path
) -> None:
    image = disk_of(one)
    before = image.read_bytes()
    places = placed(tmp_path / "mnt", sda=image)
    assert places["/C"].filesystem.partition == one.system
    assert set(places) == ({"/C", "/ESP"} if one.firmware is Firmware.UEFI else {"/C"})
    with HOST.mounted_system(list(places.values()), tmp_path / "mnt") as tree:
        assert tree.listdir("/") == sorted(name.lstrip("/") for name in places)
        assert tree.is_file("/C/Windows/System32/config/SYSTEM")
    assert not any((tmp_path / "mnt").iterdir())
    assert image.read_bytes() == before


def test_a_volume_that_cannot_be_mounted_is_said_and_nothing_is_left(
    disk_of: Callable[[Phony], Path], tmp_path: Path
) -> None:
    one = volume_of(SERVER, disk_of(SERVER))
    system = replace(one.found(), filesystem=replace(one.found().filesystem, mountpoint="/C"))
    esp = replace(system, filesystem=replace(system.filesystem, kind="vfat", mountpoint="/ESP"))
    one.write(0, bytes(512))
    with pytest.raises(CannotMount), mounted_system([system, esp], tmp_path / "mnt"):
        pass
    assert not any((tmp_path / "mnt").iterdir())


def refusal(tmp_path: Path, **images: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        placed(tmp_path / "mnt", **images)
    assert caught.value.hint
    return caught.value


def test_two_windows_are_refused(disk_of: Callable[[Phony], Path], tmp_path: Path) -> None:
    first = disk_of(SERVER)
    error = refusal(tmp_path, sda=first, sdb=Path(shutil.copy(first, tmp_path / "b.raw")))
    assert error.code == "guest_root_ambiguous" and "sdb partition 2: ntfs with Windows" in error.message


def test_windows_beside_linux_is_refused(disk_of: Callable[[Phony], Path], tmp_path: Path) -> None:
    linux, root = tmp_path / "linux.raw", tmp_path / "linux"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=debian\n")
    (root / "etc/fstab").write_text("/dev/sdb / ext4 defaults 0 1\n")
    linux.touch()
    subprocess.run(["truncate", "-s", "16M", str(linux)], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(linux)], check=True)
    error = refusal(tmp_path, sda=disk_of(SERVER), sdb=linux)
    assert error.code == "guest_root_ambiguous" and "sdb partition 0: ext4" in error.message


def test_a_dynamic_disk_is_refused(tmp_path: Path) -> None:
    if why := disks.can_be_made():
        pytest.skip(why)
    image = disks.make(SERVER, tmp_path / "dynamic.raw", table="42")
    assert refusal(tmp_path, sda=image).code == "guest_dynamic_disk"


def test_bitlocker_is_refused_with_what_to_do(disk_of: Callable[[Phony], Path], tmp_path: Path) -> None:
    image = disk_of(SERVER)
    volume = volume_of(SERVER, image)
    # The head of an encrypted volume as manage-bde makes it (libbde: "-FVE-FS-" and its own GUID).
    head = bytearray(volume.read(0, 512))
    head[3:11] = b"-FVE-FS-"
    head[160:176] = bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")
    volume.write(0, bytes(head))
    error = refusal(tmp_path, sda=image)
    assert error.code == "guest_bitlocker" and "manage-bde -off" in str(error.hint)


def test_a_second_boot_manager_is_refused(disk_of: Callable[[Phony], Path], tmp_path: Path) -> None:
    """On the same disk: of another installation, or of an older one."""
    image = disk_of(UEFI)
    offset, size = disks.place_of(UEFI, 1)
    esp = image.read_bytes()[offset : offset + size]
    number = len(disks.parts_of(UEFI)) + 1
    end = image.stat().st_size
    with image.open("r+b") as handle:
        handle.truncate(end + size + MIB)
    kind = disks.parts_of(UEFI)[0].type
    disks.run("sfdisk", "-q", "--relocate", "gpt-bak-std", str(image))
    disks.run(
        "sfdisk", "-q", "-a", str(image), text=f"start={end // MIB}MiB, size={size // MIB}MiB, type={kind}"
    )
    with image.open("r+b") as handle:
        handle.seek(end // MIB * MIB)
        handle.write(esp)
    error = refusal(tmp_path, sda=image)
    assert error.code == "guest_root_ambiguous" and f"sda partition {number}: vfat" in error.message


def test_a_volume_that_windows_left_open_is_refused_unless_it_may_be_repaired(
    disk_of: Callable[[Phony], Path], tmp_path: Path
) -> None:
    image = disk_of(SERVER)
    volume_of(SERVER, image).leave_open()
    found = list(placed(tmp_path / "mnt", sda=image).values())
    with pytest.raises(Refused, match="its log holds changes") as caught:
        check_closed(found, HOST, repair=False)
    assert caught.value.code == "guest_dirty" and caught.value.hint
    assert check_closed(found, HOST, repair=True) == found
