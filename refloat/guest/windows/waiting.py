"""What waits in a Windows guest, or may stand in the way of its first boot at the destination."""

from __future__ import annotations

import os

from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.guest.windows import paths
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.registry import Registry
from refloat.model import Hibernation

_CBS = "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing"
_UPDATE = "Microsoft\\Windows\\CurrentVersion\\WindowsUpdate\\Auto Update"
_POLICIES = "Policies\\Microsoft\\Windows"
_RESTRICTIONS = f"{_POLICIES}\\DeviceInstall\\Restrictions"
_HEADER = 4096

# Keys that are there while something waits, and what.
_PENDING_KEYS = (
    (f"{_CBS}\\RebootInProgress", "updates are being installed at the moment, over a restart"),
    (f"{_CBS}\\RebootPending", "updates wait for a restart"),
    (f"{_CBS}\\PackagesPending", "updates are installed half: they go on at the next start"),
    (f"{_UPDATE}\\RebootRequired", "Windows Update wants a restart"),
)

# Values of device installation policies that deny drivers when they are not 0.
_DENIALS = (
    ("DenyUnspecified", "devices that no policy names are not installed"),
    ("DenyDeviceIDs", "devices of certain ids are not installed"),
    ("DenyDeviceClasses", "devices of certain classes are not installed"),
    ("DenyInstanceIDs", "certain devices are not installed"),
)


def check_setup(system: Hive, notes: Notes) -> None:
    """Notes as a problem that Setup or Sysprep has not ended: it would run at the first boot instead."""
    running = system.number("Setup", "SystemSetupInProgress") or 0
    kind = system.number("Setup", "SetupType") or 0
    if running or kind:
        notes.problems.append(
            "Windows Setup (or Sysprep, or an upgrade) has not ended: let it end at the source, and "
            "replicate again"
        )


def hibernation(tree: Tree, system: Hive, control_set: str) -> Hibernation:
    """From the header of hiberfil.sys, which Windows clears when it has resumed.

    A Fast Startup session looks the same: it is taken for one where Fast Startup is on, since then every
    ordinary shutdown leaves one.
    """
    path = paths.find(tree, "/C/hiberfil.sys")
    if path is None or not tree.is_file(path):
        return Hibernation.NONE
    with tree.open(path) as fd:
        head = os.pread(fd, _HEADER, 0)
    # "wake": it was resumed from. Anything else that is not empty is taken for a session.
    if not any(head) or head[:4].lower() == b"wake":
        return Hibernation.NONE
    power = f"{control_set}\\Control\\Session Manager\\Power"
    return Hibernation.FAST_STARTUP if system.number(power, "HiberbootEnabled") else Hibernation.HIBERNATED


def pending(tree: Tree, registry: Registry) -> tuple[str, ...]:
    """Updates and restarts that wait, in words."""
    software, system = registry.software, registry.system
    found = [text for key, text in _PENDING_KEYS if software.has(key)]
    if software.number(f"{_CBS}\\SessionsPending", "Exclusive"):
        found.append("an installation of updates is not finished")
    if paths.find(tree, "/C/Windows/WinSxS/pending.xml"):
        found.append("changes of updates are applied at the next start (pending.xml)")
    manager = f"{registry.control_set}\\Control\\Session Manager"
    renames = system.get(manager, "PendingFileRenameOperations")
    if renames is not None and renames.strings:
        found.append("files are replaced or removed at the next start")
    return tuple(found)


def policies(registry: Registry) -> tuple[str, ...]:
    """Policies that may keep drivers from being installed, or scripts from running, in words."""
    software, system = registry.software, registry.system
    found = [text for name, text in _DENIALS if software.number(_RESTRICTIONS, name)]
    found += _of_scripts(software)
    environment = f"{registry.control_set}\\Control\\Session Manager\\Environment"
    if system.get(environment, "__PSLockdownPolicy") is not None:
        found.append("PowerShell runs in its constrained language (__PSLockdownPolicy)")
    if system.number(f"{registry.control_set}\\Control\\SecureBoot\\State", "UEFISecureBootEnabled"):
        found.append("Secure Boot is on: only signed drivers are loaded")
    guard = f"{registry.control_set}\\Control\\DeviceGuard\\Scenarios\\HypervisorEnforcedCodeIntegrity"
    if system.number(guard, "Enabled"):
        found.append("memory integrity (HVCI) is on: drivers must be made for it")
    return tuple(found)


def _of_scripts(software: Hive) -> list[str]:
    found = []
    powershell = f"{_POLICIES}\\PowerShell"
    execution = software.string(powershell, "ExecutionPolicy")
    if software.number(powershell, "EnableScripts") == 0:
        found.append("PowerShell scripts are switched off by policy")
    elif execution.lower() in ("allsigned", "restricted"):
        found.append(f"PowerShell scripts must be signed by policy ({execution})")
    if software.number(f"{_POLICIES}\\SrpV2\\Script", "EnforcementMode") == 1:
        found.append("AppLocker decides which scripts run")
    if software.number(f"{_POLICIES}\\Safer\\CodeIdentifiers", "DefaultLevel") == 0:
        found.append("software restriction policies allow named programs only")
    return found
