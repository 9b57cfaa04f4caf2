"""This machine's kernel as a host, with mtools in place of its vfat where it has none.

An EFI system partition is then a folder with copies of its files, which are put back when it is unmounted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from refloat.guest import disk, stack
from refloat.guest.host import KernelHost
from refloat.guest.probe import Found
from refloat.guest.tree import Tree
from refloat.guest.windows.repair import repair
from tests.windows.disks import run


def has_vfat() -> bool:
    return any(line.split()[-1] == "vfat" for line in Path("/proc/filesystems").read_text().splitlines())


class MtoolsHost:
    """A Host."""

    runs_guest_code = False
    opened = staticmethod(stack.opened)
    mounted_subvolume = staticmethod(disk.mounted_subvolume)
    subvolumes = staticmethod(disk.subvolumes)
    flush = staticmethod(disk.flush)
    read = staticmethod(KernelHost.read)
    repair = staticmethod(repair)

    @contextmanager
    def mounted(
        self, found: Found, mountpoint: Path, *, subvolume: str = "", writable: bool = False
    ) -> Iterator[Path]:
        if found.filesystem.kind != "vfat":
            with disk.mounted(found, mountpoint, subvolume=subvolume, writable=writable) as path:
                yield path
        else:
            with _copied(found, mountpoint, writable):
                yield mountpoint

    @contextmanager
    def mounted_system(
        self, filesystems: Sequence[Found], mountpoint: Path, *, writable: bool = False
    ) -> Iterator[Tree]:
        esp = next((one for one in filesystems if one.filesystem.mountpoint == "/ESP"), None)
        others = [one for one in filesystems if one is not esp]
        with disk.mounted_system(others, mountpoint, writable=writable) as tree:
            if esp is None:
                yield tree
            else:
                with _copied(esp, mountpoint / "ESP", writable):
                    yield tree


@contextmanager
def _copied(found: Found, folder: Path, writable: bool) -> Iterator[None]:
    image = f"{found.node}@@{found.offset}"
    made = not folder.exists()
    # A killed run leaves its copy, and nothing on the disk.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run("mcopy", "-s", "-Q", "-n", "-p", "-i", image, "::", str(folder))
    try:
        yield
    finally:
        if writable:
            _put_back(image, folder)
        for one in folder.iterdir():
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        if made:
            folder.rmdir()


def _put_back(image: str, folder: Path) -> None:
    for name in _names(image):
        if not (folder / name).exists():
            run("mdel" if "." in name else "mrd", "-i", image, f"::{name}")
    run("mcopy", "-s", "-Q", "-o", "-m", "-i", image, *map(str, folder.iterdir()), "::")


def _names(image: str) -> list[str]:
    """Every file and folder, what is in a folder before it."""
    listed = run("mdir", "-/", "-b", "-i", image, "::").splitlines()
    names = [line.removeprefix("::/").rstrip("/") for line in listed if line.startswith("::/")]
    return sorted(names, key=lambda name: -name.count("/"))
