"""A hive that was being written is completed from its logs, or refused: never guessed."""

from __future__ import annotations

import contextlib
import struct
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refloat.guest.windows import hivelog, regf
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.hivelog import marvin32, replayed
from refloat.guest.windows.regf import BASE, HiveDamaged
from refloat.guest.windows.values import Value
from tests.windows.hives import at, hive
from tests.windows.real import WINDOWS8, WINDOWS10, logs, real
from tests.windows.reopened import by_hivex, by_python_registry

KEY = "ControlSet001\\Services\\viostor"
Pages = list[tuple[int, bytes]]


@cache
def old() -> bytes:
    return hive(at(KEY, {"Start": Value.dword(3)}))


@cache
def new() -> bytes:
    """The old hive after Windows changed a value, with a bin more."""
    found = Hive.open("SYSTEM", old())
    found.set(KEY, "ImagePath", Value.binary(b"x" * 5000))
    return found.content()


def dirty(content: bytes, first: int = 8, second: int = 7) -> bytes:
    result = bytearray(content)
    struct.pack_into("<II", result, 4, first, second)
    struct.pack_into("<I", result, 508, regf.checksum(result))
    return bytes(result)


def base(kind: int, sequence: int, size: int, clean: bool = True) -> bytes:
    """The first sector of a log."""
    sector = bytearray(old()[:512])
    struct.pack_into("<II", sector, 4, sequence, sequence if clean else sequence - 1)
    struct.pack_into("<I", sector, 28, kind)
    struct.pack_into("<I", sector, 40, size)
    struct.pack_into("<I", sector, 508, regf.checksum(sector))
    return bytes(sector)


