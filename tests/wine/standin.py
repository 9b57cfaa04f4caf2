"""A Windows program that calls C:\\standin.cmd with its process number and its command line: it stands in
for powershell.exe under Wine.

Built here byte by byte (PE32+, no compiler): sprintf of the command, system, ExitProcess with its result.
Layout: Microsoft's "PE Format".
"""

from __future__ import annotations

import struct

_BASE = 0x140000000
_SECTION = 0x1000  # where the one section lies in memory
_FILE = 0x200  # and in the file
_COMMAND = b"C:\\standin.cmd %d %s"
_IMPORTS = {
    "kernel32.dll": ("GetCurrentProcessId", "GetCommandLineA", "ExitProcess"),
    "msvcrt.dll": ("sprintf", "system"),
}
_TABLES, _CODE, _FORMAT, _BUFFER, _SIZE = 0x000, 0x300, 0x3C0, 0x400, 0x1400


def program() -> bytes:
    """The whole .exe."""
    tables, addresses = _import_tables()
    section = tables.ljust(_CODE, b"\0") + _code(addresses)
    section = (section.ljust(_FORMAT, b"\0") + _COMMAND).ljust(_SIZE, b"\0")
    return _headers().ljust(_FILE, b"\0") + section


def _import_tables() -> tuple[bytes, dict[str, int]]:
    """Import directory, per DLL the list of names twice (looked up, bound), the names; and where each
    function's address will be."""
    names, where, lists = b"", {}, b""
    at_lists = 20 * (len(_IMPORTS) + 1)
    at_names = at_lists + sum(16 * (len(functions) + 1) for functions in _IMPORTS.values())
    directory = b""
    for dll, functions in _IMPORTS.items():
        entries = []
        for function in functions:
            entries.append(_SECTION + at_names + len(names))
            names += b"\0\0" + function.encode() + b"\0"
        packed = struct.pack(f"<{len(entries)}QQ", *entries, 0)
        looked_up = _SECTION + at_lists + len(lists)
        bound = looked_up + len(packed)
        for number, function in enumerate(functions):
            where[function] = bound + 8 * number
        lists += packed * 2
        directory += struct.pack("<IIIII", looked_up, 0, 0, _SECTION + at_names + len(names), bound)
        names += dll.encode() + b"\0"
    return directory.ljust(at_lists, b"\0") + lists + names, where


def _code(where: dict[str, int]) -> bytes:
    code = b"\x48\x83\xec\x28"  # sub rsp, 40

    def here() -> int:
        return _SECTION + _CODE + len(code)

    def call(name: str) -> bytes:
        return b"\xff\x15" + struct.pack("<i", where[name] - (here() + 6))

    def address(lea: bytes, place: int) -> bytes:  # of a register, relative to the next instruction
        return lea + struct.pack("<i", _SECTION + place - (here() + 7))

    code += call("GetCurrentProcessId")
    code += b"\x89\x44\x24\x20"  # mov [rsp + 32], eax
    code += call("GetCommandLineA")
    code += b"\x49\x89\xc1"  # mov r9, rax
    code += b"\x44\x8b\x44\x24\x20"  # mov r8d, [rsp + 32]
    code += address(b"\x48\x8d\x15", _FORMAT)  # lea rdx
    code += address(b"\x48\x8d\x0d", _BUFFER)  # lea rcx
    code += call("sprintf")
    code += address(b"\x48\x8d\x0d", _BUFFER)
    code += call("system")
    code += b"\x89\xc1"  # mov ecx, eax
    code += call("ExitProcess")
    return code


def _headers() -> bytes:
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, 1, 0, 0, 0, 240, 0x22)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, _SIZE, 0, 0, _SECTION + _CODE, _SECTION)
    optional += struct.pack(
        "<QIIHHHHHHIIIIHH", _BASE, 0x1000, 0x200, 6, 0, 0, 0, 6, 0, 0, 0x3000, _FILE, 0, 3, 0
    )
    optional += struct.pack("<QQQQII", 0x100000, 0x1000, 0x100000, 0x1000, 0, 16)
    optional += struct.pack("<IIII", 0, 0, _SECTION + _TABLES, 20 * (len(_IMPORTS) + 1)).ljust(128, b"\0")
    section = struct.pack("<8sIIIIIIHHI", b".all", _SIZE, _SECTION, _SIZE, _FILE, 0, 0, 0, 0, 0xE0000060)
    return dos + coff + optional + section
