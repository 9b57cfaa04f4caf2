"""An NTFS volume as Windows leaves it: with its log open or closed, marked to be checked, hibernated.

Sources of the structures: ntfs-3g's include/ntfs-3g/logfile.h and layout.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from refloat.guest.probe import Found
from refloat.guest.windows.ntfs import log_place
from refloat.model import GuestFilesystem
from tests.windows.disks import MIB, Phony, mounted, place_of

_PAGE = 4096
NO_CLIENT = 0xFFFF
CLEAN = 2


@dataclass(frozen=True)
class Volume:
    """A part of an image, in bytes."""

    image: Path
    offset: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        with self.image.open("rb") as handle:
            handle.seek(self.offset + offset)
            return handle.read(length)

    def write(self, offset: int, content: bytes) -> None:
        with self.image.open("r+b") as handle:
            handle.seek(self.offset + offset)
            handle.write(content)

    def found(self) -> Found:
        return Found(
            GuestFilesystem("sda", 2, "ntfs", "0123456789ABCDEF"), str(self.image), self.offset, self.size
        )

    def log(self, *pages: bytes) -> None:
        """Gives the log these pages at its start: two, as a rule."""
        self.write(log_place(self.read), b"".join(pages))

    def leave_open(self, version: tuple[int, int] = (1, 1)) -> None:
        """As after a power cut."""
        self.log(page(version=version), page(lsn=900, version=version))

    def hibernate(self, header: bytes = b"hibr") -> None:
        with mounted(self.image, self.offset, self.size) as root:
            (root / "hiberfil.sys").write_bytes(header + bytes(2 * _PAGE - len(header)))


def volume_of(one: Phony, image: Path) -> Volume:
    """That with Windows."""
    return Volume(image, *place_of(one, one.system))


def page(
    lsn: int = 1000,
    client: int = 0,
    flags: int = 0,
    version: tuple[int, int] = (1, 1),
    magic: bytes = b"RSTR",
) -> bytes:
    """A restart page; by default of a log that is in use."""
    result = bytearray(_PAGE)
    major, minor = version
    fixups, area, clients = 0x1E, 0x30, 0x40
    struct.pack_into("<4sHHQIIHHH", result, 0, b"RSTR", fixups, 9, 0, _PAGE, _PAGE, area, minor, major)
    numbers = (lsn, 1, NO_CLIENT, client, flags, 45, clients + 160, clients, 2 * MIB, 0, 0x30, _PAGE >> 6)
    struct.pack_into("<QHHHHIHHqIHH", result, area, *numbers)
    record = area + clients
    struct.pack_into("<QQHHH", result, record, lsn, lsn, NO_CLIENT, NO_CLIENT, 0)
    struct.pack_into("<I8s", result, record + 28, 8, "NTFS".encode("utf-16-le"))
    return _protected(result, fixups)


def _protected(record: bytearray, fixups: int) -> bytes:
    """The last two bytes of each sector move to the fix-ups, a number takes their place."""
    number = b"\x01\x00"
    record[fixups : fixups + 2] = number
    for index in range(1, len(record) // 512 + 1):
        end = index * 512
        record[fixups + 2 * index : fixups + 2 * index + 2] = record[end - 2 : end]
        record[end - 2 : end] = number
    return bytes(record)
