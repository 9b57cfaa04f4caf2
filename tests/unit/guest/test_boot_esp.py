"""The EFI system partition: what is copied where, and that vfat's peculiarities are known."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.guest import boundary
from refloat.guest.journal import Journal
from refloat.guest.linux.boot import esp, uki
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.tree import Meta, Tree
from refloat.model import GuestFilesystem, Mount
from tests.unit.guest.guests import ORDER, ROOT_UUID, filesystems

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="new files in a guest belong to root")

NAMES = DeviceNames(ORDER, filesystems())
ESP = "/boot/efi"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    (tmp_path / "guest/boot/efi").mkdir(parents=True)
    with Tree(tmp_path / "guest") as opened:
        yield opened


def place(tmp_path: Path, *names: str) -> None:
    """Each program's content is the name of its file in lower case, so that copies are recognised."""
    for name in names:
        path = tmp_path / "guest/boot/efi" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name.lower())


def copied(tree: Tree, vendors: tuple[str, ...] = (), architecture: str = "x86_64") -> list[str]:
    plan = esp.fallback(tree, ESP, vendors, architecture)
    assert not plan.problem
    short = [
        (source.removeprefix(f"{ESP}/EFI/"), target.removeprefix(f"{ESP}/EFI/"))
        for source, target in plan.copies
    ]
    return [f"{source} > {target}" for source, target in short]


SHIM = ("EFI/debian/shimx64.efi", "EFI/debian/grubx64.efi", "EFI/debian/mmx64.efi", "EFI/debian/fbx64.efi")


def test_what_the_firmware_starts_comes_last_and_nothing_writes_boot_entries(
    tree: Tree, tmp_path: Path
) -> None:
    place(tmp_path, *SHIM)
    assert copied(tree) == [
        "debian/grubx64.efi > BOOT/grubx64.efi",
        "debian/mmx64.efi > BOOT/mmx64.efi",
        "debian/shimx64.efi > BOOT/BOOTX64.EFI",
    ]


@pytest.mark.parametrize(
    ("files", "vendors", "copies"),
    [
        (("EFI/x/grubx64.efi",), (), ["x/grubx64.efi > BOOT/BOOTX64.EFI"]),
        (("EFI/x/shimx64.efi", "EFI/y/grubx64.efi"), (), ["y/grubx64.efi > BOOT/BOOTX64.EFI"]),
        (("EFI/GRUB/grubx64.efi", "EFI/other/grubx64.efi"), ("GRUB", "grub"),
         ["GRUB/grubx64.efi > BOOT/BOOTX64.EFI"]),
        (("EFI/systemd/systemd-bootx64.efi",), (), ["systemd/systemd-bootx64.efi > BOOT/BOOTX64.EFI"]),
        (("efi/X/GRUBX64.EFI", "efi/Microsoft/Boot/bootmgfw.efi"), (), ["X/GRUBX64.EFI > BOOT/BOOTX64.EFI"]),
        ((*SHIM, "EFI/other/grubx64.efi"), ("debian",),
         ["debian/grubx64.efi > BOOT/grubx64.efi", "debian/mmx64.efi > BOOT/mmx64.efi",
          "debian/shimx64.efi > BOOT/BOOTX64.EFI"]),
        # Any loader that is there stays: also one that nothing is known of.
        ((*SHIM, "EFI/BOOT/BOOTX64.EFI"), (), []),
        ((*SHIM, "efi/boot/bootx64.efi"), (), []),
    ],
)  # fmt: skip
def test_loaders(
    files: tuple[str, ...], vendors: tuple[str, ...], copies: list[str], tree: Tree, tmp_path: Path
) -> None:
    if files[-1].startswith("efi/boot"):  # one directory on vfat
        files = tuple(name.replace("EFI/", "efi/") for name in files)
    place(tmp_path, *files)
    assert [line.replace("/boot/efi/efi/", "") for line in copied(tree, vendors)] == copies


def test_names_of_another_architecture(tree: Tree, tmp_path: Path) -> None:
    place(tmp_path, "EFI/debian/shimaa64.efi", "EFI/debian/grubaa64.efi")
    assert copied(tree, architecture="aarch64")[-1] == "debian/shimaa64.efi > BOOT/BOOTAA64.EFI"
    assert "not known how UEFI starts riscv" in esp.fallback(tree, ESP, (), "riscv").problem


@pytest.mark.parametrize(("beside", "count"), [("", 2), ("grubx64.efi", 0), ("fbx64.efi", 0)])
def test_shim_alone_gets_what_it_starts(beside: str, count: int, tree: Tree, tmp_path: Path) -> None:
    place(tmp_path, *SHIM, "EFI/BOOT/BOOTX64.EFI", *([f"EFI/BOOT/{beside}"] if beside else []))
    fallback = tmp_path / "guest/boot/efi/EFI/BOOT/BOOTX64.EFI"
    fallback.write_text("shimx64.efi")
    assert len(copied(tree)) == count


