"""Which kernels a guest has, what their initramfs pin to the old hardware, and what outlives an update."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.guest.journal import Journal
from refloat.guest.linux import cpio, installed, persistence
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import DiskBus, GuestKernel
from tests.unit.guest.archives import Image, build, make_kernel_modules
from tests.unit.guest.family_guests import (
    BY_PATH,
    CASES,
    FINISHED,
    FOREVER,
    TWINS,
    adapt,
    facts_with,
    look,
    make,
    unpacked,
)
from tests.unit.guest.guests import request

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="new files in a guest belong to root")


# ---------------------------------------------------------------- what a hostonly archive pins


def test_hostonly_archive_waits_for_nothing_that_never_comes(tmp_path: Path) -> None:
    root = make(tmp_path / "guest", "rhel7")
    notes = Notes()
    with Tree(root) as tree:
        found = look(tree, "rhel7", notes)
        adapt(tree, tmp_path / "run", found)
    members = unpacked(root / "boot" / next(iter(CASES["rhel7"].images)))
    texts = {path: (one.content or b"").decode("latin-1") for path, one in members.items() if one.is_file}
    assert "root=UUID=11111111-1111" in texts["etc/cmdline.d/95root-dev.conf"]
    assert "resume=UUID=33333333-3333" in texts["etc/cmdline.d/95resume.conf"]
    assert texts[f"{FINISHED}/devexists-x.sh"] == "true\n"
    assert "/dev/disk/by-uuid/22222222" in texts[f"{FINISHED}/devexists-y.sh"]
    assert texts[f"{FINISHED}/devexists-z.sh"] == '[ -e "/dev/mapper/vg-root" ]\n'
    assert "JobTimeoutSec=1\nJobRunningTimeoutSec=1" in texts[TWINS[0]]
    assert texts[TWINS[1]] == FOREVER, "what shared an inode with it stays"
    assert "\tuse_devicesfile = 0\n" in texts["etc/lvm/lvmlocal.conf"]
    assert texts["etc/mdadm.conf"].startswith("DEVICE partitions")
    assert any("95root-dev.conf:1 /dev/sda1" in one for one in notes.unstable)
    assert any("does not wait for /dev/disk/by-path" in one for one in notes.warnings)


def appended(root: Path, name: str) -> list[cpio.Member]:
    case = CASES[name]
    path, image = next(iter(case.images.items()))
    old = len(build(image, case.version, case.suffix))
    with (root / "boot" / path).open("rb") as handle:
        items = list(cpio.read(handle, (root / "boot" / path).stat().st_size, lambda one: True, start=old))
    return [item for item in items if isinstance(item, cpio.Member)]


def test_a_file_with_several_names_is_taken_out_of_their_company_first(tmp_path: Path) -> None:
    root = make(tmp_path / "guest", "rhel7")
    with Tree(root) as tree:
        adapt(tree, tmp_path / "run", look(tree, "rhel7", Notes()))
    kinds = [member.is_symlink for member in appended(root, "rhel7") if member.name == TWINS[0]]
    assert kinds == [True, False], "a kernel removes the name for the symlink, and that for the file"


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("etc/cmdline.d/95root-dev.conf", " root=/dev/sdz1\n", "95root-dev.conf:1: /dev/sdz1 is on none"),
        ("etc/crypttab", f"luks {BY_PATH} none\n", "etc/crypttab:1: /dev/disk/by-path"),
        (
            "etc/lvm/lvm.conf",
            'devices {\n filter = [ "a|/dev/sda2|", "r|.*|" ]\n}\n',
            "lvm.conf:2: filter accepts disks by names",
        ),
        ("etc/mdadm.conf", "ARRAY /dev/md0 devices=/dev/sda1,/dev/sdb1\n", "etc/mdadm.conf:1"),
    ],
)
def test_what_cannot_be_mended_is_a_problem(tmp_path: Path, path: str, text: str, problem: str) -> None:
    root = make(tmp_path / "guest", "rhel9")
    case = CASES["rhel9"]
    image = Image("dracut", "gzip", files={path: text})
    (root / "boot" / next(iter(case.images))).write_bytes(build(image, case.version, case.suffix))
    notes = Notes()
    with Tree(root) as tree:
        look(tree, "rhel9", notes)
    assert any(problem in one for one in notes.problems), notes.problems


def test_resume_from_a_device_that_nobody_knows_is_dropped(tmp_path: Path) -> None:
    root = make(tmp_path / "guest", "rhel9")
    case = CASES["rhel9"]
    image = Image("dracut", "gzip", files={"etc/cmdline.d/95resume.conf": f" resume={BY_PATH} quiet\n"})
    (root / "boot" / next(iter(case.images))).write_bytes(build(image, case.version, case.suffix))
    notes = Notes()
    with Tree(root) as tree:
        adapt(tree, tmp_path / "run", look(tree, "rhel9", notes))
    member = unpacked(root / "boot" / next(iter(case.images)))["etc/cmdline.d/95resume.conf"]
    assert (member.content, notes.problems) == (b"  quiet\n", [])
    assert len(notes.warnings) == 1


# ---------------------------------------------------------------- which kernels there are


@pytest.fixture
def rhel(tmp_path: Path) -> Iterator[tuple[Path, Tree]]:
    root = make(tmp_path / "guest", "rhel8")
    with Tree(root) as tree:
        yield root, tree


def add_kernel(root: Path, version: str, image: bytes, suffix: str = ".ko.xz") -> None:
    make_kernel_modules(root / "lib/modules" / version, suffix)
    (root / f"boot/vmlinuz-{version}").write_bytes(b"x")
    if image:
        (root / f"boot/initramfs-{version}.img").write_bytes(image)


def test_older_kernel_that_cannot_be_adapted_is_a_warning(rhel: tuple[Path, Tree]) -> None:
    root, tree = rhel
    add_kernel(root, "4.9.0-1.el8.x86_64", b"garbage")
    notes = Notes()
    assert len(look(tree, "rhel8", notes)) == 1
    assert notes.problems == []
    assert "append is impossible for this format" in notes.warnings[0]
    assert "dracut --force --kver 4.9.0-1.el8.x86_64" in notes.warnings[0]


def test_newest_kernel_that_cannot_be_adapted_is_a_problem(rhel: tuple[Path, Tree]) -> None:
    root, tree = rhel
    add_kernel(root, "4.100.0-1.el8.x86_64", b"")
    notes = Notes()
    look(tree, "rhel8", notes)
    assert notes.problems == [
        "kernel 4.100.0-1.el8.x86_64 has no initramfs, and virtio_ring, virtio, virtio_pci, virtio_blk are "
        "not built in"
    ]


def test_kernel_without_the_driver_is_named(rhel: tuple[Path, Tree]) -> None:
    notes = Notes()
    look(rhel[1], "rhel8", notes, DiskBus.NVME)
    assert notes.problems == [
        "/boot/initramfs-4.18.0-513.5.1.el8_9.x86_64.img: kernel 4.18.0-513.5.1.el8_9.x86_64 of the guest "
        "has no module nvme"
    ]


@pytest.mark.parametrize(
    ("root_argument", "problem"),
    [
        ("PARTUUID=0b0b0b0b-01", ""),
        ("/dev/sdb1", ""),
        ("UUID=11111111-1111-4111-8111-111111111111", "finds its root by PARTUUID= alone"),
        ("/dev/sda1", "finds its root by PARTUUID= alone"),
        ("", "no boot entry says where its root is"),
    ],
)
def test_system_without_any_initramfs(rhel: tuple[Path, Tree], root_argument: str, problem: str) -> None:
    root, tree = rhel
    version = CASES["rhel8"].version
    (root / f"boot/initramfs-{version}.img").unlink()
    builtin = root / "lib/modules" / version / "modules.builtin"
    builtin.write_text("".join(f"kernel/x/{name}.ko\n" for name in ("virtio_pci", "virtio_blk")))
    entry = next((root / "boot/loader/entries").iterdir())
    entry.write_text(f"linux /vmlinuz-{version}\noptions {root_argument and f'root={root_argument}'} ro\n")
    notes = Notes()
    found = look(tree, "rhel8", notes)
    if problem:
        assert len(notes.problems) == 1 and problem in notes.problems[0]
    else:
        assert (found, notes.problems) == ((GuestKernel(version, ""),), [])
        assert adapt(tree, root.parent / "run", found).changes() != ()


def test_initramfs_that_can_load_nothing(rhel: tuple[Path, Tree]) -> None:
    root, tree = rhel
    version = CASES["rhel8"].version
    archive = cpio.write([cpio.Member("init", 0o100755, 1, b"x")])
    (root / f"boot/initramfs-{version}.img").write_bytes(archive)
    notes = Notes()
    look(tree, "rhel8", notes)
    assert "has no program that could load a module" in notes.problems[0]


def test_kernels_of_systemd_boot(rhel: tuple[Path, Tree], tmp_path: Path) -> None:
    root, tree = rhel
    case = CASES["rhel8"]
    directory = root / "boot" / ("0123456789abcdef" * 2) / case.version
    directory.mkdir(parents=True)
    (root / "boot" / case.kernel).rename(directory / "linux")
    (root / "boot" / next(iter(case.images))).rename(directory / "initrd")
    notes = Notes()
    found = look(tree, "rhel8", notes)
    assert [kernel.initramfs for kernel in found] == [f"/boot/{'0123456789abcdef' * 2}/{case.version}/initrd"]
    assert adapt(tree, tmp_path / "run", found).changes()


def test_unified_kernel_image_alone_is_refused(rhel: tuple[Path, Tree]) -> None:
    root, tree = rhel
    image = root / "boot/efi/EFI/Linux/fedora.efi"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"MZ")
    notes = Notes()
    look(tree, "rhel8", notes)
    assert notes.problems == [] and "may not be the one that boots" in notes.warnings[-1]
    (root / "boot" / CASES["rhel8"].kernel).unlink()
    look(tree, "rhel8", notes)
    assert notes.problems == [
        "/boot/efi/EFI/Linux/fedora.efi is a unified kernel image, to whose initramfs nothing can be appended"
    ]


def test_package_that_two_kernels_claim_is_left_alone(tmp_path: Path) -> None:
    root = make(tmp_path / "guest", "arch")
    other = root / "lib/modules/6.8.9-arch1-2"
    other.mkdir()
    (other / "pkgbase").write_text("linux\n")
    notes = Notes()
    with Tree(root) as tree:
        assert look(tree, "arch", notes) == ()
    assert "belongs to none of the kernels" in notes.warnings[0]
    assert notes.problems == ["no kernel was found in /boot"]


def test_versions_sort_as_people_read_them() -> None:
    ordered = [
        "4.9.0-1",
        "4.18.0-80.el8",
        "4.18.0-513.el8",
        "5.9.1",
        "5.10.0",
        "6.1.0-9-amd64",
        "6.1.0-18-amd64",
    ]
    assert sorted(set(ordered), key=installed.age) == ordered


# ---------------------------------------------------------------- persistence


def test_preset_that_names_its_configuration_switches_drop_ins_off(tmp_path: Path) -> None:
    root = make(tmp_path / "guest", "arch")
    preset = root / "etc/mkinitcpio.d/linux.preset"
    preset.write_text(preset.read_text().replace("#ALL_config", "ALL_config"))
    with Tree(root) as tree:
        adapt(tree, tmp_path / "run", look(tree, "arch", Notes()))
    assert "\nMODULES=(virtio_pci virtio_blk virtio_net)\n" in (root / "etc/mkinitcpio.conf").read_text()
    assert not (root / "etc/mkinitcpio.conf.d/refloat.conf").exists()


def test_driver_that_one_kernel_does_not_have_is_not_asked_of_dracut(rhel: tuple[Path, Tree]) -> None:
    root, tree = rhel
    found = look(tree, "rhel8", Notes())
    index = root / "lib/modules/3.0-old/modules.dep"
    index.parent.mkdir()
    index.write_text("kernel/a/virtio_pci.ko:\n")
    facts = facts_with((*found, GuestKernel("3.0-old", "")))
    journal = Journal(root.parent / "run", tree)
    persistence.change(tree, journal, facts, request(facts), lambda step, figures: None)
    assert 'add_drivers+=" virtio_pci "' in (root / "etc/dracut.conf.d/refloat.conf").read_text()
