"""What Windows knows of its disks: the drivers for them, drive letters, the tools of the old platform."""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Iterator

from refloat.guest.notes import Notes
from refloat.guest.windows.hive import Hive
from refloat.model import BootDriver, DriveLetter
from refloat.text import safe

# Of SATA, IDE and NVMe, which are in other groups than those for SCSI.
_BUS_DRIVERS = frozenset({"storahci", "msahci", "stornvme", "pciide", "intelide", "atapi", "storvsc"})
_LETTER = re.compile(r"\\DosDevices\\([A-Z]):", re.IGNORECASE)
_GPT = b"DMIO:ID:"
_TOOLS = "VMware, Inc.\\VMware Tools"
_UNINSTALL = "Microsoft\\Windows\\CurrentVersion\\Uninstall"
_PROGRAMS = 20_000  # entries that are looked through


def storage_drivers(system: Hive, control_set: str) -> tuple[BootDriver, ...]:
    """The drivers for disk controllers that are installed, by name."""
    return tuple(sorted(_storage_drivers(system, control_set), key=lambda one: one.service.lower()))


def _storage_drivers(system: Hive, control_set: str) -> Iterator[BootDriver]:
    services = f"{control_set}\\Services"
    for service in system.keys(services):
        key = f"{services}\\{service}"
        group = system.string(key, "Group").lower()
        start = system.number(key, "Start")
        if start is not None and (group == "scsi miniport" or service.lower() in _BUS_DRIVERS):
            override = system.values(f"{key}\\StartOverride").values()
            yield BootDriver(service, start, any(value.number != 0 for value in override))


def drive_letters(system: Hive, notes: Notes) -> tuple[DriveLetter, ...]:
    found = []
    for name, value in system.values("MountedDevices").items():
        letter = _LETTER.fullmatch(name)
        if letter is None:
            continue
        upper, data = letter[1].upper(), value.data
        if len(data) == 12:
            signature, offset = struct.unpack("<IQ", data)
            found.append(DriveLetter(upper, disk=f"{signature:08x}", offset=offset))
        elif len(data) == 24 and data.startswith(_GPT):
            found.append(DriveLetter(upper, partition=str(uuid.UUID(bytes_le=data[8:]))))
        elif data[:2] in (b"\\\0", b"_\0"):
            text = data[: len(data) & ~1].decode("utf-16-le", "replace")
            found.append(DriveLetter(upper, other=safe(text)[:256]))
        else:
            notes.warnings.append(f"what the drive letter {upper}: means is not known; it may change")
    return tuple(sorted(found, key=lambda one: one.letter))


def vmware_tools(software: Hive) -> str:
    """Their version; "unknown" where only their key is there."""
    for top in ("", "WOW6432Node\\"):
        for program in software.keys(f"{top}{_UNINSTALL}")[:_PROGRAMS]:
            key = f"{top}{_UNINSTALL}\\{program}"
            if software.string(key, "DisplayName") == "VMware Tools":
                return software.string(key, "DisplayVersion") or "unknown"
    return "unknown" if software.string(_TOOLS, "InstallPath") else ""