def test_copies_are_made_once(tree: Tree, tmp_path: Path) -> None:
    place(tmp_path, *SHIM)
    journal = Journal(tmp_path / "run", tree)
    assert esp.copy(tree, journal, esp.fallback(tree, ESP, (), "x86_64")) == 3
    first = journal.changes()
    assert esp.copy(tree, journal, esp.fallback(tree, ESP, (), "x86_64")) == 0
    assert journal.changes() == first
    assert (tmp_path / "guest/boot/efi/EFI/BOOT/BOOTX64.EFI").read_text() == "shimx64.efi"


def test_kill_between_two_copies_is_made_good(tree: Tree, tmp_path: Path) -> None:
    place(tmp_path, *SHIM)
    plan = esp.fallback(tree, ESP, (), "x86_64")
    esp.copy(tree, Journal(tmp_path / "run", tree), esp.Fallback(plan.copies[:1]))
    rest = esp.fallback(tree, ESP, (), "x86_64")
    assert rest.copies == plan.copies[1:]


def test_mount_points_of_a_vfat() -> None:
    one = GuestFilesystem("a", 1, "vfat", "x", mountpoint="/srv", mounts=(Mount("/efi"),))
    assert esp.mounted_at((one, GuestFilesystem("a", 2, "ext4", "y", mountpoint="/boot/efi"))) == ("/efi",)


@pytest.mark.parametrize("mount", ["/boot/efi", "/efi", "/boot"])
def test_boundary_knows_no_case_on_vfat(mount: str) -> None:
    for name in ("EFI/BOOT/BOOTX64.EFI", "efi/boot/bootx64.efi", "EFI/debian/grub.cfg", "efi/Boot"):
        assert boundary.LINUX.limitation(f"{mount}/{name}") is None, name
    for name in ("EFI/debian/shimx64.efi", "EFI/BOOT/x/y.efi", "EFI/Microsoft/Boot/BCD"):
        assert boundary.LINUX.limitation(f"{mount}/{name}"), name


# ---------------------------------------------------------------- vfat


def test_filesystem_without_attributes_can_be_written(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "listxattr", unsupported)
    monkeypatch.setattr(os, "setxattr", unsupported)
    tree.replace_file("/boot/efi/x", (b"1",), Meta(0o755, xattrs=(("security.selinux", b"label"),)))
    assert tree.meta("/boot/efi/x").xattrs == ()
    monkeypatch.setattr(os, "setxattr", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(Exception, match="full"):
        tree.replace_file("/boot/efi/x", (b"1",), Meta(0o755, xattrs=(("security.selinux", b"label"),)))


# ---------------------------------------------------------------- unified kernel images


def image(arguments: bytes, *, kernel: bool = True) -> bytes:
    sections = [(b".linux", b"kernel")] if kernel else [(b".text", b"code")]
    sections.append((b".cmdline", arguments))
    start, table = 0x80, b""
    offset = start + 24 + 16 + 40 * len(sections)
    body = b""
    for name, content in sections:
        table += struct.pack("<8sIIII16x", name, len(content), 0, len(content), offset + len(body))
        body += content
    header = b"PE\0\0" + struct.pack("<2xH12xH2x", len(sections), 16)
    return (
        b"MZ".ljust(60, b"\0")
        + struct.pack("<I", start)
        + bytes(start - 64)
        + header
        + bytes(16)
        + table
        + body
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (f"root=UUID={ROOT_UUID} rw quiet\0", 0),
        ("root=/dev/sda1 rw\n\0", 1),
        ("root=/dev/mapper/vg-root rd.lvm.lv=vg/root", 0),
        ("root=/dev/sdz1", 1),
        ("", 0),
    ],
)
def test_image_with_a_name_by_bus_is_a_problem(arguments: str, said: int, tree: Tree, tmp_path: Path) -> None:
    path = tmp_path / "guest/boot/efi/a.efi"
    path.write_bytes(image(arguments.encode()))
    text = uki.embedded_arguments(tree, "/boot/efi/a.efi")
    assert text == arguments.rstrip("\0\n")
    assert len(uki.problems(text, "/boot/efi/a.efi", NAMES)) == said


def test_program_without_a_kernel_is_none(tree: Tree, tmp_path: Path) -> None:
    path = tmp_path / "guest/boot/efi/a.efi"
    path.write_bytes(image(b"root=/dev/sda1", kernel=False))
    assert uki.embedded_arguments(tree, "/boot/efi/a.efi") is None


@given(st.binary(max_size=300), st.booleans(), st.integers(0, 400))
def test_broken_image_is_no_image(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, whole: bool, cut: int
) -> None:
    root = tmp_path_factory.mktemp("guest")
    (root / "a").write_bytes(image(content)[:cut] if whole else b"MZ" + content)
    with Tree(root) as tree:
        text = uki.embedded_arguments(tree, "/a")
    assert text is None or len(text) <= len(content)
