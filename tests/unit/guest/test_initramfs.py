"""Reading every form of initramfs, appending to it, and refusing what is broken or made to hurt."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.errors import Failed
from refloat.guest.linux import compression, cpio, initramfs
from refloat.guest.linux.compression import BrokenInitramfs
from refloat.guest.linux.contents import Contents, scan
from refloat.guest.linux.edits import Edit, Rewritten
from refloat.guest.linux.modules import KernelModules, ModuleMissing
from refloat.guest.tree import Tree
from tests.unit.guest.guests import KERNEL, directory, file, main_archive, make_guest, pack_initramfs

NEEDED = ("virtio_pci", "virtio_blk", "virtio_net")
PROGRAMS = {"zstd": "zstd", "lz4": "lz4", "lzo": "lzop", "xz": "xz", "lzma": "xz", "bzip2": "bzip2"}
FORMATS = ["none", "gzip", "zstd", "xz", "lzma", "bzip2", "lz4", "lzo"]


def need_program(how: str) -> None:
    program = PROGRAMS.get(how)
    if program and not shutil.which(program):
        pytest.skip(f"{program} is not installed")


def read(data: bytes, tmp_path: Path) -> tuple[list[cpio.Member], list[cpio.Segment]]:
    path = tmp_path / "image"
    path.write_bytes(data)
    with path.open("rb") as handle:
        items = list(cpio.read(handle, len(data), lambda member: member.is_file))
    return (
        [item for item in items if isinstance(item, cpio.Member)],
        [item for item in items if isinstance(item, cpio.Segment)],
    )


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Tree]:
    with Tree(make_guest(tmp_path / "guest")) as tree:
        yield tree


def append(tree: Tree, path: str) -> initramfs.Addition | None:
    with tree.open(path) as fd:
        return initramfs.addition(fd, KernelModules(tree, KERNEL), needed=NEEDED, force=NEEDED[:2])


@pytest.mark.parametrize("how", FORMATS)
def test_append_behind_every_format(tmp_path: Path, guest: Tree, how: str) -> None:
    need_program(how)
    path = f"/boot/initrd.img-{KERNEL}"
    main = pack_initramfs(main_archive(), how)
    (tmp_path / "guest/boot" / f"initrd.img-{KERNEL}").write_bytes(main)
    added = append(guest, path)
    assert added is not None
    whole = main + added.tail
    (tmp_path / "guest/boot" / f"initrd.img-{KERNEL}").write_bytes(whole)

    members, segments = read(whole, tmp_path)
    names = [member.name for member in members]
    for name in NEEDED:
        assert any(one.startswith("usr/lib/modules/") and one.endswith(f"/{name}.ko") for one in names)
    if how == "lz4":
        assert [segment.kind for segment in segments] == ["lz4"], "a kernel reads one stream"
    else:
        assert segments[-1].kind == "cpio"
        assert segments[-1].start % 4 == 0
    assert append(guest, path) is None, "appending a second time adds nothing"


def test_no_directory_and_no_symlink_comes_twice(tmp_path: Path, guest: Tree) -> None:
    added = append(guest, f"/boot/initrd.img-{KERNEL}")
    assert added is not None
    old, _ = read(main_archive(), tmp_path)
    new, _ = read(added.tail.lstrip(b"\0"), tmp_path)
    before = {member.name for member in old if not member.is_file}
    assert not before & {member.name for member in new}
    assert not any(member.name.split("/")[0] == "lib" for member in new)


def test_index_covers_old_and_new_modules(tmp_path: Path, guest: Tree) -> None:
    added = append(guest, f"/boot/initrd.img-{KERNEL}")
    assert added is not None
    members, _ = read(added.tail.lstrip(b"\0"), tmp_path)
    contents = {member.name.rpartition("/")[2]: member.content or b"" for member in members}
    for name in (b"vmw_pvscsi.ko", b"sd_mod.ko", b"virtio_blk.ko", b"net-failover.ko"):
        assert name in contents["modules.dep"]
    assert b"virtio:d00000002v* virtio_blk" in contents["modules.alias"]
    assert b"vmw_pvscsi" in contents["modules.alias"], "what worked before still does"
    assert contents["modules"] == b"vmw_pvscsi\nsd_mod\nvirtio_pci\nvirtio_blk\n"
    assert "modules.dep.bin" in contents and "modules.builtin.bin" not in contents


def test_same_input_same_bytes(guest: Tree) -> None:
    first, second = (append(guest, f"/boot/initrd.img-{KERNEL}") for _ in range(2))
    assert first is not None and second is not None
    assert first.tail == second.tail


def test_resume_device_inside_is_mended(tmp_path: Path, guest: Tree) -> None:
    mended = {"conf/conf.d/resume": Rewritten("RESUME=UUID=x\n", (Edit(1, "/dev/sda5", "UUID=x"),))}
    with guest.open(f"/boot/initrd.img-{KERNEL}") as fd:
        added = initramfs.addition(fd, KernelModules(guest, KERNEL), needed=(), mend=lambda configs: mended)
    assert added is not None
    members, _ = read(added.tail.lstrip(b"\0"), tmp_path)
    assert [(one.name, one.content) for one in members if one.name.endswith("resume")] == [
        ("conf/conf.d/resume", b"RESUME=UUID=x\n")
    ]


def test_builtin_modules_are_not_missing(tmp_path: Path, guest: Tree) -> None:
    builtin = tmp_path / "guest/usr/lib/modules" / KERNEL / "modules.builtin"
    builtin.write_text("kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/block/virtio_blk.ko\n")
    modules = KernelModules(guest, KERNEL)
    assert modules.closure(["virtio_pci", "virtio_blk"]) == ()
    assert append(guest, f"/boot/initrd.img-{KERNEL}") is not None, "virtio_net is still needed"


def test_module_that_the_kernel_never_had(guest: Tree) -> None:
    with pytest.raises(ModuleMissing, match="no module xen_blkfront"):
        KernelModules(guest, KERNEL).closure(["xen_blkfront"])


def test_module_index_cannot_name_files_elsewhere(tmp_path: Path, guest: Tree) -> None:
    index = tmp_path / "guest/usr/lib/modules" / KERNEL / "modules.dep"
    index.write_text("../../../../../etc/virtio_blk.ko:\n/etc/virtio_pci.ko:\nkernel/a.ko: kernel/a.ko\n")
    modules = KernelModules(guest, KERNEL)
    assert not modules.has("virtio_blk") and not modules.has("virtio_pci")
    assert modules.closure(["a"]) == ("a",), "a circle ends"


def test_archive_cannot_unpack_outside_of_the_workspace(tmp_path: Path) -> None:
    evil = f"usr/lib/modules/{KERNEL}/../../../../../../../../../..{tmp_path}/evil/x.ko"
    archive = cpio.write([file(evil, b"x"), file("init", b"x")])
    (tmp_path / "i").write_bytes(archive)
    (tmp_path / "evil").mkdir()
    fd = os.open(tmp_path / "i", os.O_RDONLY)
    scan(fd, KERNEL, initramfs.wanted, tmp_path / "spool")
    os.close(fd)
    assert not list((tmp_path / "evil").iterdir())


def test_early_microcode_then_compressed(tmp_path: Path) -> None:
    early = cpio.write([directory("kernel"), file("kernel/x86.bin", b"x" * 1001)])
    padded = early + bytes(-len(early) % 512)
    members, segments = read(padded + gzip.compress(main_archive()), tmp_path)
    assert [segment.kind for segment in segments] == ["cpio", "gzip"]
    assert "kernel/x86.bin" in [member.name for member in members]


@pytest.mark.parametrize("how", FORMATS)
def test_cut_short_anywhere_is_broken(tmp_path: Path, how: str) -> None:
    need_program(how)
    whole = pack_initramfs(main_archive(), how)
    for cut in (7, len(whole) // 3, len(whole) // 2, len(whole) - (150 if how == "none" else 5)):
        with pytest.raises(BrokenInitramfs):
            read(whole[:cut], tmp_path)


@pytest.mark.parametrize("how", ["gzip", "zstd", "xz", "bzip2"])
def test_flipped_bytes_are_broken_or_another_archive(tmp_path: Path, how: str) -> None:
    need_program(how)
    whole = bytearray(pack_initramfs(main_archive(), how))
    for position in range(12, len(whole), max(1, len(whole) // 25)):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        try:
            read(bytes(damaged), tmp_path)
        except BrokenInitramfs:
            continue


@pytest.mark.parametrize(
    "data", [b"", b"garbage" * 100, b"070701" + b"Z" * 104, b"070701" + b"0" * 200, bytes(4096)]
)
def test_no_initramfs_at_all(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "i").write_bytes(data)
    fd = os.open(tmp_path / "i", os.O_RDONLY)
    with pytest.raises(BrokenInitramfs):
        scan(fd, KERNEL, initramfs.wanted)
    os.close(fd)


def test_unaligned_archive_is_what_a_kernel_refuses(tmp_path: Path) -> None:
    main = gzip.compress(main_archive())
    with pytest.raises(BrokenInitramfs, match="aligned"):
        read(main + bytes(-len(main) % 4 + 1) + main_archive(), tmp_path)


def test_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio, "UNPACKED_LIMIT", 8 * 1024 * 1024)
    bomb = cpio.write([file("zeros", bytes(16 * 1024 * 1024))])
    for packed in (gzip.compress(bomb), pack_initramfs(bomb, "zstd")):
        with pytest.raises(BrokenInitramfs, match="unpacks to more"):
            read(packed, tmp_path)


def test_symlinks_in_a_circle(tmp_path: Path) -> None:
    contents = Contents(KERNEL, symlinks={"lib": "usr", "usr": "lib"})
    with pytest.raises(BrokenInitramfs, match="circle"):
        contents.resolve("lib/modules")


def test_stream_reads_exact_amounts() -> None:
    def chunks() -> compression.Chunks:
        yield b"abc"
        yield b"defg"
        return 42

    stream = compression.Stream(chunks(), 100)
    assert (stream.read(2), stream.peek(4), stream.read(4), stream.read(9)) == (b"ab", b"c", b"cdef", b"g")
    assert (stream.position, stream.end) == (7, 42)


def test_missing_program_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_initramfs(main_archive(), "zstd")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failed, match="program not found: zstd"):
        read(packed, tmp_path)


def test_what_is_written_is_what_cpio_reads(tmp_path: Path) -> None:
    if not shutil.which("cpio"):
        pytest.skip("cpio is not installed")
    done = subprocess.run(["cpio", "-t", "--quiet"], input=main_archive(), stdout=subprocess.PIPE, check=True)
    members, _ = read(main_archive(), tmp_path)
    assert done.stdout.decode().split() == [member.name for member in members]


def test_reader_takes_a_handle_without_descriptor() -> None:
    data = gzip.compress(main_archive())
    items = list(cpio.read(io.BytesIO(data), len(data), lambda member: False))
    assert isinstance(items[-1], cpio.Segment) and items[-1].end == len(data)
