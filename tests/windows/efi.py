"""An EFI program of our own that says one line on the first serial port and has QEMU exit.

A PE32+ image with one section, and no relocations: its code works anywhere. Source: the PE format's
specification; UEFI 2.10, 2.1.1 on images.
"""

from __future__ import annotations

import struct

EXIT_PORT = 0xF4  # -device isa-debug-exit,iobase=0xf4
_ALIGNMENT = 0x1000
_APPLICATION = 10  # the subsystem
_AMD64 = 0x8664


def program(line: str) -> bytes:
    text = line.encode("ascii") + b"\r\n\0"
    code = bytes.fromhex(
        "488d351b000000"  # lea rsi, [rip + text]
        "66baf803"  # mov dx, 0x3f8
        "ac"  # next: lodsb
        "84c0"  # test al, al
        "7403"  # jz done
        "ee"  # out dx, al
        "ebf8"  # jmp next
        "66baf400"  # done: mov dx, 0xf4
        "b001"  # mov al, 1
        "ee"  # out dx, al
        "f4"  # forever: hlt
        "ebfd"  # jmp forever
    )
    code = code.ljust(7 + 0x1B, b"\x90") + text
    return _image(code)


def _image(code: bytes) -> bytes:
    size = -(-len(code) // _ALIGNMENT) * _ALIGNMENT
    dos = b"MZ" + bytes(58) + struct.pack("<I", 64)
    file_header = struct.pack("<4sHHIIIHH", b"PE\0\0", _AMD64, 1, 0, 0, 0, 112 + 16 * 8, 0x2022)
    optional = struct.pack(
        "<HBBIIIIIQIIHHHHHHIIIIHHQQQQII",
        *(0x20B, 1, 0, size, 0, 0, _ALIGNMENT, _ALIGNMENT, 0, _ALIGNMENT, _ALIGNMENT),
        *(0, 0, 0, 0, 0, 0, 0, _ALIGNMENT + size, _ALIGNMENT, 0, _APPLICATION, 0),
        *(1 << 20, 1 << 12, 1 << 20, 1 << 12, 0, 16),
    )
    section = struct.pack(
        "<8sIIIIIIHHI", b".text", size, _ALIGNMENT, size, _ALIGNMENT, 0, 0, 0, 0, 0x60000020
    )
    head = dos + file_header + optional + bytes(16 * 8) + section
    return head.ljust(_ALIGNMENT, b"\0") + code.ljust(size, b"\0")
