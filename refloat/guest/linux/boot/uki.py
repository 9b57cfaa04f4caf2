"""Unified kernel images: a kernel, its initramfs and its arguments in one signed EFI program.

Nothing in them can be edited: an image whose arguments name a device by its bus is a reason to refuse.
"""

from __future__ import annotations

import os
import struct

from refloat.guest.linux.boot import arguments, formats
from refloat.guest.linux.boot.arguments import Wanted
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.tree import Tree

_SECTIONS_LIMIT = 96  # the loader of Windows takes no more, and no Linux tool makes as many
_ARGUMENTS_LIMIT = 64 * 1024
_SECTION = 40


def embedded_arguments(tree: Tree, path: str) -> str | None:
    """The kernel arguments inside of an EFI program; None where it holds no kernel."""
    with tree.open(path) as fd:
        sections = _sections(fd)
        if ".linux" not in sections:
            return None
        offset, size = sections.get(".cmdline", (0, 0))
        content = os.pread(fd, min(size, _ARGUMENTS_LIMIT), offset)
    return content.rstrip(b"\0 \n").decode("utf-8", "surrogateescape")


def _sections(fd: int) -> dict[str, tuple[int, int]]:
    """The sections of a PE file: name -> offset and size in bytes. Empty for any other file."""
    start = os.pread(fd, 64, 0)
    if len(start) < 64 or start[:2] != b"MZ":
        return {}
    (header_at,) = struct.unpack_from("<I", start, 60)
    header = os.pread(fd, 24, header_at)
    if len(header) < 24 or header[:4] != b"PE\0\0":
        return {}
    count, optional = struct.unpack("<6xH12xH2x", header)
    table = os.pread(fd, min(count, _SECTIONS_LIMIT) * _SECTION, header_at + 24 + optional)
    found = {}
    for at in range(0, len(table) - _SECTION + 1, _SECTION):
        name, virtual, raw, offset = struct.unpack_from("<8sI4xII", table, at)
        found[name.rstrip(b"\0").decode("latin-1")] = (offset, min(virtual or raw, raw))
    return found


def problems(text: str, path: str, names: DeviceNames) -> tuple[str, ...]:
    """Why an image with these arguments would not find its devices at the destination."""
    done = arguments.rewrite(text, path, formats.plain_lines(text), Wanted(names))
    fixed = tuple(
        f"{path}: {edit.old} is part of the unified kernel image, which cannot be edited"
        for edit in done.edits
    )
    return (*fixed, *done.problems)
