"""An EFI system partition that fstab does not name: taken where only one can be meant, else the reason."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from refloat.errors import Refused
from refloat.guest.adapt import adapt
from refloat.guest.disk import SYSTEM_MOUNTS, CannotMount, mounts_of
from refloat.guest.host import KernelHost
from refloat.guest.inspect import inspect
from refloat.guest.linux.boot import esp
from refloat.guest.probe import Found, find_filesystems
from refloat.guest.stack import Volumes
from refloat.guest.tree import Tree
from refloat.guest.unnamed_esp import kept, with_esp
from refloat.model import DiskBus, Firmware, GuestFacts, GuestFilesystem, Mount, NicModel
from tests.unit.guest.guests import ORDER, ROOT_UUID, filesystems, make_guest, request, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: directories are mounted")

FSTAB = f"UUID={ROOT_UUID} / ext4 defaults 0 1\n"
ROOT = GuestFilesystem("disk-a", 2, "ext4", ROOT_UUID, mountpoint="/", mounts=(Mount("/"),))
ESP = GuestFilesystem("disk-a", 1, "vfat", "AAAA-0001", esp=True)
TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"


@dataclass
class DirectoryHost(KernelHost):
    """Directories in place of filesystems: each by its UUID below `base`."""

    base: Path
    found: tuple[Found, ...] = ()

    @contextmanager
    def opened(self, devices: Mapping[str, str], keys: Mapping[str, str] | None = None) -> Iterator[Volumes]:
        yield Volumes(self.found)

    @contextmanager
    def mounted(
        self, found: Found, mountpoint: Path, *, subvolume: str = "", writable: bool = False
    ) -> Iterator[Path]:
        directory = self.base / found.filesystem.uuid
        if not directory.is_dir():
            raise CannotMount(f"cannot mount {found.describe()}")
        yield directory

    @contextmanager
    def mounted_system(
        self, filesystems: Sequence[Found], mountpoint: Path, *, writable: bool = False
    ) -> Iterator[Tree]:
        mountpoint.mkdir(parents=True, exist_ok=True)
        places = {mount.point: one for one in filesystems for mount in mounts_of(one.filesystem)}
        where = self.base / ROOT_UUID
        below = [(point, one) for point, one in sorted(places.items()) if point in SYSTEM_MOUNTS]
        for point, one in below:
            source, target = self.base / one.filesystem.uuid, where / point.lstrip("/")
            subprocess.run(["mount", "--bind", source, target], check=True)
        try:
            with Tree(where) as tree:
                yield tree
        finally:
            for point, _ in reversed(below):
                subprocess.run(["umount", where / point.lstrip("/")], check=True)

    def flush(self, devices: Mapping[str, str]) -> None:
        pass


@pytest.fixture
def host(tmp_path: Path) -> DirectoryHost:
    (tmp_path / ROOT_UUID / "boot/efi").mkdir(parents=True)
    (tmp_path / ESP.uuid / "EFI/debian").mkdir(parents=True)
    return DirectoryHost(tmp_path)


def decided(host: DirectoryHost, *every: GuestFilesystem, fstab: str = FSTAB) -> tuple[dict[str, str], str]:
    """Where the partitions with a place are (UUID -> mount point) besides the root; and what is said."""
    found = tuple(Found(one, "/dev/none") for one in (ROOT, *every))
    after, why = with_esp(found, fstab, host.base / "mnt", host)
    assert [one.filesystem.uuid for one in after] == [one.filesystem.uuid for one in found]
    return {one.filesystem.uuid: one.filesystem.mountpoint for one in after[1:] if one.filesystem.mounts}, why


def test_the_only_one_is_placed_in_the_empty_directory_for_it(host: DirectoryHost) -> None:
    assert decided(host, ESP) == ({ESP.uuid: "/boot/efi"}, "")


@pytest.mark.parametrize(
    ("directories", "point"),
    [
        (("efi", "boot/efi"), "/efi"),  # what systemd prefers
        (("efi/x", "boot/efi"), "/boot/efi"),
        (("boot",), "/boot"),
        (("boot/grub", "efi"), "/efi"),
    ],
)
def test_directories(directories: tuple[str, ...], point: str, host: DirectoryHost) -> None:
    (host.base / ROOT_UUID / "boot/efi").rmdir()
    for name in directories:
        (host.base / ROOT_UUID / name).mkdir(parents=True, exist_ok=True)
    assert decided(host, ESP) == ({ESP.uuid: point}, "")


def test_no_directory_for_it(host: DirectoryHost) -> None:
    root = host.base / ROOT_UUID
    (root / "boot/efi/EFI").mkdir()
    (root / "srv").mkdir()
    (root / "efi").symlink_to("srv")
    placed, why = decided(host, ESP)
    assert not placed
    assert "none of /efi, /boot/efi, /boot is an empty directory" in why


OTHER = replace(ESP, disk="disk-b", partition=9, uuid="BBBB-0002")


@pytest.mark.parametrize(
    ("every", "said"),
    [
        ((), ""),
        ((replace(ESP, esp=False),), ""),  # a vfat of another type may be anything
        (
            (ESP, replace(ESP, partition=3, uuid="CCCC-0003")),
            "there are several: disk-a partition 1: vfat and",
        ),
        ((ESP, OTHER), "several"),
        ((OTHER,), "on another disk than the root"),
        ((replace(ESP, kind="ext4"),), "no firmware reads it"),
        ((replace(ESP, uuid="DDDD-0004"),), "cannot mount"),
        ((replace(ESP, mountpoint="/mnt", mounts=(Mount("/mnt"),)),), "mounts it at /mnt"),
    ],
)
def test_what_is_not_certain_is_left_alone(
    every: tuple[GuestFilesystem, ...], said: str, host: DirectoryHost
) -> None:
    placed, why = decided(host, *every)
    assert "/boot/efi" not in placed.values()
    assert said in why
    assert bool(said) == bool(why)


def test_one_without_loaders_is_left_alone(host: DirectoryHost) -> None:
    (host.base / ESP.uuid / "EFI/debian").rmdir()
    (host.base / ESP.uuid / "EFI").rename(host.base / ESP.uuid / "data")
    assert decided(host, ESP)[1].endswith("holds no directory EFI")


@pytest.mark.parametrize(
    ("fstab", "mounted"),
    [
        (f"{FSTAB}UUID=AAAA-0001 /boot/efi vfat\n", True),
        (f"{FSTAB}UUID=elsewhere /boot/efi vfat nofail\n", False),  # is said by check_entries()
    ],
)
def test_an_fstab_that_names_one_is_obeyed(fstab: str, mounted: bool, host: DirectoryHost) -> None:
    one = replace(ESP, mountpoint="/boot/efi", mounts=(Mount("/boot/efi"),)) if mounted else ESP
    assert decided(host, one, fstab=fstab)[1] == ""
    assert bool(decided(host, one, fstab=fstab)[0]) == mounted


def test_its_place_is_kept_unless_fstab_names_one_by_now(host: DirectoryHost) -> None:
    before = with_esp([Found(one, "/dev/none") for one in (ROOT, ESP)], FSTAB, host.base / "mnt", host)[0]
    bare = (before[0], replace(before[1], filesystem=ESP))
    assert kept(before, bare) == before
    boot = replace(OTHER, esp=False, mountpoint="/efi", mounts=(Mount("/efi"),))
    named = (*bare, Found(boot, "/dev/none"))
    assert kept((*before, Found(replace(boot, mounts=(), mountpoint=""), "/dev/none")), named) == named


# ---------------------------------------------------------------- as a whole


@pytest.fixture
def guest(tmp_path: Path) -> DirectoryHost:
    """A guest without a loader for BIOS, whose fstab does not name its EFI system partition."""
    root = make_guest(tmp_path / ROOT_UUID)
    (root / "boot/efi").mkdir()
    vendor = tmp_path / ESP.uuid / "EFI/debian"
    vendor.mkdir(parents=True)
    for name in ("shimx64.efi", "grubx64.efi"):
        (vendor / name).write_text(name)
    every = (*filesystems(), replace(ESP, partition=15))
    return DirectoryHost(tmp_path, tuple(Found(one, "/dev/none") for one in every))


def looked(guest: DirectoryHost) -> GuestFacts:
    return inspect({}, ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO, host=guest)


def test_a_guest_gets_its_fallback_loader(guest: DirectoryHost, tmp_path: Path) -> None:
    facts = looked(guest)
    assert (facts.problems, facts.firmware) == ((), Firmware.UEFI)
    assert esp.mounted_at(facts.filesystems) == ("/boot/efi",)
    done = adapt(request(facts), {}, facts, tmp_path / "run", lambda step, figures: None, guest)
    loaders = {name for name in snapshot(tmp_path / ESP.uuid) if name.startswith("/EFI/BOOT/")}
    assert loaders == {"/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grubx64.efi"}
    assert {"/boot/efi/EFI/BOOT/BOOTX64.EFI"} <= {change.path for change in done.changes}
    assert "vfat" not in (tmp_path / ROOT_UUID / "etc/fstab").read_text(), "the guest's fstab stays as it is"
    assert looked(guest).problems == ()


def test_a_guest_with_two_is_refused_and_told_why(guest: DirectoryHost, tmp_path: Path) -> None:
    guest.found = (*guest.found, Found(OTHER, "/dev/none"))
    facts = looked(guest)
    assert "no EFI system partition that is certainly its own" in facts.problems[0]
    assert "several" in facts.problems[1]
    with pytest.raises(Refused):
        adapt(request(facts), {}, facts, tmp_path / "run", lambda step, figures: None, guest)


def test_a_guest_that_boots_by_bios_does_without(guest: DirectoryHost) -> None:
    guest.found = (*guest.found, Found(OTHER, "/dev/none"))
    (guest.base / ROOT_UUID / "boot/grub/i386-pc/core.img").write_bytes(b"core")
    facts = looked(guest)
    assert (facts.problems, facts.firmwares) == ((), (Firmware.BIOS,))
    assert "several" in facts.warnings[-1]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (f"label: gpt\n2048,2048,{TYPE}\n4096,2048,L\n", [True, False]),
        ("label: dos\n2048,2048,ef\n4096,2048,L\n", [True, False]),
        ("label: dos\n2048,2048,c\n4096,2048,L\n", [False, False]),
    ],
)
def test_the_partition_table_says_what_is_one(table: str, expected: list[bool], tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    with image.open("wb") as handle:
        handle.truncate(4 * 1024 * 1024)
    subprocess.run(["sfdisk", "-q", image], input=table, text=True, check=True, capture_output=True)
    assert [one.filesystem.esp for one in find_filesystems({"disk-a": str(image)})] == expected
