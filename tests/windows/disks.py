"""Disks of phony, but faithful Windows guests: partitions, NTFS and vfat, and hives of the right shape.

Nothing in them would boot. Made without mounting anything but NTFS: of vfat by mtools.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from refloat.guest.windows.values import Value
from refloat.guest.windows.versions import Version, row_of
from refloat.model import Firmware
from tests.windows import small
from tests.windows.hives import at, hive

NEEDED = ("mkntfs", "ntfs-3g", "mcopy", "mformat", "sfdisk", "losetup", "qemu-storage-daemon")
MIB = 1024 * 1024
START = MIB
SIGNATURE = 0x0BADCAFE
MAC = "00:50:56:9a:0b:0c"
ADDRESS, MASK, GATEWAY, DNS = "192.0.2.20", "255.255.255.0", "192.0.2.1", "192.0.2.53"
ADAPTER = "{6F2C8A1E-0B5D-4C6A-9D3B-7E1F2A3B4C5D}"
NET_CLASS = "{4D36E972-E325-11CE-BFC1-08002BE10318}"
_SERVICE = {
    "Type": Value.dword(0x20),
    "Start": Value.dword(3),
    "ErrorControl": Value.dword(1),
    "ImagePath": Value.expand_sz("%SystemRoot%\\System32\\svchost.exe -k netsvcs -p"),
}
_MACHINES = {"amd64": 0x8664, "x86": 0x14C, "ARM64": 0xAA64}


@dataclass(frozen=True)
class Network:
    """The one adapter, as VMware made it, and its static settings."""

    mac: str = MAC
    address: str = ADDRESS
    mask: str = MASK
    gateway: str = GATEWAY
    dns: str = DNS

    @property
    def device(self) -> str:
        """The adapter among the devices: there Windows writes the MAC in two halves."""
        digits = self.mac.replace(":", "").upper()
        return f"PCI\\VEN_15AD&DEV_07B0&SUBSYS_07B015AD&REV_01\\{digits[:6]}FFFF{digits[6:]}00"


@dataclass(frozen=True)
class Phony:
    """`system_mib` is the size of Windows' own volume; `services` are further ones in its registry, of which
    a fresh Server 2022 has about 700."""

    version: str
    firmware: Firmware
    architecture: str = "amd64"
    system_mib: int = 96
    services: int = 0
    network: Network = Network()

    @property
    def name(self) -> str:
        return f"{self.version.replace(' ', '').lower()}-{self.firmware}"

    @property
    def row(self) -> Version:
        return row_of(self.version)

    @property
    def system(self) -> int:
        """The number of the partition with Windows."""
        return 3 if self.firmware is Firmware.UEFI else 2


GUESTS = (
    Phony("2008 R2", Firmware.BIOS),
    Phony("2012 R2", Firmware.BIOS),
    Phony("2016", Firmware.UEFI),
    Phony("2019", Firmware.BIOS),
    Phony("2022", Firmware.UEFI),
    Phony("2022", Firmware.BIOS),
    Phony("2025", Firmware.UEFI),
    Phony("7", Firmware.BIOS, "x86"),
    Phony("10", Firmware.UEFI),
    Phony("11", Firmware.UEFI),
)
SERVER = Phony("2022", Firmware.BIOS)
FULL = replace(SERVER, system_mib=64)  # too full to be adapted


def can_be_made() -> str:
    """Why no phony disk can be made here; empty where one can."""
    lacks = [name for name in NEEDED if not shutil.which(name)]
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        return "needs root and FUSE"
    return f"needs {', '.join(lacks)}" if lacks else ""


# ---------------------------------------------------------------- what is in the registry


def system_hive(one: Phony) -> bytes:
    """The SYSTEM hive: small.py's, and what inspection looks at."""
    tcpip = f"{small.SET}\\Services\\Tcpip\\Parameters"
    interface = {
        "EnableDHCP": Value.dword(0),
        "IPAddress": Value.multi_sz(one.network.address),
        "SubnetMask": Value.multi_sz(one.network.mask),
        "DefaultGateway": Value.multi_sz(one.network.gateway),
        "DefaultGatewayMetric": Value.multi_sz("0"),
        "NameServer": Value.sz(one.network.dns),
    }
    connection = {
        "Name": Value.sz("Ethernet0"),
        "PnPInstanceID": Value.sz(one.network.device),
    }
    parts = [
        at("Setup", {"SystemSetupInProgress": Value.dword(0)}),
        at(
            f"{small.SET}\\Control\\ComputerName\\ComputerName",
            {"ComputerName": Value.sz("WIN-PHONY")},
        ),
        at(f"{tcpip}", {"Hostname": Value.sz("WIN-PHONY"), "NV Hostname": Value.sz("WIN-PHONY")}),
        at(f"{tcpip}\\Interfaces\\{ADAPTER}", interface),
        at(f"{small.SET}\\Control\\Network\\{NET_CLASS}\\{ADAPTER}\\Connection", connection),
        at(
            f"{small.SET}\\Control\\ProductOptions",
            {"ProductType": Value.sz("ServerNT" if one.row.server else "WinNT")},
        ),
        at(
            f"{small.SET}\\Control\\Session Manager\\Environment",
            {"PROCESSOR_ARCHITECTURE": Value.sz({"amd64": "AMD64"}.get(one.architecture, one.architecture))},
        ),
        at(f"{small.SET}\\Control\\TimeZoneInformation", {"TimeZoneKeyName": Value.sz("UTC")}),
        at(f"{small.SET}\\Services\\partmgr\\Parameters", {"SanPolicy": Value.dword(3)}),
        at("MountedDevices", {"\\DosDevices\\C:": Value.binary(_drive_c(one))}),
    ]
    parts += [at(f"{small.SET}\\Services\\Service{number:04}", _SERVICE) for number in range(one.services)]
    return small.system(one.row, *parts)


