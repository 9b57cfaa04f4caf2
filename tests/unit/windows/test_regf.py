"""No hive that is not sound reaches hivex, and none that is hostile costs more than a look at each cell."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refloat.errors import Failed
from refloat.guest.boundary import BoundaryViolation
from refloat.guest.windows import regf
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.regf import BASE, NIL, HiveDamaged
from refloat.guest.windows.values import Value
from tests.windows.hives import at, empty, hive, merged
from tests.windows.real import BCD, CORRUPTED, WINDOWS7, WINDOWS8, real, undirtied

SERVICES = "ControlSet001\\Services"


@cache
def sample() -> bytes:
    many = merged(*(at(f"{SERVICES}\\driver{number}", {"Start": Value.dword(3)}) for number in range(20)))
    texts = {"ImagePath": Value.expand_sz("system32\\drivers\\viostor.sys"), "Ö": Value.multi_sz(["a", "b"])}
    return hive(merged(many, at(f"{SERVICES}\\viostor", texts), at(f"{SERVICES}\\viostor\\StartOverride")))


def closed(content: bytearray) -> bytes:
    """With the base block's checksum made right again."""
    struct.pack_into("<I", content, 508, regf.checksum(content))
    return bytes(content)


def edited(where: int, data: bytes) -> bytes:
    content = bytearray(sample())
    content[where : where + len(data)] = data
    return closed(content)


def key(path: str) -> int:
    """Where the sample has a key."""
    found = regf.opened("x", sample())
    at_key = found.root
    for part in path.split("\\"):
        at_key = next(child for child in found.subkeys(at_key) if found.name(child) == part)
    return at_key


def word(number: int) -> bytes:
    return struct.pack("<I", number & NIL)


VIOSTOR = f"{SERVICES}\\viostor"
OVERRIDE = f"{VIOSTOR}\\StartOverride"


def field(path: str, offset: int) -> int:
    """Where a field of a key is in the file."""
    return BASE + key(path) + offset


def pointed(path: str, offset: int) -> int:
    """The cell in the file that a field of a key points at."""
    return BASE + int(struct.unpack_from("<I", sample(), field(path, offset))[0])


HOSTILE: dict[str, Callable[[], bytes]] = {
    "no hive": lambda: b"MZ" + sample()[2:],
    "empty": bytes,
    "cut": lambda: sample()[:-BASE],
    "cut in the base block": lambda: sample()[:700],
    "another version": lambda: edited(20, word(2)),
    "a log": lambda: edited(28, word(6)),
    "a wrong checksum": lambda: sample()[:508] + word(7) + sample()[512:],
    "no bins": lambda: edited(40, word(0)),
    "bins beyond the file": lambda: edited(40, word(0x7FFFF000)),
    "a root outside": lambda: edited(36, word(0x7FFFFFF8)),
    "a root between cells": lambda: edited(36, word(40)),
    "no bin": lambda: edited(BASE, b"hbin"[::-1]),
    "an endless bin": lambda: edited(BASE + 8, word(0)),
    "a bin elsewhere": lambda: edited(BASE + 4, word(BASE)),
    "a cell of no size": lambda: edited(BASE + key(VIOSTOR), word(0)),
    "a cell beyond its bin": lambda: edited(BASE + key(VIOSTOR), word(-0x10000)),
    "a cell of an odd size": lambda: edited(BASE + key(VIOSTOR), word(-84)),
    "a freed key": lambda: edited(
        BASE + key(VIOSTOR), word(-struct.unpack_from("<i", sample(), BASE + key(VIOSTOR))[0])
    ),
    "no key": lambda: edited(field(VIOSTOR, 4), b"xx"),
    "another parent": lambda: edited(field(VIOSTOR, 20), word(key(SERVICES) + 8)),
    "a name of 64 KiB": lambda: edited(field(VIOSTOR, 76), b"\xff\xff"),
    "a key without a name": lambda: edited(field(VIOSTOR, 76), b"\0\0"),
    "a key whose name is a path": lambda: edited(field(VIOSTOR, 80), b"a\\b"),
    "a class of 64 KiB": lambda: edited_class(),
    "too many subkeys": lambda: edited(field(VIOSTOR, 24), word(0x7FFFFFFF)),
    "subkeys outside": lambda: edited(field(VIOSTOR, 32), word(0x7FFFFFF0)),
    "a cycle": lambda: edited(pointed(VIOSTOR, 32) + 8, word(key(SERVICES))),
    "itself below itself": lambda: edited(pointed(VIOSTOR, 32) + 8, word(key(VIOSTOR))),
    "a list larger than its cell": lambda: edited(pointed(VIOSTOR, 32) + 6, b"\xff\xff"),
    "a list of another kind": lambda: edited(pointed(VIOSTOR, 32) + 4, b"zz"),
    "a shared list": lambda: edited(field(VIOSTOR, 32), word(pointed(SERVICES, 32) - BASE)),
    "too many values": lambda: edited(field(VIOSTOR, 40), word(NIL)),
    "values outside": lambda: edited(field(VIOSTOR, 44), word(0x7FFFFFF0)),
    "a value used twice": lambda: edited(pointed(VIOSTOR, 44) + 8, sample_word(pointed(VIOSTOR, 44) + 4)),
    "no security": lambda: edited(field(VIOSTOR, 48), word(0x7FFFFFF0)),
    "security that is a key": lambda: edited(field(VIOSTOR, 48), word(key(SERVICES))),
    "security whose ring leads out": lambda: edited(pointed(VIOSTOR, 48) + 8, word(0x7FFFFFF0)),
    "a large security descriptor": lambda: edited(pointed(VIOSTOR, 48) + 20, word(0x7FFFFFF0)),
    "a value of 2 GiB": lambda: edited(BASE + first_value() + 8, word(0x7FFFFFFF)),
    "a value of 100 inline bytes": lambda: edited(BASE + first_value() + 8, word(0x80000064)),
    "a value's name of 64 KiB": lambda: edited(BASE + first_value() + 6, b"\xff\xff"),
    "no value": lambda: edited(BASE + first_value() + 4, b"xx"),
}


