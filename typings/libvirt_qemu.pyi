# ruff: noqa: N802
"""Types for the part of python3-libvirt's QEMU-only module that Refloat uses."""

import libvirt

VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP: int

def qemuMonitorCommand(domain: libvirt.virDomain, cmd: str, flags: int) -> str: ...
