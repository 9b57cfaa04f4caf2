"""Which drivers of a virtio-win set are for a guest, and reading them once they were chosen.

`choose` is for where the set is (the hub), `load` for where the guest is: there, every file is compared with
the checksum of the choice before the guest is touched.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from refloat.errors import Refused
from refloat.guest.windows.inf import INF_LIMIT, Inf, InfDamaged, read_inf
from refloat.guest.windows.versions import Version
from refloat.model import AGENT_FOLDER, DriverChoice, DriverFile

FILE_LIMIT = 64 * 1024 * 1024  # bytes; the agent's installer, the largest, has 15 MiB
CHOICE_LIMIT = 192 * 1024 * 1024
_CHOSEN_FILES = 500
_PATH = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,30}/[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
# The last release whose drivers Windows 7 and Server 2008 R2 trust as they were installed: 0.1.173-9. The
# fourth part of a driver's version is its release times 100.
_LAST_SHA1 = 17300


@dataclass(frozen=True)
class Wanted:
    """A driver that is taken from the set: the folder that it has there, and its INF files in lower case.

    `service` and `devices` are what its INF must say: a device that it does not know would have no driver.
    """

    name: str
    infs: tuple[str, ...]
    required: bool = False
    service: str = ""
    devices: tuple[str, ...] = ()


WANTED = (
    Wanted("viostor", ("viostor.inf",), True, "viostor", ("DEV_1001", "DEV_1042")),
    Wanted("vioscsi", ("vioscsi.inf",), True, "vioscsi", ("DEV_1004", "DEV_1048")),
    Wanted("NetKVM", ("netkvm.inf",), True, "netkvm", ("DEV_1000", "DEV_1041")),
    Wanted("vioserial", ("vioser.inf",)),
    Wanted("Balloon", ("balloon.inf",)),
    Wanted("viorng", ("viorng.inf",)),
    Wanted("pvpanic", ("pvpanic.inf", "pvpanic-pci.inf")),
)

# How the folders of a set end, best first: today's ISO; the package; the ISO's flat folders; old floppies.
_LAYOUTS = (
    "{driver}/{folder}/{arch}",
    "by-os/{arch}/{folder}",
    "{arch}/{folder}",
    "{folder}/{arch}",
)
_ARCHITECTURES = {"amd64": ("amd64", "x64"), "x86": ("x86", "i386"), "ARM64": ("arm64", "aarch64")}
# IMAGE_FILE_HEADER.Machine: Microsoft's "PE format".
_MACHINES = {"amd64": 0x8664, "x86": 0x14C, "ARM64": 0xAA64}
_AGENTS = {
    "amd64": ("qemu-ga-x86_64.msi", "qemu-ga-x64.msi"),
    "x86": ("qemu-ga-i386.msi", "qemu-ga-x86.msi"),
    "ARM64": ("qemu-ga-aarch64.msi", "qemu-ga-arm64.msi"),
}

Read = Callable[[str, int], bytes]  # a file of the set by its path, of at most so many bytes


@dataclass(frozen=True)
class Package:
    """A driver as it was loaded: `files` by name, `infs` for this architecture."""

    name: str
    infs: tuple[Inf, ...]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Loaded:
    """The drivers of a choice, and the content of all its files, the agent's installer included."""

    packages: tuple[Package, ...]
    files: Mapping[str, bytes]

    def package(self, name: str) -> Package:
        return next(package for package in self.packages if package.name == name)


@dataclass(frozen=True)
class Chosen:
    """What is taken: the paths of the choice with those that they have in the set."""

    folder: str
    paths: Mapping[str, str]
    versions: Mapping[str, str]
    warnings: tuple[str, ...]


# ---------------------------------------------------------------- choosing


def choose(source: str, files: Mapping[str, int], read: Read, version: Version, architecture: str) -> Chosen:
    """What of a set (`files`: path below it -> bytes) is for this version and architecture.

    Raises Refused: drivers_missing where a required driver is not there, with what was looked for;
    drivers_damaged where one is, but cannot be used; drivers_ambiguous for two that differ.
    """
    if architecture not in version.architectures:
        raise Refused(
            f"{version.title} for {architecture} is not supported",
            code="windows_version",
            hint=f"it was released for {' and '.join(version.architectures)}",
        )
    folded = {path.lower(): path for path in sorted(files, reverse=True)}
    paths: dict[str, str] = {}
    versions: dict[str, str] = {}
    for wanted in WANTED:
        for name in wanted.infs:
            found = _candidates(folded, wanted, name, version, architecture)
            if not found:
                continue
            inf_path = _only(source, found, read)
            inf = _read_wanted(wanted, name, read(inf_path, INF_LIMIT), architecture)
            versions[wanted.name] = inf.version
            paths |= _beside(wanted, inf_path, inf, folded)
        if wanted.required and wanted.name not in versions:
            raise _missing(source, files, wanted, version, architecture)
    paths |= _agent(folded, architecture)
    _check_size({path: files[inside] for path, inside in paths.items()})
    return Chosen(version.folders[0], paths, versions, _doubts(version, versions))


