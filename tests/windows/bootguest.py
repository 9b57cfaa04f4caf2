"""A guest of 512 bytes: a boot sector that says prepared texts on COM1, boot after boot.

What it says is on its disk, so that a real VM, with real restarts, can play a guest that this machine cannot
run. Assembled from bootguest.s; `as --32` and `objcopy -O binary -j .text` make the same bytes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

SECTOR = 512
BOOTS = 7
TABLE = 440  # offset of the disk's signature and its partitions
TEXT = 4096  # bytes for each boot, with the marks at its end

_CODE = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfbfc88160005be777cb442cd1372598a1e0080fe060080c706797c0100be777cb800438a"
    "160005cd13723d30ffc1e30c81c30082bf030089deac84c0741288c4bafd03eca82074fbbaf80388e0eeebe9b90c00ba"
    "0000b486cd154f75daac3c527506baf90cb006eef4ebfd1000390000800000010000000000000000"
)


def write(disk: Path, boots: Sequence[bytes]) -> None:
    """Puts the guest on a raw disk, before its first partition. It says each text three times; after all but
    the last it restarts."""
    assert 0 < len(boots) <= BOOTS and len(_CODE) <= TABLE
    with disk.open("rb") as file:
        table = file.read(SECTOR - 2)[TABLE:]
    content = _CODE.ljust(TABLE, b"\0") + table + b"\x55\xaa" + bytes(SECTOR)  # the second counts boots
    for number, text in enumerate(boots, 1):
        assert b"\0" not in text and len(text) < TEXT - 2
        content += (text + (b"\0R" if number < len(boots) else b"\0")).ljust(TEXT, b"\0")
    with disk.open("r+b") as file:
        file.write(content)


def boots(disk: Path) -> int:
    """How often it has started."""
    with disk.open("rb") as file:
        file.seek(SECTOR)
        return file.read(1)[0]
