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
from refloat.guest.windows.regf import BASE, NIL, SEGMENT, HiveDamaged, Regf, checksum, fold, opened

if TYPE_CHECKING:
    import hivex

    from refloat.guest.windows.hive import Key

# Fields of a key, from the begin of its cell.
_LIST, _CLASS_AT = 32, 52
_INLINE = 0x80000000


_Patches = dict[int, bytes]  # what is to stand at an offset of the file


def written(name: str, regf: Regf, root: Key) -> Regf:
    """The hive after the changes below `root`, checked. Raises Failed where hivex cannot make them."""
    _check_values(name, regf, root)
    parents: dict[int, bool] = {}
    try:
        content = _applied(_patched(regf.content, _tidy(regf, root)), root, parents)
    except (OSError, RuntimeError, ValueError) as error:
        raise _failed(name, str(error)) from error
    changed = _checked(name, content)
    patches = _mended(name, regf, changed, parents)
    return _checked(name, _patched(content, patches)) if patches else changed


def _checked(name: str, content: bytes) -> Regf:
    try:
        return opened(name, content)
    except HiveDamaged as error:
        raise _failed(name, f"what hivex wrote is not sound: {error.message}") from error


def _patched(content: bytes, patches: _Patches) -> bytes:
    """Mostly there are none: hives are large, and are not copied without need."""
    if not patches:
        return content
    result = bytearray(content)
    for where, data in patches.items():
        result[where : where + len(data)] = data
    struct.pack_into("<I", result, 508, checksum(result))
    return bytes(result)


def _failed(name: str, why: str) -> Failed:
    return Failed(
        f"the registry hive {name} could not be changed: {why}",
        code="hive_write",
        hint="nothing was written to the hive; report this with the guest's version of Windows",
    )


# ---------------------------------------------------------------- before


def _check_values(name: str, regf: Regf, root: Key) -> None:
    """hivex writes all values of a key anew. It keeps long ones in one cell, which Windows takes for a list
    of parts; cuts names at a NUL; and two of one name would become one."""
    for key in _changed(root):
        if key.gone:
            continue
        if key.offset is not None and len(regf.value_cells(key.offset)) != len(key.before):
            raise _failed(name, f"the key {key.name} has two values of one name")
        for spelled, value in (key.values or {}).values():
            if len(value.data) > SEGMENT:
                raise _failed(name, f"the key {key.name} has a value of {len(value.data)} bytes: {spelled!r}")
            if "\0" in spelled or not _is_text(spelled):
                raise _failed(name, f"the key {key.name} has a value whose name is no text: {spelled!r}")


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _tidy(regf: Regf, root: Key) -> _Patches:
    """An empty value needs no cell and an empty class name neither: what their offsets say is not followed
    by Windows, but hivex would free a cell there."""
    patches: _Patches = {}
    for key in _changed(root):
        if key.offset is None:
            continue
        for cell in regf.value_cells(key.offset):
            if struct.unpack_from("<I", regf.content, BASE + cell + 8)[0] == 0:
                patches[BASE + cell + 8] = _word(_INLINE)
        where = BASE + key.offset + _CLASS_AT
        at, length = struct.unpack_from("<I22xH", regf.content, where)
        if length == 0 and at != NIL:
            patches[where] = _word(NIL)
    return patches


def _word(number: int) -> bytes:
    return struct.pack("<I", number)


def _changed(key: Key) -> Iterator[Key]:
    """The keys whose own record or values hivex will write or free."""
    if key.gone or (key.values is not None and key.values != key.before):
        yield key
    for child in (key.children or {}).values():
        yield from _changed(child)


# ---------------------------------------------------------------- hivex


def _applied(content: bytes, root: Key, parents: dict[int, bool]) -> bytes:
    """What hivex makes of it; `parents` gets the keys whose lists of subkeys it changed, and whether
    they were there before."""
    # Not at the top: a guest is inspected on machines without hivex, too.
    import hivex

    assert root.offset is not None
    with _memory(content) as before:
        handle = hivex.Hivex(before, write=True)
    _apply(handle, root, BASE + root.offset, parents)
    with _memory(b"") as after:
        handle.commit(after)
        del handle  # frees its copy of the hive before the next one is made
        with open(after, "rb") as stream:
            return stream.read()


@contextmanager
def _memory(content: bytes) -> Iterator[str]:
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


def _mended(name: str, regf: Regf, changed: Regf, parents: dict[int, bool]) -> _Patches:
    """A key without subkeys has no list of them, and the lists are in the order that Windows searches by
    (hivex sorts as C does, where "_" comes before letters)."""
    patches: _Patches = {}
    for key, was_there in parents.items():
        leaves = changed.leaves(key)
        if not leaves:
            patches |= _without_list(changed, key)
        elif not all(changed.leaf(leaf) for leaf in leaves):
            raise _failed(name, f"a list of subkeys of {changed.name(key)} would be empty")
        elif not was_there or _is_sorted(regf, key):
            patches |= _sorted(changed, leaves)
    return patches


def _is_sorted(regf: Regf, key: int) -> bool:
    """Whether the subkeys were in the order that we know: otherwise they are left as they are."""
    ranks = [_rank(regf.name(child)) for child in regf.subkeys(key)]
    return ranks == sorted(ranks)


def _without_list(regf: Regf, key: int) -> _Patches:
    where = struct.unpack_from("<I", regf.content, BASE + key + _LIST)[0]
    if where == NIL:
        return {}
    size = struct.unpack_from("<i", regf.content, BASE + where)[0]
    return {BASE + where: _word(abs(size)), BASE + key + _LIST: _word(NIL)}


def _sorted(regf: Regf, leaves: list[int]) -> _Patches:
    """The entries of one key's lists in order, each list keeping its length."""
    steps = {regf.step(leaf) for leaf in leaves}
    if len(steps) != 1:
        return {}
    step = steps.pop()
    places = [BASE + leaf + 8 + step * index for leaf in leaves for index in range(len(regf.leaf(leaf)))]
    entries = [regf.content[place : place + step] for place in places]
    ordered = sorted(entries, key=lambda entry: _rank(regf.name(int.from_bytes(entry[:4], "little"))))
    return {place: new for place, old, new in zip(places, entries, ordered, strict=True) if old != new}


def _rank(name: str) -> bytes:
    return fold(name).encode("utf-16-be", "surrogatepass")
