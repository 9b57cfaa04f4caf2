"""Hives of real Windows systems, from the regipy project (MIT): not part of this repository.

They are looked for in ../shared/data/hives, or in the folder that REFLOAT_TEST_HIVES names, compressed by xz.
"""

from __future__ import annotations

import lzma
import os
import struct
from functools import cache
from pathlib import Path

import pytest

from refloat.guest.windows.regf import checksum

_FOLDER = Path(
    os.environ.get("REFLOAT_TEST_HIVES", Path(__file__).parents[2].parent / "shared" / "data" / "hives")
)

WINDOWS7 = "win7sp1-x86-vmware.SYSTEM"
WINDOWS8 = "win8-x64-virtualbox.SYSTEM"
WINDOWS10 = "win10-x64-dirty.SYSTEM"
BCD = "bcd.BCD"
CORRUPTED = "corrupted.SYSTEM"


@cache
def real(name: str) -> bytes:
    """Skips the test where the hive is not at hand."""
    path = _FOLDER / f"{name}.xz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return lzma.decompress(path.read_bytes())


def logs(name: str) -> list[bytes]:
    return [real(f"{name}.LOG{number}") for number in (1, 2)]


def undirtied(content: bytes) -> bytes:
    """A dirty hive whose logs are lost, as if it had been closed: only good to look into."""
    result = bytearray(content)
    result[8:12] = result[4:8]
    struct.pack_into("<I", result, 508, checksum(result))
    return bytes(result)
