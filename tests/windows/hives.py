"""Hives of our own making: from a nested dict to the bytes of a hive.

    hive({"Select": {"": {"Current": Value.dword(1)}}, "ControlSet001": {...}})

A key is a dict of its subkeys by name; the entry "" holds its values, by name. hivex makes it, from an empty
hive.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hivex

from refloat.guest.windows.regf import BASE, NIL, checksum
from refloat.guest.windows.values import Value

Keys = Mapping[str, Any]

_FILETIME = 133_000_000_000_000_000  # some day in 2022

# A security descriptor: owner and group Administrators, SYSTEM and Administrators full control.
_ADMINISTRATORS = bytes.fromhex("01020000000000052000000020020000")
_SYSTEM = bytes.fromhex("010100000000000512000000")


def _security() -> bytes:
    aces = b""
    for sid in (_SYSTEM, _ADMINISTRATORS):
        aces += struct.pack("<BBHI", 0, 2, 8 + len(sid), 0xF003F) + sid
    acl = struct.pack("<BBHHH", 2, 0, 8 + len(aces), 2, 0) + aces
    owner, group = 20, 20 + len(_ADMINISTRATORS)
    dacl = group + len(_ADMINISTRATORS)
    head = struct.pack("<BBHIIII", 1, 0, 0x9004, owner, group, 0, dacl)
    return head + _ADMINISTRATORS * 2 + acl


def _cell(record: bytes) -> bytes:
    size = -(-(len(record) + 4) // 8) * 8
    return struct.pack("<i", -size) + record.ljust(size - 4, b"\0")


def empty(name: str = "SYSTEM") -> bytes:
    """A hive with nothing but its root key."""
    label, root = b"ROOT", 32
    security_at = root + len(_cell(bytes(76) + label))
    key = struct.pack(
        "<2sHQIIIIIIIIIIIIIIIHH",
        *(
            b"nk",
            0x2C,
            _FILETIME,
            0,
            0,
            0,
            0,
            NIL,
            NIL,
            0,
            NIL,
            security_at,
            NIL,
            0,
            0,
            0,
            0,
            0,
            len(label),
            0,
        ),
    )
    descriptor = _security()
    security = struct.pack("<2sHIIII", b"sk", 0, security_at, security_at, 1, len(descriptor)) + descriptor
    cells = _cell(key + label) + _cell(security)
    rest = BASE - 32 - len(cells)
    hbin = struct.pack("<4sIIQQI", b"hbin", 0, BASE, 0, _FILETIME, 0) + cells + struct.pack("<i", rest)
    base = bytearray(BASE)
    struct.pack_into("<4sIIQIIIIIII", base, 0, b"regf", 1, 1, _FILETIME, 1, 5, 0, 1, root, BASE, 1)
    base[48 : 48 + 2 * len(name)] = name.encode("utf-16-le")
    struct.pack_into("<I", base, 508, checksum(base))
    return bytes(base) + hbin.ljust(BASE, b"\0")


def hive(keys: Keys, name: str = "SYSTEM") -> bytes:
    """A hive with these keys and values."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hive"
        path.write_bytes(empty(name))
        handle = hivex.Hivex(str(path), write=True)
        _add(handle, handle.root(), keys)
        handle.commit(None)
        return path.read_bytes()


def _add(handle: hivex.Hivex, node: int, keys: Keys) -> None:
    values: Mapping[str, Value] = keys.get("", {})
    if values:
        handle.node_set_values(
            node, [{"key": name, "t": one.type, "value": one.data} for name, one in values.items()]
        )
    for name, below in keys.items():
        if name:
            _add(handle, handle.node_add_child(node, name), below)


def merged(*parts: Keys) -> dict[str, Any]:
    """One nested dict out of several: later ones add to earlier ones."""
    result: dict[str, Any] = {}
    for part in parts:
        for name, below in part.items():
            if name and isinstance(below, Mapping):
                result[name] = merged(result.get(name, {}), below)
            else:
                result[name] = {**result.get(name, {}), **below}
    return result


def at(path: str, values: Mapping[str, Value] | None = None) -> dict[str, Any]:
    """The nested dict of one key, named by its path."""
    keys: dict[str, Any] = {"": dict(values or {})}
    for part in reversed([part for part in path.split("\\") if part]):
        keys = {part: keys}
    return keys