def _candidates(
    folded: Mapping[str, str], wanted: Wanted, inf: str, version: Version, architecture: str
) -> list[str]:
    """The paths of an INF for this guest, of the best layout that the set has."""
    for layout in _LAYOUTS:
        ends = {
            "/" + layout.format(driver=wanted.name, folder=folder, arch=arch).lower()
            for folder in version.folders
            for arch in _ARCHITECTURES[architecture]
        }
        found = [
            path
            for lower, path in folded.items()
            if lower.rpartition("/")[2] == inf and any(f"/{lower}".endswith(f"{end}/{inf}") for end in ends)
        ]
        if found:
            return sorted(found)
    return []


def _only(source: str, found: list[str], read: Read) -> str:
    """The one path there is. Copies of the same file are one; two sets below one folder are none."""
    contents = {read(path, INF_LIMIT) for path in found}
    if len(contents) > 1:
        raise Refused(
            f"{source} has several drivers for this Windows that differ: {', '.join(found[:4])}",
            code="drivers_ambiguous",
            hint="give the folder of one release of virtio-win",
        )
    return found[0]


def _read_wanted(wanted: Wanted, name: str, content: bytes, architecture: str) -> Inf:
    inf = read_inf(name, content, architecture)
    if wanted.service and wanted.service not in inf.services:
        raise InfDamaged(
            f"the driver file {name} installs no service {wanted.service}",
            hint="Refloat knows the drivers of virtio-win as Red Hat publishes them",
        )
    for device in wanted.devices:
        if not any(one.startswith(f"PCI\\VEN_1AF4&{device}") for one in inf.ids):
            raise InfDamaged(
                f"the driver {wanted.name} does not know the device PCI\\VEN_1AF4&{device}",
                hint="its release is too old: take virtio-win 0.1.173-9 or later",
            )
    return inf


def _beside(wanted: Wanted, inf_path: str, inf: Inf, folded: Mapping[str, str]) -> dict[str, str]:
    """The INF and the files that it names, which lie in the same folder."""
    folder = inf_path.rpartition("/")[0]
    paths = {}
    for name in (inf_path.rpartition("/")[2], *inf.files):
        inside = folded.get(f"{folder}/{name}".lstrip("/").lower())
        if inside is None:
            raise InfDamaged(
                f"the driver {wanted.name} is not complete: {folder} has no {name}, which its INF names",
                hint="get the driver set (virtio-win) again",
            )
        paths[_checked(f"{wanted.name}/{inside.rpartition('/')[2]}")] = inside
    return paths


def _agent(folded: Mapping[str, str], architecture: str) -> dict[str, str]:
    """The guest agent's installer, if the set has one: the highest in the tree."""
    for name in _AGENTS[architecture]:
        found = [path for lower, path in folded.items() if lower.rpartition("/")[2] == name]
        if found:
            inside = min(found, key=lambda path: (path.count("/"), path))
            return {_checked(f"{AGENT_FOLDER}/{inside.rpartition('/')[2]}"): inside}
    return {}


def _checked(path: str) -> str:
    if not _PATH.fullmatch(path) or path.endswith("."):
        raise Refused(
            f"{path[:140]!r} is no plain name of a driver's file",
            code="drivers_damaged",
            hint="use a driver set as virtio-win publishes it",
        )
    return path


def _check_size(sizes: Mapping[str, int]) -> None:
    large = next((path for path, size in sizes.items() if size > FILE_LIMIT), None)
    if large or sum(sizes.values()) > CHOICE_LIMIT or len(sizes) > _CHOSEN_FILES:
        raise Refused(
            f"{large or 'this set'} is too large for drivers",
            code="drivers_damaged",
            hint="use a driver set as virtio-win publishes it",
        )


def _doubts(version: Version, versions: Mapping[str, str]) -> tuple[str, ...]:
    late = [
        f"{name} {number}"
        for name, number in versions.items()
        if (part := number.rpartition(".")[2]).isdigit() and int(part) > _LAST_SHA1
    ]
    if not version.sha1 or not late:
        return ()
    return (
        f"{version.title} trusts signatures by SHA-2 only with the updates KB4474419 and KB4490628; without "
        f"them it does not start with {', '.join(late)}: virtio-win 0.1.173-9 is the last without SHA-2",
    )


