"""Whole guests' boot loaders: what is found in realistic trees, and what is changed (golden)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from refloat.guest.families import FAMILIES, Family
from refloat.guest.journal import Journal
from refloat.guest.linux import boot
from refloat.guest.linux.boot import Booting
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.notes import Notes
from refloat.guest.tree import GuestFileError, Tree
from refloat.model import (
    AdaptRequest,
    ChangeKind,
    DiskBus,
    Firmware,
    GuestFacts,
    GuestFilesystem,
    NicModel,
    PlannedDisk,
    Secrets,
)
from tests.unit.guest.guests import DATA_UUID, GOLDEN, ROOT_UUID, SWAP_UUID, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="new files in a guest belong to root")

ORDER = ("disk-a", "disk-b")
BYPATH = "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part3"
BIOS, UEFI = Firmware.BIOS, Firmware.UEFI


@dataclass(frozen=True)
class Case:
    name: str
    family: str
    firmwares: tuple[Firmware, ...]
    loader: str
    esp: str = ""


CASES = (
    Case("debian12-bios", "debian", (BIOS,), "grub2"),
    Case("debian12-uefi", "debian", (UEFI,), "grub2", "/boot/efi"),
    Case("rhel7-bios", "redhat", (BIOS,), "grub2"),
    Case("rhel8-bios", "redhat", (BIOS,), "grub2"),
    Case("rhel8-uefi", "redhat", (UEFI,), "grub2", "/boot/efi"),
    Case("rhel9-uefi", "redhat", (UEFI,), "grub2", "/boot/efi"),
    Case("sles15-uefi", "suse", (UEFI,), "grub2", "/boot/efi"),
    Case("arch-systemd-boot", "arch", (UEFI,), "systemd-boot", "/boot"),
    Case("arch-grub", "arch", (UEFI,), "grub2", "/efi"),
    Case("alpine-bios", "alpine", (BIOS,), "extlinux"),
    Case("rhel6-legacy", "redhat", (BIOS,), "grub-legacy"),
)


def filesystems(esp: str = "") -> tuple[GuestFilesystem, ...]:
    return (
        GuestFilesystem("disk-a", 1, "vfat", "ABCD-EF01", mountpoint=esp),
        GuestFilesystem("disk-a", 2, "ext4", ROOT_UUID, mountpoint="/"),
        GuestFilesystem("disk-a", 3, "swap", SWAP_UUID),
        GuestFilesystem("disk-b", 1, "ext4", DATA_UUID),
    )


def family(name: str) -> Family:
    return next(row for row in FAMILIES if row.name == name)


def look(tree: Tree, case: Case) -> tuple[Booting, Notes]:
    notes = Notes()
    names = DeviceNames(ORDER, filesystems(case.esp))
    found = boot.look(tree, family(case.family), "x86_64", filesystems(case.esp), names, notes)
    return found, notes


def change(
    tree: Tree, journal: Journal, case: Case, *, console: bool = False, bus: DiskBus = DiskBus.VIRTIO_BLK
) -> None:
    names = DeviceNames(ORDER, filesystems(case.esp))
    request = AdaptRequest(
        job="job-7",
        disks=tuple(PlannedDisk(key, key, key, 1) for key in ORDER),
        disk_bus=bus,
        nic_model=NicModel.VIRTIO,
        nics=(),
        secrets=Secrets("t", "n"),
        channel="",
        report_deadline=1,
        serial_console=console,
    )
    found, _ = look(tree, case)
    boot.change(tree, journal, family(case.family), request, facts(case, found), names, lambda *_: None)


def facts(case: Case, found: Booting) -> GuestFacts:
    return GuestFacts(
        family=case.family, os_id="", os_name="", os_version="", architecture="x86_64", hostname="",
        firmware=found.firmware, bootloader=found.loader, initramfs_tool="", network_stack="",
        root=filesystems()[1], filesystems=filesystems(case.esp), kernels=(), nics=(),
        firmwares=found.firmwares,
    )  # fmt: skip


def guest(root: Path, name: str) -> Path:
    shutil.copytree(GOLDEN / f"boot-{name}" / "tree", root, symlinks=True)
    for path in root.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return root


def told(notes: Notes) -> str:
    rows = (("unstable", notes.unstable), ("problem", notes.problems), ("warning", notes.warnings))
    return "".join(f"{kind}: {one}\n" for kind, lines in rows for one in lines)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Case, tmp_path: Path) -> None:
    root = guest(tmp_path / "guest", case.name)
    before = snapshot(root)
    with Tree(root) as tree:
        found, notes = look(tree, case)
        journal = Journal(tmp_path / "run", tree)
        change(tree, journal, case, console=True)
        text = told(notes) + _as_text(journal)
        after = snapshot(root)
        again = Journal(tmp_path / "again", tree)
        change(tree, again, case, console=True)
        assert again.changes() == ()
        assert look(tree, case)[1].unstable == []
    golden = GOLDEN / f"boot-{case.name}" / "changes.txt"
    if os.environ.get("REFLOAT_GOLDEN") == "write":
        golden.write_text(text)
    assert (found.firmwares, found.loader, notes.problems) == (case.firmwares, case.loader, [])
    assert text == golden.read_text()
    assert {name for name in after if before.get(name) != after[name]} == {
        one.path for one in journal.changes()
    }


def _as_text(journal: Journal) -> str:
    parts = []
    for one in journal.changes():
        head = f"== {one.kind.value} {one.path} {one.after.mode:o}\n{one.reason}\n"
        parts.append(head + (one.diff or f"{one.after.size} bytes\n" * (one.kind is ChangeKind.FILE)))
    return "".join(parts)


def test_console_that_is_not_asked_for_is_not_added(tmp_path: Path) -> None:
    for case in CASES:
        root = guest(tmp_path / case.name, case.name)
        with Tree(root) as tree:
            journal = Journal(tmp_path / f"run-{case.name}", tree)
            change(tree, journal, case)
            added = "".join(one.diff for one in journal.changes())
        lines = [line for line in added.split("\n") if line.startswith("+")]
        assert not any("ttyS0" in line for line in lines if "memtest" not in line), case.name


def test_environment_block_keeps_its_size(tmp_path: Path) -> None:
    root = guest(tmp_path / "guest", "rhel8-bios")
    with Tree(root) as tree:
        change(tree, Journal(tmp_path / "run", tree), CASES[3], console=True)
    content = (root / "boot/grub2/grubenv").read_bytes()
    assert len(content) == 1024
    assert f"kernelopts=root=UUID={ROOT_UUID} ro".encode() in content


# ---------------------------------------------------------------- problems and evidence


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())


CFG = "menuentry x {\n linux /vmlinuz root=%s\n initrd /initrd.img\n}\n"


@pytest.mark.parametrize(
    ("files", "esp", "problem"),
    [
        ({"etc/motd": ""}, "", "no boot loader was found"),
        ({"boot/grub/grub.cfg": "set default=0\n"}, "", "no file of grub2 starts a kernel"),
        ({"boot/grub/grub.cfg": CFG % "/dev/sdq1"}, "", "grub.cfg:2: root=/dev/sdq1: /dev/sdq1 is on none"),
        ({"boot/grub/grub.cfg": CFG % BYPATH}, "", "depends on the virtual hardware"),
        ({"boot/grub/grub.cfg": CFG % "x rootflags=device=/dev/sda2"}, "", "cannot name it otherwise"),
        ({"boot/grub/grub.cfg": "linux /vmlinuz root=/dev/sda2\n"}, "", "no UUID and no PARTUUID"),
        ({"boot/grub/grub.cfg": CFG % "x", "boot/grub/grubenv": "# GRUB\nkernelopts=root=/dev/sda2\n#"}, "",
         "the environment block has"),
        ({"boot/grub/grub.cfg": CFG % "x", "boot/efi/EFI/a/grubx64.efi": "1",
          "boot/efi/EFI/b/grubx64.efi": "2"}, "/boot/efi", "which of them boots is not certain (a, b)"),
        ({"boot/grub/grub.cfg": CFG % "x", "boot/efi/EFI/a/other.efi": "1"}, "/boot/efi",
         "nothing there could be started"),
        ({"boot/grub/grub.cfg": CFG % "x", "boot/efi/EFI/a/x": "1"}, "/boot/efi", "holds no EFI program"),
    ],
)  # fmt: skip
def test_problems(files: dict[str, str | bytes], esp: str, problem: str, tmp_path: Path) -> None:
    write(tmp_path, files)
    with Tree(tmp_path) as tree:
        _, notes = look(tree, Case("x", "debian", (), "", esp))
    assert any(problem in one for one in notes.problems), notes.problems


def test_resume_device_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, {"boot/grub/grub.cfg": CFG % "x resume=/dev/sdz9 disk=/dev/sda1"})
    with Tree(tmp_path) as tree:
        _, notes = look(tree, CASES[0])
    assert notes.problems == []
    assert "resume=/dev/sdz9" in notes.warnings[0]
    assert "it is left alone" in notes.warnings[1]


def test_image_for_both_firmwares_needs_no_fallback(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "boot/grub/grub.cfg": CFG % "x",
        "boot/grub/i386-pc/core.img": "1",
        "boot/efi/EFI/a/other.efi": "1",
    }
    write(tmp_path, files)
    with Tree(tmp_path) as tree:
        found, notes = look(tree, CASES[1])
    assert found.firmwares == (UEFI, BIOS)
    assert notes.problems == []
    assert any("blank NVRAM" in one for one in notes.warnings)


def test_menu_of_a_loader_that_is_gone_is_left_alone(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "boot/grub/grub.cfg": CFG % "x",
        "boot/grub/menu.lst": "kernel /v root=/dev/sdz1\n",
    }
    write(tmp_path, files)
    with Tree(tmp_path) as tree:
        found, notes = look(tree, CASES[0])
        assert found.loader == "grub2"
        assert notes.problems == []
        (tmp_path / "boot/grub/grub.cfg").unlink()
        assert look(tree, CASES[0])[0].loader == "grub-legacy"


def test_several_loaders_are_all_kept_right(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "boot/grub/grub.cfg": CFG % "/dev/sda2",
        "boot/extlinux/extlinux.conf": "LABEL a\nKERNEL /v\nINITRD /i\nAPPEND root=/dev/sda2\n",
        "boot/loader/entries/a.conf": "linux /v\ninitrd /i\noptions root=/dev/sda2\n",
    }
    write(tmp_path, files)
    with Tree(tmp_path) as tree:
        assert look(tree, CASES[0])[0].loader == "grub2, extlinux"
        change(tree, Journal(tmp_path.parent / "run", tree), CASES[0])
    for path in files:
        assert f"root=UUID={ROOT_UUID}" in (tmp_path / path).read_text()


def test_full_esp_is_found_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = guest(tmp_path / "guest", "debian12-uefi")
    with Tree(root) as tree:
        monkeypatch.setattr(tree, "free_space", lambda path: 1000)
        _, notes = look(tree, CASES[1])
    assert any("/boot/efi has 1000 bytes free" in one for one in notes.problems)


def test_far_too_many_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {f"boot/loader/entries/{number}.conf": "" for number in range(501)})
    with Tree(tmp_path) as tree, pytest.raises(GuestFileError, match="more than 500"):
        look(tree, CASES[0])


@pytest.mark.parametrize(
    ("bus", "names"),
    [
        (DiskBus.VIRTIO_BLK, ("/dev/vda", "/dev/vdb")),
        (DiskBus.NVME, ("/dev/nvme0n1", "/dev/nvme1n1")),
        (DiskBus.SATA, ("/dev/sda", "/dev/sdb")),
    ],
)
def test_device_map_names_the_disks_of_the_bus(bus: DiskBus, names: Sequence[str], tmp_path: Path) -> None:
    root = guest(tmp_path / "guest", "rhel6-legacy")
    with Tree(root) as tree:
        change(tree, Journal(tmp_path / "run", tree), CASES[-1], bus=bus)
    lines = (root / "boot/grub/device.map").read_text().split("\n")
    assert [line.split()[1] for line in lines[1:3]] == list(names)
