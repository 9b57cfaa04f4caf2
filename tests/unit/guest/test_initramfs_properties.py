"""The initramfs reader and writer on whatever comes: nothing is lost, nothing hurts."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refloat.guest.linux import cpio, initramfs
from refloat.guest.linux.compression import BrokenInitramfs
from refloat.guest.linux.contents import Contents, scan
from refloat.guest.linux.modules import KernelModules, ModuleMissing
from refloat.guest.tree import Tree
from tests.unit.guest.guests import KERNEL, directory, file, main_archive, pack_initramfs

# Seconds and bytes within which anything is refused or read, however it was made.
TIME, MEMORY = 30.0, 256 * 1024 * 1024

PART = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12
)
PATHS = st.lists(PART.filter(lambda part: part != "."), min_size=1, max_size=4).map("/".join)
MODES = st.sampled_from(
    [stat.S_IFREG | 0o644, stat.S_IFREG | 0o755, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777]
)


MAGIC = (
    b"", b"070701", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18", b"\xfd7zXZ\x00",
    b"\x5d\x00\x00", b"BZh9", b"\x89LZO\x00\r\n\x1a\n",
)  # fmt: skip


@st.composite
def members(draw: st.DrawFn) -> cpio.Member:
    mode = draw(MODES)
    content = b"" if stat.S_ISDIR(mode) else draw(st.binary(max_size=200))
    return cpio.Member(draw(PATHS.filter(lambda path: path != "TRAILER!!!")), mode, len(content), content)


def read(data: bytes) -> list[cpio.Member | cpio.Segment]:
    return list(cpio.read(io.BytesIO(data), len(data), lambda member: member.is_file))


def contents_of(items: list[cpio.Member | cpio.Segment]) -> list[tuple[str, int, bytes]]:
    return [(one.name, one.mode, one.content or b"") for one in items if isinstance(one, cpio.Member)]


@settings(max_examples=150, deadline=None)
@given(st.lists(members(), max_size=8), st.sampled_from(["none", "gzip", "twice"]))
def test_what_is_written_is_read(archive: list[cpio.Member], how: str) -> None:
    data = cpio.write(archive)
    whole = {"none": data, "gzip": gzip.compress(data), "twice": data + bytes(-len(data) % 512) + data}[how]
    expected = [(one.name, one.mode, one.content or b"") for one in archive] * (2 if how == "twice" else 1)
    assert contents_of(read(whole)) == expected
    assert cpio.write(archive) == data


@settings(max_examples=100, deadline=None)
@given(st.lists(members(), max_size=6), st.lists(members(), max_size=6))
def test_what_is_appended_leaves_what_was_there(old: list[cpio.Member], new: list[cpio.Member]) -> None:
    main = gzip.compress(cpio.write(old), mtime=0)
    whole = main + bytes(-len(main) % 4) + cpio.write(new)
    assert contents_of(read(whole)) == contents_of(read(main)) + contents_of(read(cpio.write(new)))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(MAGIC))
def test_garbage_is_read_or_refused(data: bytes, magic: bytes) -> None:
    with tempfile.TemporaryFile() as handle:
        handle.write(magic + data)
        handle.flush()
        with contextlib.suppress(BrokenInitramfs):
            list(cpio.read(handle, len(magic + data), lambda member: True))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(main_archive())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile() as handle:
        handle.write(whole)
        handle.flush()
        with contextlib.suppress(BrokenInitramfs):
            scan(handle.fileno(), KERNEL, initramfs.wanted, Path(name))


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(PATHS, st.text("ab./", max_size=12), max_size=6),
    st.sampled_from(["lib", "lib/modules", "usr/lib/x", "a/b"]),
)
@example({"lib": "lib"}, "lib/modules")
@example({"lib": "../../../../usr/lib"}, "lib/modules")
def test_symlinks_never_lead_out(symlinks: dict[str, str], path: str) -> None:
    try:
        found = Contents(KERNEL, symlinks=symlinks).resolve(path)
    except BrokenInitramfs:
        return
    assert not found.startswith("/") and ".." not in found.split("/")


# ---------------------------------------------------------------- made to hurt


def header(name: bytes, *, mode: int = 0o100644, size: int = 0, name_size: int | None = None) -> bytes:
    length = len(name) + 1 if name_size is None else name_size
    fields = (1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0)
    out = b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\0"
    return out + bytes(-len(out) % 4)


def many_directories() -> bytes:
    return b"".join(header(b"d%07d" % number, mode=0o40755) for number in range(200_010))


def long_names() -> bytes:
    return b"".join(header(b"%06d" % number + b"x" * 4000, mode=0o40755) for number in range(20_000))


def empty_zstd_blocks() -> bytes:
    return b"\x28\xb5\x2f\xfd\x00\x00" + b"\x00\x00\x00" * 3_000_000


def empty_lz4_blocks() -> bytes:
    return b"\x02\x21\x4c\x18" + bytes(16_000_000) + b"x"


def huge_dictionary() -> bytes:
    return b"\x5d" + struct.pack("<IQ", 0xFFFFFFFF, 1 << 40) + bytes(64)


def big_configuration() -> bytes:
    return cpio.write([file("etc/crypttab", bytes(2 * 1024 * 1024))])


def much_configuration() -> bytes:
    return cpio.write([file(f"etc/cmdline.d/{n}.conf", bytes(1000_000)) for n in range(40)])


HOSTILE: dict[str, Callable[[], bytes]] = {
    "many files": many_directories,
    "long names": lambda: gzip.compress(long_names(), 1),
    "many segments": lambda: cpio.write([file("a", b"a")]) * 200,
    "only trailers": lambda: cpio.write([]) * 3000,
    "gzip bomb": lambda: gzip.compress(cpio.write([file("zeros", bytes(100_000_000))]), 1),
    "zstd blocks without content": empty_zstd_blocks,
    "lz4 blocks without content": empty_lz4_blocks,
    "lzma dictionary of 4 GiB": huge_dictionary,
    "size beyond the end": lambda: header(b"etc/crypttab", size=0xFFFFFFFF) + bytes(64),
    "module beyond the end": lambda: header(b"lib/modules/x/kernel/a.ko", size=0x3FFFFFF) + bytes(64),
    "signs in the header": lambda: header(b"x").replace(b"00000001", b"-0000001") + cpio.write([]),
    "name of no length": lambda: header(b"x", name_size=0),
    "name of 4 GiB": lambda: header(b"x", name_size=0xFFFFFFFF),
    "endless symlink": lambda: header(b"lib", mode=0o120777, size=0x7FFFFFFF),
    "configuration that is too large": big_configuration,
    "endless configuration": much_configuration,
    "no trailer": lambda: header(b"a") * 3,
}


# Where much is kept of what is read: memory is measured, which makes it slow.
MEASURED = ("long names", "endless configuration")


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused_in_time_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "gzip bomb":
        monkeypatch.setattr(cpio, "UNPACKED_LIMIT", 64 * 1024 * 1024)
    path = tmp_path / "image"
    path.write_bytes(HOSTILE[what]())
    started = time.monotonic()
    if what in MEASURED:
        tracemalloc.start()
    with path.open("rb") as handle, pytest.raises(BrokenInitramfs):
        scan(handle.fileno(), KERNEL, initramfs.wanted, tmp_path / "spool")
    if what in MEASURED:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY
    assert time.monotonic() - started < TIME


def test_file_of_a_terabyte_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, 1 << 40)
    with path.open("rb") as handle, pytest.raises(BrokenInitramfs, match="1099511627776 bytes"):
        scan(handle.fileno(), KERNEL, initramfs.wanted)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../../../../etc/x.ko",
        f"lib/modules/{KERNEL}/../../../../x.ko",
        f"lib/modules/{KERNEL}//etc/x.ko",
        f"lib/modules/{KERNEL}/{'a' * 300}/x.ko",
        f"lib/modules/{KERNEL}/a.ko/b.ko",
    ],
)
def test_names_cannot_leave_the_workspace(tmp_path: Path, name: str) -> None:
    spool = tmp_path / "deep/down/spool"
    archive = cpio.write([file(f"lib/modules/{KERNEL}/a.ko", b"a"), file(name, b"x"), file("init", b"x")])
    (tmp_path / "image").write_bytes(archive)
    before = set(tmp_path.rglob("*"))
    with (tmp_path / "image").open("rb") as handle, contextlib.suppress(BrokenInitramfs):
        scan(handle.fileno(), KERNEL, initramfs.wanted, spool)
    outside = {
        path for path in set(tmp_path.rglob("*")) - before if not path.is_relative_to(tmp_path / "deep")
    }
    assert outside == set()


def test_device_nodes_and_sockets_are_passed_over(tmp_path: Path) -> None:
    kinds = (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
    nodes = [cpio.Member(f"dev/{kind}", kind | 0o600, 0) for kind in kinds]
    (tmp_path / "image").write_bytes(cpio.write([directory("dev"), *nodes, file("init", b"x")]))
    with (tmp_path / "image").open("rb") as handle:
        found = scan(handle.fileno(), KERNEL, initramfs.wanted, tmp_path / "spool")
    assert found.directories == {"dev"} and not (tmp_path / "spool").exists()


def test_chain_of_modules_without_end(tmp_path: Path) -> None:
    base = tmp_path / "lib/modules" / KERNEL
    base.mkdir(parents=True)
    chain = "".join(f"kernel/m{n}.ko: kernel/m{n + 1}.ko\n" for n in range(100_000))
    (base / "modules.dep").write_text(chain)
    with Tree(tmp_path) as tree, pytest.raises(ModuleMissing, match="m100000"):
        KernelModules(tree, KERNEL).closure(["m0"])


def test_bomb_in_a_program_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio, "UNPACKED_LIMIT", 64 * 1024 * 1024)
    data = pack_initramfs(cpio.write([file("zeros", bytes(128 * 1024 * 1024))]), "zstd")
    (tmp_path / "image").write_bytes(data)
    with (tmp_path / "image").open("rb") as handle, pytest.raises(BrokenInitramfs, match="unpacks to more"):
        scan(handle.fileno(), KERNEL, initramfs.wanted)