def _missing(
    source: str, files: Mapping[str, int], wanted: Wanted, version: Version, architecture: str
) -> Refused:
    there = _folders_of(files, wanted)
    has = f"its folders for {wanted.name} are {', '.join(there)}" if there else f"it has no {wanted.infs[0]}"
    return Refused(
        f"{source} has no driver {wanted.name} for {version.title} {architecture}: looked for "
        f"{wanted.name}/{version.folders[0]}/{architecture}/{wanted.infs[0]} and the other layouts of "
        f"virtio-win; {has}",
        code="drivers_missing",
        hint="set `drivers` to a virtio-win ISO or folder with this version"
        + (" (the last for Windows 7 and 2008 R2 is 0.1.173-9)" if version.sha1 else ""),
    )


def _folders_of(files: Mapping[str, int], wanted: Wanted) -> list[str]:
    """Where the set has this driver, as an operator would say it: at most twelve."""
    folders = {path.rpartition("/")[0] for path in files if path.lower().rpartition("/")[2] in wanted.infs}
    return [*sorted(folders)[:12], *(["..."] if len(folders) > 12 else [])]


# ---------------------------------------------------------------- loading what was chosen


def load(choice: DriverChoice, directory: Path, version: Version) -> Loaded:
    """The chosen files out of `directory`, each proven by its checksum, and all their INF files read.

    Raises Refused: drivers_changed for a file that is missing or another, drivers_missing where the choice
    was made for another Windows or lacks a required driver, drivers_damaged for an INF.
    """
    if choice.folder not in version.folders or choice.architecture not in version.architectures:
        raise Refused(
            f"the drivers are for {choice.folder} {choice.architecture}, but the guest is {version.title}",
            code="drivers_missing",
            hint="let the guest be inspected and the drivers be chosen again",
        )
    _check_size({file.path: file.size for file in choice.files})
    files = {_checked(file.path): _proven(directory, file) for file in choice.files}
    packages = tuple(_package(name, files, choice.architecture) for name in choice.drivers())
    lacking = [row.name for row in WANTED if row.required and row.name not in choice.drivers()]
    if lacking:
        raise Refused(f"the choice has no driver {lacking[0]}", code="drivers_missing")
    return Loaded(packages, files)


def _package(name: str, contents: Mapping[str, bytes], architecture: str) -> Package:
    wanted = next((row for row in WANTED if row.name == name), None)
    if wanted is None:
        raise Refused(f"{name} is not among the drivers that are taken", code="drivers_damaged")
    files = {path.partition("/")[2]: data for path, data in contents.items() if path.startswith(f"{name}/")}
    infs = tuple(
        _read_wanted(wanted, file, data, architecture)
        for file, data in files.items()
        if file.lower() in wanted.infs
    )
    there = {file.lower() for file in files}
    lacking = next((file for inf in infs for file in inf.files if file.lower() not in there), None)
    if not infs or lacking:
        raise InfDamaged(f"the driver {name} is not complete: {lacking or wanted.infs[0]} is missing")
    for file, data in files.items():
        if file.lower().endswith(".sys") and _machine(data) != _MACHINES[architecture]:
            raise InfDamaged(
                f"the driver's program {name}/{file} is not one for {architecture}",
                hint="get the driver set (virtio-win) again and compare its checksum with the publisher's",
            )
    return Package(name, infs, files)


def _machine(content: bytes) -> int:
    """What processor a program is for; -1 for what is no program of Windows."""
    if content[:2] != b"MZ" or len(content) < 64:
        return -1
    start = int.from_bytes(content[60:64], "little")
    if content[start : start + 4] != b"PE\0\0" or len(content) < start + 24:
        return -1
    return int.from_bytes(content[start + 4 : start + 6], "little")


def _proven(directory: Path, file: DriverFile) -> bytes:
    content = _read_plain(directory / file.path, file.size)
    if content is None or hashlib.sha256(content).hexdigest() != file.sha256:
        raise Refused(
            f"the driver file {file.path} is not the one that was chosen",
            code="drivers_changed",
            hint="it was changed or damaged on its way: start again, and check the driver set's own checksum",
        )
    return content


def _read_plain(path: Path, size: int) -> bytes | None:
    """A regular file of exactly `size` bytes; None for anything else, symlinks included."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    with open(fd, "rb") as handle:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return None
        return handle.read(size)
