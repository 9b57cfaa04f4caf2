"""A driver set of our own making that is shaped as virtio-win's: folders, names and INF files; the programs
are bytes of nothing."""

from __future__ import annotations

import hashlib
import io
import itertools
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycdlib

RELEASE = "100.95.104.26600"


@dataclass(frozen=True)
class Kind:
    """One driver: `devices` are full ids, of which the short ones follow; `extra` are other files."""

    folder: str
    inf: str
    service: str
    class_name: str
    class_guid: str
    start: int
    devices: tuple[str, ...]
    program: str
    extra: tuple[str, ...] = ()


_SYSTEM = ("System", "{4d36e97d-e325-11ce-bfc1-08002be10318}")
_SCSI = ("SCSIAdapter", "{4D36E97B-E325-11CE-BFC1-08002BE10318}")
_NET = ("Net", "{4d36e972-e325-11ce-bfc1-08002be10318}")


def _ids(legacy: str, subsystem: str, modern: str) -> tuple[str, str]:
    return (
        f"PCI\\VEN_1AF4&DEV_{legacy}&SUBSYS_{subsystem}1AF4&REV_00",
        f"PCI\\VEN_1AF4&DEV_{modern}&SUBSYS_11001AF4&REV_01",
    )


KINDS = (
    Kind("viostor", "viostor.inf", "viostor", *_SCSI, 0, _ids("1001", "0002", "1042"), "viostor.sys"),
    Kind("vioscsi", "vioscsi.inf", "vioscsi", *_SCSI, 0, _ids("1004", "0008", "1048"), "vioscsi.sys"),
    Kind("NetKVM", "netkvm.inf", "netkvm", *_NET, 3, _ids("1000", "0001", "1041"), "netkvm.sys",
         ("netkvmco.exe",)),
    Kind("vioserial", "vioser.inf", "VirtioSerial", *_SYSTEM, 3, _ids("1003", "0003", "1043"), "vioser.sys"),
    Kind("Balloon", "balloon.inf", "BALLOON", *_SYSTEM, 3, _ids("1002", "0005", "1045"), "balloon.sys",
         ("blnsvr.exe",)),
    Kind("viorng", "viorng.inf", "VirtRng", *_SYSTEM, 3, _ids("1005", "0004", "1044"), "viorng.sys",
         ("viorngum.dll",)),
    Kind("pvpanic", "pvpanic.inf", "pvpanic", *_SYSTEM, 3, ("ACPI\\QEMU0001",), "pvpanic.sys"),
)  # fmt: skip

# Folder in the set -> its architectures, as the ISO 0.1.266 has them; ARM64 only where Windows has it.
FOLDERS: Mapping[str, tuple[str, ...]] = {
    "2k8R2": ("amd64",),
    "w7": ("amd64", "x86"),
    "2k12": ("amd64",),
    "w8": ("amd64", "x86"),
    "2k12R2": ("amd64",),
    "w8.1": ("amd64", "x86"),
    "2k16": ("amd64",),
    "2k19": ("amd64",),
    "2k22": ("amd64",),
    "2k25": ("amd64", "ARM64"),
    "w10": ("amd64", "x86", "ARM64"),
    "w11": ("amd64", "ARM64"),
}
_MACHINES = {"amd64": 0x8664, "x86": 0x14C, "ARM64": 0xAA64}
AGENTS = ("guest-agent/qemu-ga-x86_64.msi", "guest-agent/qemu-ga-i386.msi")


def by_driver(kind: Kind, folder: str, arch: str) -> str:
    """Today's ISO."""
    return f"{kind.folder}/{folder}/{arch}"


def by_os(kind: Kind, folder: str, arch: str) -> str:
    """The package of Red Hat and Fedora: all drivers of a version in one folder."""
    return f"drivers/by-os/{arch}/{folder}"


def flat(kind: Kind, folder: str, arch: str) -> str:
    """The ISO's second copy, and the floppies."""
    return f"{'i386' if arch == 'x86' else arch}/{folder}"


Layout = Callable[[Kind, str, str], str]


