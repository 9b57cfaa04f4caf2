"""A disk that looks like Windows Server 2022 with UEFI to tools that adapt it; nothing on it could boot."""

from __future__ import annotations

import struct
import tempfile
import uuid
from pathlib import Path

from refloat.command import run
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.values import Value
from refloat.guest.windows.versions import row_of
from tests.windows import small
from tests.windows.hives import Keys, at, hive, merged

MIB = 1024 * 1024
_ESP, _MSR, _DATA = (
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "E3C9E316-0B5C-4DB8-817D-F92DF00215AE",
    "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
)
# Partition number -> first MiB and length in MiB, as Windows' own installation lays them out.
_PARTS = {1: (1, 100, _ESP), 2: (101, 16, _MSR), 3: (117, 1900, _DATA)}
_SIZE = 2048 * MIB
_SYSTEM_GUID = "11111111-2222-3333-4444-555555555555"
_ADAPTER = "{AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE}"
_CLASS = "{4D36E972-E325-11CE-BFC1-08002BE10318}"
MAC = "00:0c:29:f3:ff:de"


def build(image: Path, services: int = 700) -> None:
    """Writes the disk. `services` are further ones in the hive: a fresh 2022 has about that many."""
    with image.open("wb") as handle:
        handle.truncate(_SIZE)
    table = "label: gpt\n" + "".join(
        f"start={start * 2048}, size={length * 2048}, type={kind}, uuid={_guid(number)}\n"
        for number, (start, length, kind) in _PARTS.items()
    )
    run(["sfdisk", "-q", str(image)], input=table.encode())
    with tempfile.TemporaryDirectory(prefix="refloat-bench-") as name:
        folder = Path(name)
        _place(image, 1, _esp(folder))
        _place(image, 3, _ntfs(folder, services))


def _guid(number: int) -> str:
    return _SYSTEM_GUID if number == 3 else str(uuid.UUID(int=number))


def _place(image: Path, number: int, volume: Path) -> None:
    start = _PARTS[number][0]
    run(["dd", f"if={volume}", f"of={image}", "bs=1M", f"seek={start}", "conv=notrunc,sparse", "status=none"])
    volume.unlink()


def _volume(folder: Path, number: int) -> Path:
    path = folder / f"part{number}"
    with path.open("wb") as handle:
        handle.truncate(_PARTS[number][1] * MIB)
    return path


def _esp(folder: Path) -> Path:
    volume = _volume(folder, 1)
    run(["mkfs.vfat", "-F", "32", str(volume)])
    for directory in ("EFI", "EFI/Microsoft", "EFI/Microsoft/Boot"):
        run(["mmd", "-i", str(volume), f"::/{directory}"])
    files = {"bootmgfw.efi": program(subsystem=10, size=1_600_000), "BCD": small.boot_configuration()}
    for name, content in files.items():
        run(["mcopy", "-i", str(volume), "-", f"::/EFI/Microsoft/Boot/{name}"], input=content)
    return volume


def _ntfs(folder: Path, services: int) -> Path:
    volume, mountpoint = _volume(folder, 3), folder / "mnt"
    start = _PARTS[3][0] * 2048
    run(["mkntfs", "-q", "-F", "-Q", "-s", "512", "-p", str(start), "-H", "255", "-S", "63", str(volume)])
    mountpoint.mkdir()
    run(["mount", "-t", "ntfs-3g", str(volume), str(mountpoint)])
    try:
        for path, content in _files(services).items():
            (mountpoint / path).parent.mkdir(parents=True, exist_ok=True)
            (mountpoint / path).write_bytes(content)
    finally:
        run(["umount", str(mountpoint)])
    return volume


def _files(services: int) -> dict[str, bytes]:
    programs = ("cmd.exe", "ntoskrnl.exe", "drivers/ntfs.sys", "drivers/storahci.sys", "drivers/stornvme.sys")
    empty = {name: hive({}, name) for name in ("SAM", "SECURITY", "DEFAULT")}
    hives = {"SYSTEM": _system(services), "SOFTWARE": _software(), **empty}
    return {
        **{f"Windows/System32/{name}": program() for name in programs},
        **{f"Windows/System32/config/{name}": content for name, content in hives.items()},
        "pagefile.sys": bytes(4096),
        "Program Files/Common Files/desktop.ini": b"",
        "ProgramData/desktop.ini": b"",
        "Users/Public/desktop.ini": b"",
    }


