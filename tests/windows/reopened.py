"""A second opinion on a hive: what hivex and python-registry, two other parsers, read in it."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hivex
from Registry import Registry as PythonRegistry

Content = dict[str, dict[str, tuple[int, bytes]]]


def by_hivex(content: bytes, key: str = "") -> Content:
    """The values by name, of the key and all keys below it by path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hive"
        path.write_bytes(content)
        handle = hivex.Hivex(str(path))
        node = handle.root()
        for part in [part for part in key.split("\\") if part]:
            found = handle.node_get_child(node, part)
            if found is None:
                return {}
            node = found
        return dict(_below(handle, node, key))


def _below(handle: hivex.Hivex, node: int, path: str) -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    yield path, {handle.value_key(one): handle.value_value(one) for one in handle.node_values(node)}
    for child in handle.node_children(node):
        yield from _below(handle, child, f"{path}\\{handle.node_name(child)}".lstrip("\\"))


def by_python_registry(content: bytes, key: str = "") -> Content:
    """The same, read by python-registry."""
    registry = PythonRegistry.Registry(io.BytesIO(content))
    try:
        found = registry.open(key) if key else registry.root()
    except PythonRegistry.RegistryKeyNotFoundException:
        return {}
    return dict(_keys(found, key))


def _keys(key: PythonRegistry.RegistryKey, path: str) -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    values = {}
    for one in key.values():
        name = "" if one.name() == "(default)" else one.name()
        record = one._vkrecord
        # Of short values, kept in their own record, it gives more or less than there is.
        inline = record.raw_data_length() >= 0x80000000
        data = record.unpack_binary(0x8, 4)[: record.data_length()] if inline else one.raw_data()
        values[name] = (one.value_type(), data)
    yield path, values
    for child in key.subkeys():
        yield from _keys(child, f"{path}\\{child.name()}".lstrip("\\"))
