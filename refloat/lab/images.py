"""The lab's disk images: Debian root filesystems turned into bootable disks, with no installer run.

Two steps, each cached by its content: packages into a tar (slow, needs the registry), the tar into a
disk (seconds). A change of a recipe's script costs the second step only.
"""

from __future__ import annotations

import io
import os
import struct
import tarfile
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from refloat.command import CommandFailed, run
from refloat.errors import Failed, Refused
from refloat.lab import recipes
from refloat.lab.cache import Progress, content_key, entry, prune
from refloat.lab.recipes import Recipe

# Raise it when this file changes what the images contain: it is part of every key.
BUILDER_VERSION = "1"

# Seconds. Slow registries are common, so these catch a hang, not a slow machine.
_PACKAGES_TIMEOUT = 1200
_DISK_TIMEOUT = 300

# The mounts, loop devices and processes of a step die with its first process, and that one dies with
# the thread that started it: nothing survives a kill -9. What others unmount meanwhile is unmounted in there
# as well: a copy of their mount would keep their disk busy.
_ISOLATED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"),
)


@dataclass(frozen=True)
class SourceImages:
    """The protected VM's disks, raw and sparse. Shared by all labs: copy, never write."""

    system: Path
    data: Path


@dataclass(frozen=True)
class InjectedFile:
    """A file that personalise() writes into an image; owner and group are the guest's numbers."""

    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


def both_images(progress: Progress) -> tuple[SourceImages, Path]:
    """The source's images and the controller's, built side by side: each keeps one core busy.

    Images that have not been used for weeks are removed then: an update of Refloat brings new ones.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        source = pool.submit(source_image, progress)
        controller = pool.submit(controller_image, progress)
        both = source.result(), controller.result()
    prune()
    return both


def source_image(progress: Progress) -> SourceImages:
    """The protected VM: a Debian as old VMware guests are. Raises Failed if it cannot be built."""

    def build(directory: Path) -> None:
        _build_system(recipes.SOURCE, directory / "system.raw", progress)
        _build_data(directory / "data.raw")

    directory = entry(recipes.SOURCE.name, image_key(recipes.SOURCE), build)
    return SourceImages(directory / "system.raw", directory / "data.raw")


def controller_image(progress: Progress) -> Path:
    """The controller, without any key: see personalise(). Raises Failed if it cannot be built."""

    def build(directory: Path) -> None:
        _build_system(recipes.CONTROLLER, directory / "system.raw", progress)

    return entry(recipes.CONTROLLER.name, image_key(recipes.CONTROLLER), build) / "system.raw"


def packages_key(recipe: Recipe) -> str:
    return content_key(
        BUILDER_VERSION, recipes.SUITE, *sorted(recipe.packages), "without", *sorted(recipe.excludes)
    )


def image_key(recipe: Recipe) -> str:
    layout = (str(recipe.size_mib), recipe.fs_uuid, recipe.fs_label, recipe.disk_id)
    data = (str(recipes.DATA_SIZE_MIB), recipes.DATA_UUID, recipes.DATA_DISK_ID)
    return content_key(packages_key(recipe), recipe.scripts(), *layout, *data)


def _build_system(recipe: Recipe, image: Path, progress: Progress) -> None:
    packages = _packages(recipe, progress)
    progress(f"{recipe.name}: making the disk")
    layout = (str(recipe.size_mib), recipe.fs_uuid, recipe.fs_label, recipe.disk_id)
    folder = recipes.script(".")
    _script("disk.sh", str(image), *layout, str(packages), str(folder), recipe.script)


def _build_data(image: Path) -> None:
    _script("data.sh", str(image), str(recipes.DATA_SIZE_MIB), recipes.DATA_UUID, recipes.DATA_DISK_ID)


def _script(name: str, *arguments: str, stdin: bytes | None = None) -> None:
    try:
        run([*_ISOLATED, "sh", str(recipes.script(name)), *arguments], input=stdin, timeout=_DISK_TIMEOUT)
    except CommandFailed as error:
        raise Failed(
            f"could not work on the disk image {arguments[0]}: {error.message}",
            code="lab_image_failed",
            hint="it needs root and loop devices; " + error.hint,
        ) from error


def _packages(recipe: Recipe, progress: Progress) -> Path:
    """The tar of the recipe's packages."""

    def build(directory: Path) -> None:
        progress(f"{recipe.name}: installing {len(recipe.packages)} packages from the Debian registry")
        _mmdebstrap(recipe, directory / "root.tar.zst")

    return entry(f"{recipe.name}-packages", packages_key(recipe), build) / "root.tar.zst"


def _mmdebstrap(recipe: Recipe, tar: Path) -> None:
    excludes = [f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.excludes]
    licences = ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    mirror = os.environ.get("REFLOAT_DEBIAN_MIRROR")
    argv = [
        *_ISOLATED,
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join(recipe.packages)}",
        *excludes,
        *licences,
        recipes.SUITE,
        str(tar),
        *([mirror] if mirror else []),
    ]
    # INITRD=No: the recipe makes the only initrd that is ever used, so none is made while installing.
    env = {"TMPDIR": str(tar.parent), "INITRD": "No"}
    try:
        run(argv, timeout=_PACKAGES_TIMEOUT, env=env)
    except CommandFailed as error:
        raise Failed(
            f"could not install the packages of the {recipe.name} image: {error.message}",
            code="lab_image_failed",
            hint="check that the Debian registry answers (apt-get update), or set REFLOAT_DEBIAN_MIRROR",
        ) from error


def personalise(image: Path, files: Mapping[str, InjectedFile]) -> None:
    """Writes `files` (absolute guest path -> file) into the root filesystem of a raw image.

    For images of our own making only: the host's kernel mounts the filesystem. The image must not
    be in use. Raises Refused if it is no disk with a Linux partition, Failed if writing fails.
    """
    start, size = root_partition(image)
    with tempfile.TemporaryDirectory(prefix="refloat-inject-") as mountpoint:
        _script("inject.sh", str(image), str(start), str(size), mountpoint, stdin=_as_tar(files))


def root_partition(image: Path) -> tuple[int, int]:
    """Offset and size in bytes of the partition marked bootable, or of the first Linux one.

    Read from the MBR here because loop devices may have no partition nodes (a kernel without
    partition parsers, as on build machines).
    """
    with image.open("rb") as handle:
        sector = handle.read(512)
    if len(sector) < 512 or sector[510:512] != b"\x55\xaa":
        raise Refused(f"{image} is no disk with an MBR", code="lab_image_no_disk", hint="build it again")
    rows = [struct.unpack_from("<B3xB3xII", sector, 446 + 16 * number) for number in range(4)]
    linux = [row for row in rows if row[1] == 0x83 and row[3] > 0]
    if not linux:
        raise Refused(f"{image} has no Linux partition", code="lab_image_no_disk", hint="build it again")
    _, _, first, count = max(linux, key=lambda row: bool(row[0] & 0x80))
    return first * 512, count * 512


def _as_tar(files: Mapping[str, InjectedFile]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, file in sorted(files.items()):
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(file.content), file.mode
            member.uid, member.gid = file.uid, file.gid
            tar.addfile(member, io.BytesIO(file.content))
    return buffer.getvalue()
