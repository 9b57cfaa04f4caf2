"""The boot configuration (BCD): Windows must show what it does on the destination's display.

Elements by number: Microsoft's "BCD reference" (BcdLibraryElementTypes, BcdBootMgrElementTypes).
"""

from __future__ import annotations

from refloat.guest.windows.hive import Hive

BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_DEFAULT_OBJECT = "23000003"
_GRAPHICS_DISABLED = "16000046"


def change(bcd: Hive) -> bool:
    """Takes graphicsmodedisabled off the entry that starts by default; returns whether it was there."""
    entry = default_entry(bcd)
    key = f"Objects\\{entry}\\Elements\\{_GRAPHICS_DISABLED}"
    if not entry or not bcd.has(key):
        return False
    bcd.delete_key(key)
    return True


def default_entry(bcd: Hive) -> str:
    """The GUID of the entry that the boot manager starts by itself; empty where there is no such entry."""
    value = bcd.get(f"Objects\\{BOOT_MANAGER}\\Elements\\{_DEFAULT_OBJECT}", "Element")
    entry = (value.string or "") if value else ""
    return entry if entry and "\\" not in entry and bcd.has(f"Objects\\{entry}") else ""
