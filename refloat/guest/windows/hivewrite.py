"""Applies changes to a hive with hivex, and mends what hivex leaves otherwise than Windows does.

hivex gets nothing but hives that regf.py has accepted. The files are in memory (memfd): secrets of the guest
do not reach the disk of the machine where this runs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from refloat.errors import Failed
from refloat.guest.windows.regf import BASE, NIL, SEGMENT, Regf, checksum, fold, opened

if TYPE_CHECKING:
    import hivex

    from refloat.guest.windows.hive import Key

_LIST, _CLASS_AT = 32, 52  # fields of a key, from the begin of its cell
_INLINE = 0x80000000


def written(name: str, regf: Regf, root: Key) -> bytes:
    """The hive's bytes after the changes below `root`. Raises Failed where hivex cannot make them."""
    content = _prepared(name, regf, root)
    parents: dict[int, bool] = {}
    try:
        changed = _applied(content, root, parents)
    except (OSError, RuntimeError, ValueError) as error:
        raise _failed(name, str(error)) from error
    return _mended(name, regf, changed, parents)


def _failed(name: str, why: str) -> Failed:
    return Failed(
        f"the registry hive {name} could not be changed: {why}",
        code="hive_write",
        hint="nothing was written to the hive; report this with the guest's version of Windows",
    )


# ---------------------------------------------------------------- before


def _prepared(name: str, regf: Regf, root: Key) -> bytearray:
    """The hive without what hivex would stumble over in the keys that it is about to write."""
    content = bytearray(regf.content)
    for key in _changed(root):
        if key.offset is None:
            continue
        if not key.gone:
            _check_values(name, regf, key)
        _tidy(regf, content, key)
    return content


def _check_values(name: str, regf: Regf, key: Key) -> None:
    """hivex writes all values of a key anew. It keeps long ones in one cell, which Windows takes for a list
    of parts, and cuts names at a NUL."""
    for label, (spelled, value) in (key.values or {}).items():
        if len(value.data) > SEGMENT:
            raise _failed(name, f"the key {key.name} has a value of {len(value.data)} bytes: {label!r}")
        if "\0" in spelled or not _is_text(spelled):
            raise _failed(name, f"the key {key.name} has a value with a name that is no text: {label!r}")


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _tidy(regf: Regf, content: bytearray, key: Key) -> None:
    """An empty value needs no cell and an empty class name neither: what their offsets say is not followed
    by Windows, but hivex would free a cell there."""
    assert key.offset is not None
    for cell in regf.value_cells(key.offset):
        if struct.unpack_from("<I", content, BASE + cell + 8)[0] == 0:
            struct.pack_into("<I", content, BASE + cell + 8, _INLINE)
    if struct.unpack_from("<H", content, BASE + key.offset + 78)[0] == 0:
        struct.pack_into("<I", content, BASE + key.offset + _CLASS_AT, NIL)


def _changed(key: Key) -> Iterator[Key]:
    """The keys whose own record or values hivex will write or free."""
    if key.gone or (key.values is not None and key.values != key.before):
        yield key
    for child in (key.children or {}).values():
        yield from _changed(child)


# ---------------------------------------------------------------- hivex


def _applied(content: bytearray, root: Key, parents: dict[int, bool]) -> bytearray:
    """What hivex makes of it; `parents` gets the keys whose lists of subkeys it changed, and whether
    they were there before."""
    # Not at the top: a guest is inspected on machines without hivex, too.
    import hivex

    with _memory(content) as before, _memory(b"") as after:
        handle = hivex.Hivex(before, write=True)
        assert root.offset is not None
        _apply(handle, root, BASE + root.offset, parents)
        handle.commit(after)
        with open(after, "rb") as stream:
            return bytearray(stream.read())


@contextmanager
def _memory(content: bytes | bytearray) -> Iterator[str]:
    """A path that leads to a file in memory."""
    fd = os.memfd_create("hive", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb") as stream:
        stream.write(content)
        stream.flush()
        yield f"/proc/self/fd/{fd}"


def _apply(handle: hivex.Hivex, key: Key, node: int, parents: dict[int, bool]) -> None:
    """hivex knows a key by the offset of its cell in the file, which never changes."""
    if key.values is not None and key.values != key.before:
        handle.node_set_values(
            node, [{"key": name, "t": one.type, "value": one.data} for name, one in key.values.values()]
        )
    for child in (key.children or {}).values():
        if child.gone and child.offset is None:
            continue
        if child.gone:
            handle.node_delete_child(BASE + (child.offset or 0))
            parents[node - BASE] = key.offset is not None
            continue
        if child.offset is None:
            parents[node - BASE] = key.offset is not None
            below = handle.node_add_child(node, child.name)
        else:
            below = BASE + child.offset
        _apply(handle, child, below, parents)


# ---------------------------------------------------------------- after


def _mended(name: str, regf: Regf, content: bytearray, parents: dict[int, bool]) -> bytes:
    """A key without subkeys has no list of them, and the lists are in the order that Windows searches by
    (hivex sorts as C does, where "_" comes before letters)."""
    changed = opened(name, bytes(content))
    for key, was_there in parents.items():
        leaves = changed.leaves(key)
        if not leaves:
            _drop_list(content, key)
        elif not all(changed.leaf(leaf) for leaf in leaves):
            raise _failed(name, f"a list of subkeys of {changed.name(key)} would be empty")
        elif not was_there or _is_sorted(regf, key):
            _sort(changed, content, leaves)
    struct.pack_into("<I", content, 508, checksum(content))
    return bytes(content)


def _is_sorted(regf: Regf, key: int) -> bool:
    """Whether the subkeys were in the order that we know: otherwise they are left as they are."""
    ranks = [_rank(regf.name(child)) for child in regf.subkeys(key)]
    return ranks == sorted(ranks)


def _drop_list(content: bytearray, key: int) -> None:
    where = struct.unpack_from("<I", content, BASE + key + _LIST)[0]
    if where != NIL:
        size = struct.unpack_from("<i", content, BASE + where)[0]
        struct.pack_into("<i", content, BASE + where, abs(size))
        struct.pack_into("<I", content, BASE + key + _LIST, NIL)


def _sort(regf: Regf, content: bytearray, leaves: list[int]) -> None:
    """Puts the entries of one key's lists in order, each list keeping its length."""
    steps = {regf.step(leaf) for leaf in leaves}
    if len(steps) != 1:
        return
    step = steps.pop()
    places = [BASE + leaf + 8 + step * index for leaf in leaves for index in range(len(regf.leaf(leaf)))]
    entries = [bytes(content[place : place + step]) for place in places]
    ordered = sorted(entries, key=lambda entry: _rank(regf.name(int.from_bytes(entry[:4], "little"))))
    for place, entry in zip(places, ordered, strict=True):
        content[place : place + step] = entry


def _rank(name: str) -> bytes:
    return fold(name).encode("utf-16-be", "surrogatepass")