def _drive_c(one: Phony) -> bytes:
    """As MountedDevices knows it: by the partition's GUID, or by the disk's signature and the offset."""
    if one.firmware is Firmware.UEFI:
        return b"DMIO:ID:" + uuid.UUID(_guid(one.system)).bytes_le
    return struct.pack("<IQ", SIGNATURE, START + 24 * MIB)


def _guid(number: int) -> str:
    return f"22222222-3333-4444-5555-{number:012d}"


def software_hive(one: Phony) -> bytes:
    row = one.row
    kind = "Server" if row.server else "Client"
    current = {
        "ProductName": Value.sz("Windows 10 Pro" if row.name == "11" else f"{row.title} Standard"),
        "EditionID": Value.sz("ServerStandard" if row.server else "Professional"),
        "InstallationType": Value.sz(kind),
        "CurrentVersion": Value.sz("6.1" if row.build < 9200 else "6.2" if row.build < 9600 else "6.3"),
        "CurrentBuild": Value.sz(str(row.build)),
        "CurrentBuildNumber": Value.sz(str(row.build)),
        "UBR": Value.dword(2113),
        "SystemRoot": Value.sz("C:\\Windows"),
    }
    if row.build >= 10240:
        current |= {
            "CurrentMajorVersionNumber": Value.dword(10),
            "CurrentMinorVersionNumber": Value.dword(0),
        }
    keys = at("Microsoft\\Windows NT\\CurrentVersion", current)
    keys["Microsoft"]["Windows"] = {
        "CurrentVersion": {"": {"DevicePath": Value.expand_sz("%SystemRoot%\\inf")}}
    }
    return hive(keys, "SOFTWARE")


def program(architecture: str) -> bytes:
    """The head of a program of Windows for a processor, one of a console."""
    optional = struct.pack("<H66xH", 0x10B if architecture == "x86" else 0x20B, 3).ljust(240, b"\0")
    pe = struct.pack("<4sHHIIIHH", b"PE\0\0", _MACHINES[architecture], 1, 0, 0, 0, 240, 0x22) + optional
    return b"MZ" + bytes(58) + struct.pack("<I", 128) + bytes(64) + pe + bytes(512)


def files_of_system(one: Phony) -> dict[str, bytes]:
    """What is on Windows' own volume."""
    config = "Windows/System32/config"
    return {
        f"{config}/SYSTEM": system_hive(one),
        f"{config}/SOFTWARE": software_hive(one),
        f"{config}/SAM": hive(at("SAM"), "SAM"),
        f"{config}/SECURITY": hive(at("Policy"), "SECURITY"),
        f"{config}/DEFAULT": hive(at("Software"), "DEFAULT"),
        "Windows/System32/cmd.exe": program(one.architecture),
        "Windows/System32/ntoskrnl.exe": program(one.architecture),
        "Windows/System32/winload.exe": program(one.architecture),
        "Windows/System32/drivers/ntfs.sys": program(one.architecture),
        "Windows/INF/disk.inf": b"[Version]\r\n",
        "Windows/System32/GroupPolicy/gpt.ini": b"[General]\r\n",
        "Users/Public/desktop.ini": b"[.ShellClassInfo]\r\n",
        "Program Files/Application/data.bin": os.urandom(1000),
    }


