"""Settings of Windows that are other while the remediation lasts, or that the first boot needs.

The guest puts SanPolicy and AutoReboot back at the end, and takes its folder out of DevicePath: what they
were is in the facts, from which the first boot's plan is made.
"""

from __future__ import annotations

from refloat.guest.windows.hive import Hive
from refloat.guest.windows.values import Value

# VDS_SAN_POLICY: new disks come online by themselves. A guest's disks are new to it on another bus.
ONLINE_ALL = 1
DEVICE_PATH = "%SystemRoot%\\Refloat\\drivers"  # as it stands in DevicePath, where variables are the custom
_SEARCHED = "%SystemRoot%\\inf"  # what Windows searches where DevicePath is missing
_CURRENT_VERSION = "Microsoft\\Windows\\CurrentVersion"


def change_system(system: Hive, control_set: str) -> None:
    if system.has(f"{control_set}\\Services\\partmgr"):
        system.set(f"{control_set}\\Services\\partmgr\\Parameters", "SanPolicy", Value.dword(ONLINE_ALL))
    # A crash of the first boots stays on the screen, where it can be read, instead of restarting for ever.
    if system.has(f"{control_set}\\Control\\CrashControl"):
        system.set(f"{control_set}\\Control\\CrashControl", "AutoReboot", Value.dword(0))


def change_software(software: Hive) -> None:
    """DevicePath alone installs nothing reliably: it is for devices that Windows finds before the first
    boot's own stage comes to them."""
    before = software.get(_CURRENT_VERSION, "DevicePath")
    if before is not None and before.string is None:
        return  # of another type than it can be: what Windows makes of it is not known
    path = with_folder((before.string if before else "") or "")
    software.set(_CURRENT_VERSION, "DevicePath", Value.expand_sz(path))


def with_folder(path: str) -> str:
    """A DevicePath with our folder at its end, once."""
    folders = [folder for folder in path.split(";") if folder.strip()] or [_SEARCHED]
    if any(folder.strip().lower() == DEVICE_PATH.lower() for folder in folders):
        return path
    return ";".join((path.rstrip("; ") or _SEARCHED, DEVICE_PATH))
