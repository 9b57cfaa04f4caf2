"""Kernel modules small enough for tests: ELF files with nothing but their .modinfo."""

from __future__ import annotations

import struct

_HEADER = 64
_SECTION = 64


def kernel_module(name: str, *, alias: str = "", depends: str = "") -> bytes:
    """A relocatable x86_64 object that depmod takes for the module `name`."""
    fields = [f"name={name}", f"depends={depends}", "license=GPL"]
    if alias:
        fields.append(f"alias={alias}")
    modinfo = b"".join(field.encode() + b"\0" for field in fields)
    names = b"\0.modinfo\0.shstrtab\0"
    modinfo_at = _HEADER
    names_at = modinfo_at + len(modinfo)
    sections_at = (names_at + len(names) + 7) & ~7
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = identity + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, sections_at, 0, _HEADER, 0, 0, _SECTION, 3, 2
    )
    body = header + modinfo + names
    body += bytes(sections_at - len(body))
    body += bytes(_SECTION)
    body += struct.pack("<IIQQQQIIQQ", 1, 1, 2, 0, modinfo_at, len(modinfo), 0, 0, 1, 0)
    body += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    return body