def program(machine: int = 0x8664, subsystem: int = 3, size: int = 65536) -> bytes:
    """The head of a 64-bit program of Windows, as far as `file` and libmagic look; then nothing. Subsystem 3
    is a console's, 10 that of a program for EFI."""
    optional = struct.pack("<HBBIIIII", 0x20B, 14, 0, 512, 512, 0, 4096, 4096)
    optional += struct.pack("<QII6HIIII", 0x140000000, 4096, 512, 10, 0, 10, 0, 10, 0, 0, 12288, 512, 0)
    optional += struct.pack("<HH4QII", subsystem, 0x8160, 1 << 20, 4096, 1 << 20, 4096, 0, 16) + bytes(128)
    head = b"MZ" + bytes(58) + struct.pack("<I", 128) + bytes(64) + b"PE\0\0"
    head += struct.pack("<HHIIIHH", machine, 1, 0, 0, 0, len(optional), 0x22) + optional
    head += struct.pack("<8s6I2HI", b".text", 512, 4096, 512, 512, 0, 0, 0, 0, 0x60000020)
    return head.ljust(size, b"\0")


def _system(services: int) -> bytes:
    current = small.SET
    interface = f"{current}\\Services\\Tcpip\\Parameters\\Interfaces\\{_ADAPTER}"
    connection = f"{current}\\Control\\Network\\{_CLASS}\\{_ADAPTER}\\Connection"
    more: list[Keys] = [
        at(f"{current}\\Control\\ProductOptions", {"ProductType": Value.sz("ServerNT")}),
        at(f"{current}\\Control\\ComputerName\\ComputerName", {"ComputerName": Value.sz("WIN2022")}),
        at(f"{current}\\Control\\Session Manager\\Environment", {"OS": Value.sz("Windows_NT")}),
        at(f"{current}\\Control\\TimeZoneInformation", {"TimeZoneKeyName": Value.sz("UTC")}),
        at(f"{current}\\Control\\Class\\{{4D36E97B-E325-11CE-BFC1-08002BE10318}}"),
        at(f"{current}\\Services\\Tcpip\\Parameters", {"Hostname": Value.sz("WIN2022")}),
        at(interface, {
            "EnableDHCP": Value.dword(0),
            "IPAddress": Value.multi_sz(["10.20.30.40"]),
            "SubnetMask": Value.multi_sz(["255.255.255.0"]),
            "DefaultGateway": Value.multi_sz(["10.20.30.1"]),
            "NameServer": Value.sz("10.20.30.2"),
        }),
        at(connection, {
            "Name": Value.sz("Ethernet0"),
            "PnpInstanceID": Value.sz("PCI\\VEN_8086&DEV_10D3&SUBSYS_07D015AD&REV_00\\000C29FFFFF3FFDE00"),
        }),
        at("MountedDevices", {
            "\\DosDevices\\C:": Value.binary(b"DMIO:ID:" + uuid.UUID(_SYSTEM_GUID).bytes_le),
        }),
        at("ControlSet001\\Control"),
        *(
            at(f"{current}\\Services\\Service{number:04}", {
                "Type": Value.dword(0x20), "Start": Value.dword(3), "ErrorControl": Value.dword(1),
                "ImagePath": Value.expand_sz("%SystemRoot%\\System32\\svchost.exe -k netsvcs -p"),
            })
            for number in range(services)
        ),
    ]  # fmt: skip
    return small.system(row_of("2022"), *map(dict, more))


def _software() -> bytes:
    current = {
        "ProductName": Value.sz("Windows Server 2022 Standard"),
        "CurrentVersion": Value.sz("6.3"),
        "CurrentMajorVersionNumber": Value.dword(10),
        "CurrentMinorVersionNumber": Value.dword(0),
        "CurrentBuild": Value.sz("20348"),
        "CurrentBuildNumber": Value.sz("20348"),
        "UBR": Value.dword(2849),
        "InstallationType": Value.sz("Server"),
        "EditionID": Value.sz("ServerStandard"),
        "SystemRoot": Value.sz("C:\\Windows"),
    }
    keys = merged(
        at("Microsoft\\Windows NT\\CurrentVersion", current),
        at("Microsoft\\Windows\\CurrentVersion", {"DevicePath": Value.expand_sz("%SystemRoot%\\inf")}),
        at("Microsoft\\Windows\\CurrentVersion\\Uninstall"),
    )
    return hive(keys, "SOFTWARE")


def service_start(image: Path, service: str) -> int | None:
    """When Windows would start a service, by the SYSTEM hive on the disk: 0 is at boot; None for no such
    service."""
    with tempfile.TemporaryDirectory(prefix="refloat-bench-") as name:
        offset = _PARTS[3][0] * MIB
        run(["mount", "-t", "ntfs-3g", "-o", f"ro,loop,offset={offset}", str(image), name])
        try:
            content = (Path(name) / "Windows/System32/config/SYSTEM").read_bytes()
        finally:
            run(["umount", name])
    value = Hive.open("SYSTEM", content).get(f"{small.SET}\\Services\\{service}", "Start")
    return value.number if value else None