def sample_word(where: int) -> bytes:
    return sample()[where : where + 4]


def first_value() -> int:
    return int.from_bytes(sample_word(pointed(VIOSTOR, 44) + 4), "little")


def edited_class() -> bytes:
    content = bytearray(edited(field(VIOSTOR, 78), b"\xff\xff"))
    content[field(VIOSTOR, 52) : field(VIOSTOR, 56)] = word(key(SERVICES))
    return closed(content)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_hive_is_refused(name: str) -> None:
    with pytest.raises(HiveDamaged):
        regf.opened("SYSTEM", HOSTILE[name]())


def test_the_sample_itself_is_sound() -> None:
    found = Hive.open("SYSTEM", sample())
    assert found.keys(VIOSTOR) == ("StartOverride",)
    assert found.get(VIOSTOR, "ö") == Value.multi_sz(["a", "b"])


def test_a_dirty_hive_is_not_opened_without_its_logs() -> None:
    with pytest.raises(HiveDamaged, match="logs were not replayed"):
        regf.opened("SYSTEM", edited(8, word(77)))


def used(content: bytes) -> None:
    """Reads all of a hive, and has hivex change and delete in it."""
    found = Hive.open("SYSTEM", content)
    waiting = [""]
    while waiting:
        path = waiting.pop()
        found.values(path)
        waiting += [f"{path}\\{name}" for name in found.keys(path)]
    for driver in ("viostor", "vioscsi"):
        found.set(f"{SERVICES}\\{driver}", "Start", Value.dword(0))
        found.delete_key(f"{SERVICES}\\{driver}\\StartOverride")
    found.content()


@given(st.lists(st.tuples(st.integers(BASE, len(sample()) - 1), st.integers(0, 255)), max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_refused_or_harmless(changes: list[tuple[int, int]]) -> None:
    content = bytearray(sample())
    for where, byte in changes:
        content[where] = byte
    with contextlib.suppress(HiveDamaged, BoundaryViolation, Failed):
        used(closed(content))


@given(st.integers(0, len(sample()) // 4 - 1), st.sampled_from([0, 8, 32, NIL, 0x7FFFFFFF, 0x80000000, BASE]))
@settings(max_examples=200, deadline=None)
def test_any_offset_or_count_is_refused_or_harmless(index: int, number: int) -> None:
    with contextlib.suppress(HiveDamaged, BoundaryViolation, Failed):
        used(edited(4 * index, word(number)))


@given(st.integers(0, len(sample())))
@settings(max_examples=50, deadline=None)
def test_a_cut_hive_is_refused(length: int) -> None:
    if length < len(sample()):
        with pytest.raises(HiveDamaged):
            regf.opened("SYSTEM", sample()[:length])


@given(st.binary(max_size=3 * BASE))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(HiveDamaged):
        regf.opened("SYSTEM", noise)


def test_keys_nested_too_deep_are_refused() -> None:
    deep = hive(at("\\".join(f"{number}" for number in range(600))))
    with pytest.raises(HiveDamaged, match="too deep"):
        regf.opened("SYSTEM", deep)


def test_a_hive_of_many_small_cells_costs_one_look_at_each() -> None:
    """8 MiB of cells of 8 bytes, the most that fit: a million of them."""
    size = 8 * 1024 * 1024
    content = bytearray(empty()[: 2 * BASE]) + bytearray(size)
    content[2 * BASE :] = b"".join(
        struct.pack("<4sII20x", b"hbin", BASE + offset, BASE) + struct.pack("<ii", -8, 0) * ((BASE - 32) // 8)
        for offset in range(0, size, BASE)
    )
    struct.pack_into("<I", content, 40, BASE + size)
    begin = time.process_time()
    regf.opened("SYSTEM", closed(content))
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("name", [WINDOWS7, WINDOWS8, BCD])
def test_real_hives_are_sound(name: str) -> None:
    found = Hive.open("x", undirtied(real(name)))
    assert len(found.keys()) >= 2


def test_a_real_damaged_hive_is_refused() -> None:
    with pytest.raises(HiveDamaged, match="no sound bin") as refusal:
        Hive.open("SYSTEM", real(CORRUPTED))
    assert "Windows repairs it" in refusal.value.hint