def files_of_boot(one: Phony, loader: bytes = small.MANAGER) -> dict[str, bytes]:
    """What is on the ESP, or on the volume that BIOS machines start from."""
    if one.firmware is Firmware.UEFI:
        folder = "EFI/Microsoft/Boot"
        return {f"{folder}/BCD": small.boot_configuration(), f"{folder}/bootmgfw.efi": loader}
    return {"Boot/BCD": small.boot_configuration(), "bootmgr": b"\xe9bootmgr"}


# ---------------------------------------------------------------- disks


@dataclass(frozen=True)
class _Part:
    type: str
    mib: int
    kind: str = ""
    files: Mapping[str, bytes] | None = None


_TABLES: dict[Firmware, tuple[str, str]] = {
    Firmware.BIOS: ("dos", f"label-id: {SIGNATURE:#x}"),
    Firmware.UEFI: ("gpt", "label-id: 11111111-2222-3333-4444-555555555555"),
}


def parts_of(one: Phony, loader: bytes = small.MANAGER) -> list[_Part]:
    boot, system = files_of_boot(one, loader), files_of_system(one)
    if one.firmware is Firmware.BIOS:
        return [_Part("7", 24, "ntfs", boot), _Part("7", one.system_mib, "ntfs", system)]
    basic = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
    return [
        _Part("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", 40, "vfat", boot),
        _Part("E3C9E316-0B5C-4DB8-817D-F92DF00215AE", 1),
        _Part(basic, one.system_mib, "ntfs", system),
        _Part(
            "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC",
            24,
            "ntfs",
            {"Recovery/WindowsRE/winre.wim": b"MSWIM\0\0\0"},
        ),
    ]


def make(one: Phony, path: Path, loader: bytes = small.MANAGER, *, table: str = "") -> Path:
    """A raw disk. `table`: another kind of partition for Windows' own volume, "42" for a dynamic disk."""
    parts = parts_of(one, loader)
    if table:
        parts = [replace(part, type=table) for part in parts]
    size = START + sum(part.mib for part in parts) * MIB + MIB
    with path.open("wb") as disk:
        disk.truncate(size)
    label, identity = _TABLES[one.firmware]
    lines, at_mib = [f"label: {label}", identity], 1
    for number, part in enumerate(parts, start=1):
        known = f", uuid={_guid(number)}" if one.firmware is Firmware.UEFI else ""
        lines.append(f"start={at_mib}MiB, size={part.mib}MiB, type={part.type}{known}")
        at_mib += part.mib
    run("sfdisk", "-q", str(path), text="\n".join(lines))
    at_mib = 1
    for part in parts:
        if part.kind:
            _fill(path, at_mib * MIB, part)
        at_mib += part.mib
    return path


def _fill(disk: Path, offset: int, part: _Part) -> None:
    image = disk.with_name(f"{disk.name}.part")
    with image.open("wb") as handle:
        handle.truncate(part.mib * MIB)
    if part.kind == "ntfs":
        run(
            "mkntfs",
            "-F",
            "-Q",
            "-q",
            "-s",
            "512",
            "-p",
            str(offset // 512),
            "-H",
            "255",
            "-S",
            "63",
            str(image),
        )
        with mounted(image) as root:
            for name, content in (part.files or {}).items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
    else:
        run("mformat", "-i", str(image), "-T", str(part.mib * 2048), "-N", "12345678", "-v", "ESP", "::")
        folder = disk.with_name(f"{disk.name}.esp")
        for name, content in (part.files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        run("mcopy", "-s", "-Q", "-i", str(image), *map(str, folder.iterdir()), "::")
        shutil.rmtree(folder)
    _copy_into(image, disk, offset)
    image.unlink()


def _copy_into(image: Path, disk: Path, offset: int) -> None:
    """Holes stay holes."""
    with image.open("rb") as source, disk.open("r+b") as target:
        while chunk := source.read(MIB):
            if chunk.count(0) != len(chunk):
                target.seek(offset + source.tell() - len(chunk))
                target.write(chunk)


def place_of(one: Phony, number: int) -> tuple[int, int]:
    """Offset and size of a partition, in bytes."""
    sizes = [part.mib * MIB for part in parts_of(one)]
    return START + sum(sizes[: number - 1]), sizes[number - 1]


@contextmanager
def mounted(
    image: Path, offset: int = 0, size: int = 0, options: str = "rw", kind: str = "ntfs-3g"
) -> Iterator[Path]:
    """A volume of an image, mounted beside it."""
    root = image.with_name(f"{image.name}.mnt")
    root.mkdir(exist_ok=True)
    where = f",offset={offset},sizelimit={size}" if offset else ""
    run("mount", "-t", kind, "-o", f"loop,{options}{where}", str(image), str(root))
    try:
        yield root
    finally:
        run("umount", str(root))
        root.rmdir()


def run(*argv: str, text: str | None = None) -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr} {done.stdout}"
    return done.stdout
