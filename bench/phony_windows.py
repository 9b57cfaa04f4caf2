"""The disk of a phony Windows Server 2022, as the tests make it, and what became of it."""

from __future__ import annotations

from pathlib import Path

from refloat.guest.windows.hive import Hive
from refloat.model import Firmware
from tests.windows import disks, small

# A small disk by today's measure, and nearly all of it a hole. BIOS: not every kernel that this runs on can
# mount the vfat of an ESP.
GUEST = disks.Phony("2022", Firmware.BIOS, system_mib=16 * 1024, services=700)


def build(image: Path) -> None:
    disks.make(GUEST, image)


def service_start(image: Path, service: str) -> int | None:
    """When Windows would start a service, by the SYSTEM hive on the disk: 0 is at boot; None for no such
    service."""
    offset, size = disks.place_of(GUEST, GUEST.system)
    with disks.mounted(image, offset, size, "ro") as root:
        content = (root / "Windows/System32/config/SYSTEM").read_bytes()
    value = Hive.open("SYSTEM", content).get(f"{small.SET}\\Services\\{service}", "Start")
    return value.number if value else None
