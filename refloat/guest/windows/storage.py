"""Storage drivers that Windows starts at boot: viostor and vioscsi always, and its own for SATA and NVMe.

A driver that is only there does not boot: its service must start at boot, and the device must be bound to it
before any device is installed. Windows from 8 on reads that binding from DriverDatabase, Windows 7 from
CriticalDeviceDatabase: the hive shows which one it is.

What is bound here are stubs: a package of the real driver replaces them at the first boot, and the guest then
removes them (`stubs` names their keys), for they would block an in-place upgrade.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Container
from dataclasses import dataclass

from refloat.errors import Refused
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.values import Value
from refloat.guest.windows.versions import Version

SCSI_CLASS = "{4D36E97B-E325-11CE-BFC1-08002BE10318}"
DATABASE = "DriverDatabase"
# What Windows itself made in it: where one is missing, the database is not what it should be.
PARTS = ("DeviceIds\\PCI", "DriverInfFiles", "DriverPackages")
_CONFIGURATION = "refloat_conf"
# A driver's ImagePath, relative to the system root in each of its spellings; no ".." in it.
_PROGRAM = re.compile(
    r"(?:\\SystemRoot\\|%SystemRoot%\\)?(system32(?:\\(?!\.)[A-Za-z0-9._-]{1,100}){1,6}\.sys)", re.IGNORECASE
)
# How well an id fits: by all of the device's numbers, or by vendor and device alone.
_FULL, _SHORT = Value.binary(bytes.fromhex("01ff0000")), Value.binary(bytes.fromhex("02ff0000"))


@dataclass(frozen=True)
class Miniport:
    """A boot driver of the set. `bus` is STORAGE_BUS_TYPE; `devices` the full ids below PCI, the legacy
    device first and then that of virtio 1.0."""

    service: str
    bus: int
    devices: tuple[str, ...]

    @property
    def inf(self) -> str:
        return f"{self.service}.inf"

    @property
    def program(self) -> str:
        return f"{self.service}.sys"

    def short(self) -> tuple[str, ...]:
        """The ids by vendor and device alone."""
        return tuple(device.partition("&SUBSYS_")[0] for device in self.devices)

    def ids(self) -> tuple[tuple[str, Value], ...]:
        """Full and short ids with their ranks."""
        pairs = zip(self.devices, self.short(), strict=True)
        return tuple(pair for full, short in pairs for pair in ((full, _FULL), (short, _SHORT)))


MINIPORTS = (
    Miniport(
        "viostor",
        0x1,
        ("VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00", "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01"),
    ),
    Miniport(
        "vioscsi",
        0xA,
        ("VEN_1AF4&DEV_1004&SUBSYS_00081AF4&REV_00", "VEN_1AF4&DEV_1048&SUBSYS_11001AF4&REV_01"),
    ),
)


def label(inf: str, architecture: str) -> str:
    """The name of a driver package. Other forms broke pnputil and Windows Update."""
    return f"{inf}_{architecture.lower()}_0000000000000000"


def installed(system: Hive, control_set: str) -> dict[str, str]:
    """Drivers that Windows has installed as packages of its own: service -> its program, below the system
    root ("System32/drivers/viostor.sys"), if that is really there.

    Their packages bind all devices. Known from DriverDatabase alone: what Windows 7 has is not looked at.
    """
    found = {}
    for driver in MINIPORTS:
        bound = (
            set(system.values(f"{DATABASE}\\DeviceIds\\PCI\\{device}")) - {driver.inf}
            for device in driver.short()
        )
        value = system.get(f"{control_set}\\Services\\{driver.service}", "ImagePath")
        path = _PROGRAM.fullmatch((value.string or "") if value else "")
        if all(bound) and path:
            found[driver.service] = path.group(1).replace("\\", "/")
    return found


def change(
    system: Hive, control_set: str, version: Version, architecture: str, kept: Container[str] = ()
) -> None:
    """Every value of the SYSTEM hive by which Windows starts from virtio, SATA and NVMe.

    `kept` are services whose driver Windows has installed itself: they only have to start. Raises Refused
    (driver_database) where the hive has no place for the binding.
    """
    _check_database(system, control_set)
    for driver in MINIPORTS:
        key = f"{control_set}\\Services\\{driver.service}"
        if driver.service in kept:
            system.set(key, "Start", Value.dword(0))
            _always_start(system, key)
            continue
        _service(system, key, driver)
        if system.has(DATABASE):
            _bind(system, driver, label(driver.inf, architecture))
        else:
            _bind_critical(system, f"{control_set}\\Control\\CriticalDeviceDatabase", driver)
    for service in filter(None, (version.sata, version.nvme)):
        key = f"{control_set}\\Services\\{service}"
        # Where it is not installed, there is no program that could start.
        if system.has(key):
            system.set(key, "Start", Value.dword(0))
            _always_start(system, key)


def _check_database(system: Hive, control_set: str) -> None:
    wanted = [f"{control_set}\\Control\\CriticalDeviceDatabase"]
    if system.has(DATABASE):
        wanted = [f"{DATABASE}\\{part}" for part in PARTS]
    missing = [key for key in wanted if not system.has(key)]
    if missing:
        raise Refused(
            f"the guest's registry has no {missing[0]}: Windows could not be told of its new disk controller",
            code="driver_database",
            hint="repair Windows at the source (sfc /scannow, DISM), or install virtio-win there",
        )


def _service(system: Hive, key: str, driver: Miniport) -> None:
    system.set(key, "Type", Value.dword(1))
    system.set(key, "Start", Value.dword(0))
    system.set(key, "ErrorControl", Value.dword(1))
    system.set(key, "Group", Value.sz("SCSI miniport"))
    system.set(key, "Tag", Value.dword(0x21))
    system.set(key, "ImagePath", Value.expand_sz(f"system32\\drivers\\{driver.program}"))
    system.set(f"{key}\\Parameters", "BusType", Value.dword(driver.bus))
    system.set(f"{key}\\Parameters\\PnpInterface", "5", Value.dword(1))
    _always_start(system, key)


def _always_start(system: Hive, key: str) -> None:
    """Windows sets StartOverride for drivers that it had no device for: with it, Start=0 does not count, and
    the guest ends in INACCESSIBLE_BOOT_DEVICE."""
    system.delete_key(f"{key}\\StartOverride")
    system.delete_value(key, "StartOverride")


def _bind_critical(system: Hive, database: str, driver: Miniport) -> None:
    for device, _ in driver.ids():
        system.set(f"{database}\\PCI#{device}", "Service", Value.sz(driver.service))
        system.set(f"{database}\\PCI#{device}", "ClassGUID", Value.sz(SCSI_CLASS))


def _bind(system: Hive, driver: Miniport, package: str) -> None:
    for device, rank in driver.ids():
        system.set(f"{DATABASE}\\DeviceIds\\PCI\\{device}", driver.inf, rank)
    inf = f"{DATABASE}\\DriverInfFiles\\{driver.inf}"
    system.set(inf, "", Value.multi_sz([package]))
    system.set(inf, "Active", Value.sz(package))
    system.set(inf, "Configurations", Value.multi_sz([_CONFIGURATION]))
    key = f"{DATABASE}\\DriverPackages\\{package}"
    system.set(key, "Version", Value.binary(_version()))
    system.set(f"{key}\\Configurations\\{_CONFIGURATION}", "ConfigFlags", Value.dword(0))
    system.set(f"{key}\\Configurations\\{_CONFIGURATION}", "Service", Value.sz(driver.service))
    for device, _ in driver.ids():
        system.set(f"{key}\\Descriptors\\PCI\\{device}", "Configuration", Value.sz(_CONFIGURATION))


def _version() -> bytes:
    """Without it, Windows 10 and Server 2016 do not take the package for one: 48 bytes, of which only the
    device class is filled; the driver's date and version are zero, so that any real package is newer."""
    return bytes.fromhex("00ff090000000000") + uuid.UUID(SCSI_CLASS).bytes_le + bytes(24)


# ---------------------------------------------------------------- what the guest removes again


@dataclass(frozen=True)
class Stub:
    """What a stub package left below HKLM\\SYSTEM: whole keys, and values of keys that Windows shares."""

    inf: str
    keys: tuple[str, ...]
    values: tuple[tuple[str, str], ...]  # key, name


def stubs(architecture: str) -> tuple[Stub, ...]:
    """The stubs of a guest that has a DriverDatabase: to be removed once the real drivers are installed."""
    return tuple(
        Stub(
            driver.inf,
            (
                f"{DATABASE}\\DriverPackages\\{label(driver.inf, architecture)}",
                f"{DATABASE}\\DriverInfFiles\\{driver.inf}",
            ),
            tuple((f"{DATABASE}\\DeviceIds\\PCI\\{device}", driver.inf) for device, _ in driver.ids()),
        )
        for driver in MINIPORTS
    )
