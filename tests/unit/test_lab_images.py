"""The image cache and the parts of the image builder that need neither root nor a registry."""

from __future__ import annotations

import dataclasses
import io
import os
import struct
import tarfile
import threading
import time
from pathlib import Path

import pytest

from refloat.errors import Refused
from refloat.lab import cache, images, recipes


def test_content_key_keeps_the_borders_of_its_parts() -> None:
    assert cache.content_key("ab", "c") != cache.content_key("a", "bc")
    assert cache.content_key("ab", b"c") == cache.content_key(b"ab", "c")


def test_entry_is_built_once_and_then_found(tmp_path: Path) -> None:
    calls: list[Path] = []

    def build(directory: Path) -> None:
        calls.append(directory)
        (directory / "system.raw").write_bytes(b"x")

    first = cache.entry("web", "k" * 12, build, tmp_path)
    assert cache.entry("web", "k" * 12, build, tmp_path) == first
    assert (first / "system.raw").read_bytes() == b"x"
    assert len(calls) == 1
    assert calls[0] != first, "built beside the final name, then renamed"


def test_failed_build_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    def fails(directory: Path) -> None:
        (directory / "half").write_bytes(b"x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.entry("web", "k" * 12, fails, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert cache.entry("web", "k" * 12, lambda directory: None, tmp_path).is_dir()


def test_leftovers_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    old = tmp_path / ("web-" + "o" * 12 + ".abc_1.part")
    same = tmp_path / ("web-" + "k" * 12 + ".abc_2.part")
    other = tmp_path / ("web-packages-" + "p" * 12 + ".abc_3.part")
    for path in (old, same, other):
        path.mkdir()
        (path / "half").write_bytes(b"x")
    found = cache.entry("web", "k" * 12, lambda directory: None, tmp_path)
    assert list(found.iterdir()) == []
    assert not old.exists()
    assert other.exists(), "another name's build may be running"


def test_two_builders_at_once_build_once(tmp_path: Path) -> None:
    started = threading.Event()
    calls: list[int] = []

    def build(directory: Path) -> None:
        calls.append(1)
        started.set()
        threading.Event().wait(0.2)
        (directory / "whole").write_bytes(b"x")

    first = threading.Thread(target=cache.entry, args=("web", "k" * 12, build, tmp_path))
    first.start()
    assert started.wait(5)
    found = cache.entry("web", "k" * 12, build, tmp_path)
    first.join()
    assert calls == [1]
    assert (found / "whole").exists()


def test_prune_removes_what_nobody_asked_for_lately(tmp_path: Path) -> None:
    for key in ("a" * 12, "b" * 12, "c" * 12):
        _age(cache.entry("web", key, lambda directory: None, tmp_path), days=31)
    (tmp_path / ("web-" + "d" * 12 + ".abc_1.part")).mkdir()
    _age(cache.entry("web", "b" * 12, _never, tmp_path), days=29)
    cache.entry("web", "c" * 12, _never, tmp_path)
    cache.prune(root=tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert left == ["web-" + "b" * 12, "web-" + "c" * 12, "web-" + "d" * 12 + ".abc_1.part"]
    cache.prune(root=tmp_path / "absent")


def test_images_that_a_new_recipe_superseded_go_once_both_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(images, "_build_system", lambda recipe, image, progress: image.touch())
    monkeypatch.setattr(images, "_build_data", Path.touch)
    old = cache.cache_root() / ("source-" + "0" * 12)
    old.mkdir(parents=True)
    _age(old, days=31)
    source, controller = images.both_images(print)
    assert source.system.exists() and source.data.exists() and controller.exists()
    assert not old.exists()


def _age(directory: Path, days: int) -> None:
    stamp = time.time() - days * 24 * 3600
    os.utime(directory, (stamp, stamp))


def _never(directory: Path) -> None:
    pytest.fail("it is there already")


def test_image_key_changes_with_what_makes_the_image() -> None:
    base = images.image_key(recipes.SOURCE)
    more = dataclasses.replace(recipes.SOURCE, packages=(*recipes.SOURCE.packages, "nano"))
    bigger = dataclasses.replace(recipes.SOURCE, size_mib=4096)
    keys = [images.image_key(recipe) for recipe in (more, bigger, recipes.CONTROLLER)]
    assert len({base, *keys}) == len([base, *keys])
    assert images.packages_key(bigger) == images.packages_key(recipes.SOURCE), "the slow step is not repeated"


def _mbr(*rows: tuple[int, int, int, int]) -> bytes:
    table = b"".join(struct.pack("<B3xB3xII", *row) for row in rows).ljust(64, b"\0")
    return b"\0" * 446 + table + b"\x55\xaa"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (((0x80, 0x83, 2048, 1000),), (2048 * 512, 1000 * 512)),
        (((0, 0x83, 2048, 1000), (0x80, 0x83, 4096, 500)), (4096 * 512, 500 * 512)),
        (((0x80, 0x07, 63, 10), (0, 0x83, 2048, 1000)), (2048 * 512, 1000 * 512)),
    ],
)
def test_root_partition(
    tmp_path: Path, rows: tuple[tuple[int, int, int, int], ...], expected: tuple[int, int]
) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(_mbr(*rows))
    assert images.root_partition(image) == expected


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 512, _mbr(), _mbr((0x80, 0x07, 63, 10))])
def test_root_partition_refuses_what_is_no_linux_disk(tmp_path: Path, content: bytes) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(content)
    with pytest.raises(Refused) as refused:
        images.root_partition(image)
    assert refused.value.code == "lab_image_no_disk"
    assert refused.value.hint


def test_injected_files_keep_mode_and_owner() -> None:
    files = {"/root/.ssh/authorized_keys": images.InjectedFile(b"key", 0o600, 7, 8)}
    with tarfile.open(fileobj=io.BytesIO(images._as_tar(files))) as tar:
        [member] = tar.getmembers()
    assert (member.name, member.mode, member.uid, member.gid, member.size) == (
        "root/.ssh/authorized_keys", 0o600, 7, 8, 3,
    )  # fmt: skip


def test_every_recipe_has_its_scripts() -> None:
    for recipe in (recipes.SOURCE, recipes.CONTROLLER):
        assert b"update-initramfs" in recipe.scripts()
    assert recipes.script("inject.sh").is_file()
