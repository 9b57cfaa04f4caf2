"""The least that an adaptation works on: a folder that stands for a mounted Windows, of any version.

Nothing here is a disk: those are in disks.py. It is for tests of single changes, by the hundred.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refloat.guest.windows.bcd import BOOT_MANAGER
from refloat.guest.windows.values import Value
from refloat.guest.windows.versions import Version, row_of
from refloat.model import (
    AdaptRequest,
    BootDriver,
    DiskBus,
    DriverChoice,
    Firmware,
    GuestFacts,
    GuestFilesystem,
    NicModel,
    PlannedDisk,
    Secrets,
    WindowsFacts,
    WindowsRequest,
)
from tests.windows.hives import at, hive, merged

SET = "ControlSet002"  # never 001 here: the current set is never to be taken for granted
ENTRY = "{11111111-2222-3333-4444-555555555555}"
MANAGER = b"MZ Windows boot manager"


def system(version: Version, *more: dict[str, Any]) -> bytes:
    """A SYSTEM hive of that version in what storage and settings look at; ControlSet001 is an old set."""
    modern = version.build >= 9200
    overridden = at(f"{SET}\\Services\\{version.sata}\\StartOverride", {"0": Value.dword(3)})
    parts = [
        at("Select", {"Current": Value.dword(2), "Default": Value.dword(2), "LastKnownGood": Value.dword(1)}),
        at("ControlSet001\\Services\\viostor", {"Start": Value.dword(4)}),
        at(f"{SET}\\Services\\{version.sata}", {"Start": Value.dword(3), "Type": Value.dword(1)}),
        overridden,
        at(f"{SET}\\Services\\LSI_SAS", {"Start": Value.dword(0)}),
        at(f"{SET}\\Services\\partmgr", {"Start": Value.dword(0)}),
        at(f"{SET}\\Control\\CrashControl", {"AutoReboot": Value.dword(1)}),
        at(f"{SET}\\Control\\CriticalDeviceDatabase"),
    ]
    if version.nvme:
        parts.append(at(f"{SET}\\Services\\{version.nvme}", {"Start": Value.dword(3)}))
    if modern:
        parts += [
            at(
                "DriverDatabase\\DeviceIds\\PCI\\VEN_15AD&DEV_07C0",
                {"pvscsii.inf": Value.binary(b"\1\xff\0\0")},
            ),
            at("DriverDatabase\\DriverInfFiles"),
            at("DriverDatabase\\DriverPackages"),
        ]
    return hive(merged(*parts, *more))


def software() -> bytes:
    return hive(
        at("Microsoft\\Windows\\CurrentVersion", {"DevicePath": Value.expand_sz("%SystemRoot%\\inf")}),
        "SOFTWARE",
    )


def boot_configuration() -> bytes:
    objects = merged(
        at(f"Objects\\{BOOT_MANAGER}\\Elements\\23000003", {"Element": Value.sz(ENTRY)}),
        at(f"Objects\\{ENTRY}\\Elements\\16000046", {"Element": Value.binary(b"\1")}),
    )
    return hive(objects, "BCD")


def tree(root: Path, version: Version, firmware: Firmware) -> Path:
    """The files of a guest below `root`, in the spelling of an old installation."""
    files = {
        "C/Windows/System32/config/SYSTEM": system(version),
        "C/Windows/System32/config/SOFTWARE": software(),
        "C/Windows/System32/drivers/ntfs.sys": b"MZ",
    }
    if firmware is Firmware.UEFI:
        files |= {
            "ESP/EFI/Microsoft/Boot/BCD": boot_configuration(),
            "ESP/EFI/Microsoft/Boot/bootmgfw.efi": MANAGER,
        }
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def facts(name: str, architecture: str, firmware: Firmware) -> GuestFacts:
    version = row_of(name)
    windows = WindowsFacts(
        version=name,
        product=version.title,
        edition="Standard",
        build=version.build,
        revision=0,
        server=version.server,
        core=False,
        architecture=architecture,
        control_set=SET,
        driver_database=version.build >= 9200,
        storage_drivers=tuple(
            BootDriver(service, 3, True) for service in (version.sata, version.nvme) if service
        ),
        san_policy=3,
        clock_utc=False,
    )
    root = GuestFilesystem("sda", 2, "ntfs", "0123456789ABCDEF", mountpoint="/C")
    return GuestFacts(
        family="windows",
        os_id="windows",
        os_name=version.title,
        os_version=name,
        architecture={"amd64": "x86_64", "x86": "i686", "ARM64": "aarch64"}[architecture],
        hostname="WIN",
        firmware=firmware,
        bootloader="bootmgr",
        initramfs_tool="",
        network_stack="windows",
        root=root,
        filesystems=(root,),
        kernels=(),
        nics=(),
        windows=windows,
    )


def request(choice: DriverChoice, directory: Path, disk_bus: DiskBus = DiskBus.VIRTIO_BLK) -> AdaptRequest:
    return AdaptRequest(
        job="job-1",
        disks=(PlannedDisk("sda", "sda", "rf-sda", 1 << 30),),
        disk_bus=disk_bus,
        nic_model=NicModel.VIRTIO,
        nics=(),
        secrets=Secrets("t" * 48, "n" * 32),
        channel="org.refloat.report.0",
        report_deadline=1800,
        windows=WindowsRequest(drivers=choice, drivers_dir=str(directory)),
    )