def entry(sequence: int, pages: Pages, size: int) -> bytes:
    body = b"".join(struct.pack("<II", offset, len(page)) for offset, page in pages)
    body += b"".join(page for _, page in pages)
    length = -(-(40 + len(body)) // 512) * 512
    body = body.ljust(length - 40, b"\0")
    head = struct.pack("<4sIIIIIQ", b"HvLE", length, 0, sequence, size, len(pages), marvin32(body))
    return head + struct.pack("<Q", marvin32(head)) + body


def difference() -> Pages:
    """The pages in which the new hive differs."""
    size = len(new()) - BASE
    before = old()[BASE:].ljust(size, b"\0")
    after = new()[BASE:]
    places = range(0, size, BASE)
    return [(at, after[at : at + BASE]) for at in places if before[at : at + BASE] != after[at : at + BASE]]


def two_logs(last: bytes = b"") -> list[bytes]:
    """Two entries in the first log, and one in the second that brings the last page."""
    size, pages = len(new()) - BASE, difference()
    assert len(pages) > 1
    first = base(6, 7, size) + entry(7, [(pages[0][0], b"\xff" * BASE)], size) + entry(8, pages[:1], size)
    second = base(6, 9, size) + (last or entry(9, pages[1:], size))
    return [first + bytes(512), second + entry(3, [(0, b"old" * 512)], size)]


def body(content: bytes) -> bytes:
    return content[BASE:]


def test_marvin32_is_the_hash_of_the_registry() -> None:
    """Vectors that .NET's own tests have, for another seed."""
    seed = 0x004FB61A001BDBCC
    assert marvin32(b"", seed) == 0x30ED35C100CD3C7D
    assert marvin32(b"\xaf", seed) == 0x48E73FC77D75DDC1
    assert marvin32(b"\xe7\x0f", seed) == 0xB5F6E1FC485DBFF8
    assert marvin32(b"\x37\xf4\x95", seed) == 0xF0B07C789B8CF7E8
    assert marvin32(b"\x86\x42\xdc\x59", seed) == 0x7008F2E87E9CF556
    assert marvin32(b"\x15\x3f\xb7\x98\x26", seed) == 0xE6C08C6DA2AFA997


def test_a_clean_hive_stays_whatever_its_logs_say() -> None:
    assert replayed("SYSTEM", old(), two_logs()) == old()


def test_entries_are_applied_in_their_order_over_both_logs() -> None:
    result = replayed("SYSTEM", dirty(old()), two_logs())
    assert body(result) == body(new())
    assert regf.header("SYSTEM", result).sequence == (9, 9)
    assert Hive.open("SYSTEM", result).get(KEY, "ImagePath") == Value.binary(b"x" * 5000)


def test_the_order_of_the_files_does_not_matter() -> None:
    assert replayed("SYSTEM", dirty(old()), two_logs()[::-1]) == replayed("SYSTEM", dirty(old()), two_logs())


def test_entries_that_the_hive_has_already_are_passed_over() -> None:
    size = len(new()) - BASE
    stale = base(6, 2, size) + entry(2, [(0, b"stale" * 100)], size)
    log = base(6, 7, size) + entry(7, difference(), size)
    assert body(replayed("SYSTEM", dirty(old()), [stale, log])) == body(new())


def test_a_log_that_was_begun_before_the_hive_was_last_whole_does_not_count() -> None:
    """As in Windows, although its later entries would fit."""
    size = len(new()) - BASE
    log = base(6, 6, size) + entry(6, [(0, b"old" * 100)], size) + entry(7, difference(), size)
    with pytest.raises(HiveDamaged, match="no log completes it"):
        replayed("SYSTEM", dirty(old()), [log])


def test_a_torn_last_entry_is_left_out() -> None:
    """Windows was writing it: what it changes had not been promised to anyone."""
    size = len(new()) - BASE
    torn = bytearray(entry(8, [(0, b"\xee" * BASE)], size))
    torn[-1] ^= 1
    log = base(6, 7, size) + entry(7, difference(), size) + bytes(torn)
    assert body(replayed("SYSTEM", dirty(old()), [log])) == body(new())


def test_a_base_block_that_was_torn_comes_from_the_latest_log() -> None:
    broken = bytearray(dirty(old()))
    broken[508] ^= 1
    size = len(new()) - BASE
    earlier = base(6, 5, size) + entry(5, [(0, b"earlier" * 100)], size)
    latest = base(6, 7, size) + entry(7, difference(), size)
    result = replayed("SYSTEM", bytes(broken), [latest, earlier])
    assert body(result) == body(new())
    assert not regf.header("SYSTEM", result).dirty


@pytest.mark.parametrize("without", ["nothing", "unused", "empty", "torn", "stale"])
def test_a_dirty_hive_that_no_log_completes_is_refused(without: str) -> None:
    size = len(new()) - BASE
    torn = bytearray(entry(7, difference(), size))
    torn[200] ^= 1
    kept = {
        "nothing": [],
        "unused": [b"", bytes(1024)],
        "empty": [base(6, 7, size)],
        "torn": [base(6, 7, size) + bytes(torn)],
        "stale": [base(6, 2, size) + entry(2, difference(), size)],
    }
    with pytest.raises(HiveDamaged, match="no log completes it"):
        replayed("SYSTEM", dirty(old()), kept[without])


def test_a_gap_between_the_logs_is_refused() -> None:
    first, _ = two_logs()
    size = len(new()) - BASE
    with pytest.raises(HiveDamaged, match="do not follow each other"):
        replayed("SYSTEM", dirty(old()), [first, base(6, 11, size) + entry(11, difference(), size)])


def test_a_log_that_was_being_begun_is_no_log() -> None:
    size = len(new()) - BASE
    log = base(6, 7, size, clean=False) + entry(7, difference(), size)
    with pytest.raises(HiveDamaged):
        replayed("SYSTEM", dirty(old()), [log])


def bitmap_log(sequence: int = 8) -> bytes:
    """As Windows 7 writes it: a bit for each sector of 512 bytes, then those sectors."""
    size, after = len(new()) - BASE, body(new())
    changed = {
        place // 512 for offset, page in difference() for place in range(offset, offset + len(page), 512)
    }
    bits = bytearray(size // 512 // 8)
    for bit in changed:
        bits[bit // 8] |= 1 << bit % 8
    vector = (b"DIRT" + bytes(bits)).ljust(-(-(4 + len(bits)) // 512) * 512, b"\0")
    return base(1, sequence, size) + vector + b"".join(after[bit * 512 :][:512] for bit in sorted(changed))


def test_the_bitmap_of_windows_7_is_applied() -> None:
    result = replayed("SYSTEM", dirty(old()), [bitmap_log(), b""])
    assert body(result) == body(new())
    assert Hive.open("SYSTEM", result).get(KEY, "Start") == Value.dword(3)


def test_a_bitmap_log_that_is_cut_is_refused() -> None:
    with pytest.raises(HiveDamaged, match="too short"):
        replayed("SYSTEM", dirty(old()), [bitmap_log()[:-1]])


def test_two_bitmap_logs_are_refused() -> None:
    with pytest.raises(HiveDamaged, match="two logs"):
        replayed("SYSTEM", dirty(old()), [bitmap_log(), bitmap_log(9)])


def test_a_bitmap_log_of_another_time_is_refused() -> None:
    other = bytearray(dirty(old()))
    other[12] ^= 1
    struct.pack_into("<I", other, 508, regf.checksum(other))
    with pytest.raises(HiveDamaged, match="no log completes it"):
        replayed("SYSTEM", bytes(other), [bitmap_log()])


@given(
    which=st.integers(0, 1),
    kept=st.integers(0, 20000),
    changes=st.lists(st.tuples(st.integers(0, 20000), st.integers(0, 255)), max_size=4),
    kind=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_hostile_logs_are_refused_or_leave_a_file_of_bounded_size(
    which: int, kept: int, changes: list[tuple[int, int]], kind: bool
) -> None:
    files = two_logs() if kind else [bitmap_log(), b""]
    hostile = bytearray(files[which][:kept])
    for where, byte in changes:
        if where < len(hostile):
            hostile[where] = byte
    if len(hostile) >= 512:
        struct.pack_into("<I", hostile, 508, regf.checksum(hostile))
    files[which] = bytes(hostile)
    with contextlib.suppress(HiveDamaged):
        assert len(replayed("SYSTEM", dirty(old()), files)) <= BASE + regf.HIVE_LIMIT


# ---------------------------------------------------------------- real hives


def test_the_real_dirty_hive_of_windows_10_is_completed() -> None:
    """24 entries with 315 pages, in two logs that follow each other."""
    content = real(WINDOWS10)
    head = regf.header("SYSTEM", content)
    sound = [log for one in logs(WINDOWS10) if (log := hivelog._opened(one))]
    chain = hivelog._chain("SYSTEM", head, sound)
    assert (len(chain), sum(len(one.pages) for one in chain)) == (24, 315)
    result = replayed("SYSTEM", content, logs(WINDOWS10))
    assert regf.header("SYSTEM", result).sequence == (2130, 2130)
    found = Hive.open("SYSTEM", result)
    for key in (
        "Select",
        "MountedDevices",
        "ControlSet001\\Services\\Tcpip",
        "DriverDatabase\\DeviceIds\\PCI",
    ):
        values = by_hivex(result, key)
        assert values == by_python_registry(result, key)
        for path, entries in values.items():
            assert {name: (one.type, one.data) for name, one in found.values(path).items()} == entries


def test_the_real_dirty_hive_is_refused_without_its_logs() -> None:
    with pytest.raises(HiveDamaged, match="no log completes it"):
        replayed("SYSTEM", real(WINDOWS10), [])
    with pytest.raises(HiveDamaged, match="no log completes it"):
        replayed("SYSTEM", real(WINDOWS8), [])
