"""Storage as distributions lay it out: every change to the files that name it, and what is said about it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from refloat.guest.journal import Journal
from refloat.guest.linux import storage
from refloat.guest.notes import Notes
from refloat.guest.probe import Found
from refloat.guest.root import check_entries, device_names, place, read_texts
from refloat.guest.tree import Tree
from refloat.model import DiskBus, GuestFilesystem
from tests.unit.guest.guests import GOLDEN, ORDER, ROOT_UUID

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="new files in a guest belong to root")

_LUKS = "0a1b2c3d-1111-4222-8333-444455556666"
_BOOT = "22222222-2222-4222-8222-222222222222"
_ARRAY = "b5a38bc6-eb0a-1eee-fc1e-3e7e3d0d8b1e"
_ARRAY_ID = "/dev/disk/by-id/md-uuid-b5a38bc6:eb0a1eee:fc1e3e7e:3d0d8b1e"


def part(number: int, kind: str, uuid: str = "", disk: str = "disk-a", label: str = "") -> GuestFilesystem:
    return GuestFilesystem(disk, number, kind, uuid, label, names=(f"PARTUUID={disk[-1]}000-0{number}",))


def volume(name: str, kind: str, uuid: str, number: int, *names: str) -> GuestFilesystem:
    return GuestFilesystem("disk-a", number, kind, uuid, volume=name, names=names)


# case: what is on the disks; the one with ROOT_UUID is the root
CASES = {
    "storage-rhel9-lvm": (
        part(1, "vfat", "7B77-95E7"),
        part(2, "xfs", _BOOT),
        part(3, "LVM2_member", "Vd3DzH-g7B1-eL8c-NyvJ-5Gn4-pC1q-yzv6qQ"),
        volume("/dev/rhel/root", "xfs", ROOT_UUID, 3, "/dev/mapper/rhel-root"),
        volume("/dev/rhel/swap", "swap", "44444444-4444-4444-8444-444444444444", 3, "/dev/mapper/rhel-swap"),
    ),
    "storage-debian-luks": (
        part(1, "ext2", _BOOT),
        part(5, "crypto_LUKS", _LUKS),
        part(1, "", disk="disk-b"),
        volume(f"/dev/mapper/luks-{_LUKS}", "LVM2_member", "x", 5),
        volume("/dev/web-vg/root", "ext4", ROOT_UUID, 5, "/dev/mapper/web--vg-root"),
        volume("/dev/web-vg/swap_1", "swap", "s", 5, "/dev/mapper/web--vg-swap_1"),
    ),
    "storage-debian-raid": (
        part(1, "linux_raid_member", _ARRAY),
        part(1, "linux_raid_member", _ARRAY, "disk-b"),
        volume("/dev/md/0", "ext4", _BOOT, 1, "/dev/md0", _ARRAY_ID),
        part(3, "ext4", ROOT_UUID),
    ),
    "storage-suse-btrfs": (
        part(1, "vfat", "7B77-95E7"),
        part(2, "btrfs", ROOT_UUID),
        part(3, "swap", "33333333-3333-4333-8333-333333333333"),
        part(0, "xfs", "55555555-5555-4555-8555-555555555555", "disk-b", "my data"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, tmp_path: Path) -> None:
    root = tmp_path / "guest"
    shutil.copytree(GOLDEN / case / "tree", root)
    with Tree(root) as tree:
        text = _run(case, tree, tmp_path)
        assert _run(case, tree, tmp_path).count("== ") == text.count("== "), "once"
    golden = GOLDEN / case / "changes.txt"
    if os.environ.get("REFLOAT_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()


def _run(case: str, tree: Tree, tmp_path: Path) -> str:
    found = [Found(one, "/dev/none") for one in CASES[case]]
    at = next(one for one in found if one.filesystem.uuid == ROOT_UUID)
    texts = read_texts(tree)
    placed = place(found, at, texts, ORDER)
    names, notes = device_names(placed, ORDER), Notes()
    here = next(one for one in placed if one.filesystem.mountpoint == "/")
    check_entries(here, storage.parse_fstab(texts.fstab), names, notes)
    storage.look(tree, names, DiskBus.VIRTIO_BLK, notes)
    parts = [
        f"mounted: {mount.point} {one.describe()}\n" for one in placed for mount in one.filesystem.mounts
    ]
    parts += [f"problem: {one}\n" for one in notes.problems]
    parts += [f"warning: {one}\n" for one in notes.warnings]
    journal = Journal(tmp_path / "run", tree)
    if not notes.problems:
        storage.change(tree, journal, names, lambda step, figures: None)
    parts += [f"== {one.path} {one.after.mode:o}\n{one.reason}\n{one.diff}" for one in journal.changes()]
    return "".join(parts)
