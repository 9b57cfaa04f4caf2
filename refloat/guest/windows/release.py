"""Which Windows it is, for which processor, and what it was started by."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from refloat.errors import Refused
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.guest.windows import paths
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.registry import Registry
from refloat.guest.windows.versions import version_of
from refloat.model import DriveLetter, Firmware

_KEY = "Microsoft\\Windows NT\\CurrentVersion"
_ARCHITECTURES = {"AMD64": "amd64", "X86": "x86", "ARM64": "ARM64"}
_MACHINES = {0x8664: "amd64", 0x14C: "x86", 0xAA64: "ARM64"}  # of programs: the PE format's
_KERNEL = "/C/Windows/System32/ntoskrnl.exe"
_CORES = ("Server Core", "Nano Server")


@dataclass(frozen=True)
class Release:
    """`version` is the name of a row of versions.py, empty where there is none."""

    version: str
    product: str
    edition: str
    build: int
    revision: int
    server: bool
    core: bool
    architecture: str


def look(tree: Tree, registry: Registry, notes: Notes) -> Release:
    software, system = registry.software, registry.system
    kind = software.string(_KEY, "InstallationType")
    build = _build(software)
    server = _is_server(system, registry.control_set, kind, notes)
    architecture = _architecture(tree, registry, notes)
    version = _version(build, server, architecture, notes)
    if kind == "Nano Server":
        notes.problems.append("it is a Nano Server, which has neither the PowerShell nor the tools needed")
    product = software.string(_KEY, "ProductName")
    if version == "11":  # which calls itself 10
        product = product.replace("Windows 10", "Windows 11")
    return Release(
        version=version,
        product=product or "Windows",
        edition=software.string(_KEY, "EditionID"),
        build=build,
        revision=software.number(_KEY, "UBR") or 0,
        server=server,
        core=kind in _CORES,
        architecture=architecture,
    )


def hostname(system: Hive, control_set: str) -> str:
    name = f"{control_set}\\Control\\ComputerName\\ComputerName"
    tcpip = f"{control_set}\\Services\\Tcpip\\Parameters"
    return system.string(tcpip, "Hostname") or system.string(name, "ComputerName")


def check_firmware(software: Hive, letters: Sequence[DriveLetter], firmware: Firmware, notes: Notes) -> None:
    """Windows starts from a GPT disk only by UEFI: then its EFI system partition must be there."""
    drive = software.string(_KEY, "SystemRoot")[:1].upper() or "C"
    place = next((letter for letter in letters if letter.letter == drive), None)
    if firmware is Firmware.BIOS and place is not None and place.partition:
        notes.problems.append(
            "its system volume is on a GPT disk, so it starts by UEFI, but there is no EFI system partition "
            "with Windows' boot manager: replicate the disk that has it, too"
        )


def _build(software: Hive) -> int:
    for name in ("CurrentBuildNumber", "CurrentBuild"):
        text = software.string(_KEY, name)
        if text.isascii() and text.isdigit() and len(text) <= 6:
            return int(text)
    return 0


def _is_server(system: Hive, control_set: str, kind: str, notes: Notes) -> bool:
    """WinNT, ServerNT or, a domain controller, LanmanNT."""
    product = system.string(f"{control_set}\\Control\\ProductOptions", "ProductType")
    if product.lower() == "lanmannt":
        notes.warnings.append(
            "it is a domain controller: if others are alive, the directory has to be told that this one "
            "went back in time (see Microsoft's guidance for a restore of a domain controller)"
        )
    if product:
        return product.lower() != "winnt"
    return kind != "Client"


def _version(build: int, server: bool, architecture: str, notes: Notes) -> str:
    if not build:
        notes.problems.append("its registry does not say which build of Windows it is: is it whole?")
        return ""
    try:
        row = version_of(build, server)
    except Refused as error:
        notes.problems.append(f"{error.message}: {error.hint}" if error.hint else error.message)
        return ""
    if architecture and architecture not in row.architectures:
        known = ", ".join(row.architectures)
        notes.problems.append(f"{row.title} for {architecture} is not known, only for {known}")
    return row.name


def _architecture(tree: Tree, registry: Registry, notes: Notes) -> str:
    """As Windows says, and as its kernel is: they must not contradict each other."""
    environment = f"{registry.control_set}\\Control\\Session Manager\\Environment"
    said = registry.system.string(environment, "PROCESSOR_ARCHITECTURE")
    known = _ARCHITECTURES.get(said.upper(), "")
    kernel = _machine(tree, _KERNEL)
    architecture = known or kernel
    if not architecture:
        notes.problems.append(f"its processor is not known: {said or 'its registry does not say'}")
    elif kernel not in ("", architecture):
        notes.problems.append(f"its registry says that its processor is {architecture}, its kernel {kernel}")
    elif architecture == "ARM64":
        notes.problems.append("it is a Windows for ARM64: recovery runs on x86 processors only")
    return architecture


def _machine(tree: Tree, path: str) -> str:
    """The processor that a program is for; empty where it cannot be read: Windows may have compressed it."""
    spelled = paths.find(tree, path)
    if spelled is None or not tree.is_file(spelled):
        return ""
    with tree.open(spelled) as fd:
        head = os.pread(fd, 4096, 0)
    if head[:2] != b"MZ" or len(head) < 64:
        return ""
    at = struct.unpack_from("<I", head, 60)[0]
    if at > len(head) - 6 or head[at : at + 4] != b"PE\0\0":
        return ""
    return _MACHINES.get(struct.unpack_from("<H", head, at + 4)[0], "")