def inf(kind: Kind, arch: str, release: str = RELEASE) -> str:
    """An INF as the driver's publisher writes it, in its sections and order."""
    models = "".join(
        f"%Device.Desc% = Install, {device}"
        + (f", {device.partition('&SUBSYS')[0]}\r\n" if "&SUBSYS" in device else "\r\n")
        for device in kind.devices
    )
    files = (kind.program, *kind.extra)
    return (
        f";/*++\r\n; {kind.inf}; made for tests\r\n;--*/\r\n\r\n"
        f'[Version]\r\nSignature="$Windows NT$"\r\nClass={kind.class_name}\r\nClassGUID={kind.class_guid}\r\n'
        f"Provider=%VENDOR%\r\nDriverVer=12/09/2024,{release} ; stamped\r\n"
        f"CatalogFile={_catalog(kind)}\r\nPnpLockdown=1\r\n\r\n"
        '[SourceDisksNames]\r\n1 = %DiskId1%,,,""\r\n\r\n[SourceDisksFiles]\r\n'
        + "".join(f"{file} = 1,,\r\n" for file in files)
        + "\r\n[DestinationDirs]\r\nDriver_Files = 12\r\n\r\n"
        f"[Manufacturer]\r\n%VENDOR% = Models,NT{arch.lower()}\r\n\r\n"
        f"[Models.NT{arch.lower()}]\r\n{models}\r\n"
        f"[Driver_Files]\r\n{kind.program},,,2\r\n\r\n[Install]\r\nCopyFiles=Driver_Files\r\n\r\n"
        f"[Install.Services]\r\nAddService = {kind.service}, %ASSOCIATED%, Service_Install, Event_Log\r\n\r\n"
        f"[Service_Install]\r\nServiceType = 1\r\nStartType = {kind.start}\r\nErrorControl = 1\r\n"
        f"ServiceBinary = %12%\\{kind.program}\r\n\r\n"
        '[Strings]\r\nVENDOR = "Nobody; for tests"\r\nDiskId1 = "Disk"\r\nDevice.Desc = "Test device"\r\n'
        "ASSOCIATED = 0x00000002\r\n"
    )


def _catalog(kind: Kind) -> str:
    return f"{kind.inf.removesuffix('.inf')}.cat"


def program(name: str, where: str, size: int) -> bytes:
    """Bytes of `size` that nothing else has: they depend on the name and on where it lies ("2k22/amd64"). The
    head says which processor it is for, as that of a real program."""
    seed = hashlib.sha256(f"{where}/{name}".encode()).digest()
    machine = _MACHINES.get(where.rpartition("/")[2], 0)
    head = b"MZ" + bytes(58) + struct.pack("<I4sH", 64, b"PE\0\0", machine)
    return (head + bytes(18) + seed * (size // len(seed) + 1))[:size]


def files(
    folders: Iterable[str] = tuple(FOLDERS),
    layouts: Iterable[Layout] = (by_driver,),
    *,
    utf16: bool = False,
    size: int = 4096,
    release: str = RELEASE,
) -> dict[str, bytes]:
    """A set: path -> content. `size` is that of each program, in bytes; the agent's has 16 times as much."""
    found: dict[str, bytes] = {path: program(path, "", size * 16) for path in AGENTS}
    found["virtio-win_license.txt"] = b"none\r\n"
    for layout in layouts:
        for folder in folders:
            for arch in FOLDERS[folder]:
                for kind in KINDS:
                    below = layout(kind, folder, arch)
                    text = inf(kind, arch, release)
                    found[f"{below}/{kind.inf}"] = text.encode("utf-16") if utf16 else text.encode()
                    found[f"{below}/{_catalog(kind)}"] = program(_catalog(kind), f"{folder}/{arch}", 1024)
                    for name in (kind.program, *kind.extra):
                        found[f"{below}/{name}"] = program(name, f"{folder}/{arch}", size)
                    found[f"{below}/{kind.service.lower()}.pdb"] = program("pdb", below, 64)
    return found


def write_folder(root: Path, content: Mapping[str, bytes]) -> Path:
    for path, data in content.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return root


def write_iso(
    path: Path, content: Mapping[str, bytes], *, rock_ridge: bool = True, joliet: bool = True
) -> Path:
    """An ISO with the same files. Without extensions it is of level 4, as virtio-win: with any names."""
    iso: Any = pycdlib.PyCdlib()
    plain = not rock_ridge and not joliet
    iso.new(
        interchange_level=4 if plain else 3,
        joliet=3 if joliet else None,
        rock_ridge="1.09" if rock_ridge else None,
    )
    count = itertools.count()

    def name(full: str) -> dict[str, str]:
        """How an entry is named in each of the ISO's trees."""
        above, _, last = full.rpartition("/")
        own[full] = f"{own[above]}/{last if plain else f'N{next(count):06d}'}"
        return {
            "iso_path": own[full],
            **({"rr_name": last} if rock_ridge else {}),
            **({"joliet_path": f"/{full}"} if joliet else {}),
        }

    own = {"": ""}
    folders = {parent for file in content for parent in _parents(file)}
    for folder in sorted(folders, key=lambda folder: (folder.count("/"), folder)):
        iso.add_directory(**name(folder))
    for file, data in content.items():
        iso.add_fp(io.BytesIO(data), len(data), **name(file))
    iso.write(str(path))
    iso.close()
    return path


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: index + 1]) for index in range(len(parts))]
