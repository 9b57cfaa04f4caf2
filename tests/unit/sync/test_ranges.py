from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from refloat.sync.hashes import CHUNK, ZERO, ChunkHashes, chunk_count
from refloat.sync.nbd_copy import BLOCK, plan_work
from refloat.sync.ranges import Ranges, aligned, divided, intersect, normalise, pieces, subtract, total

CAPACITY = 1000
ANY = st.lists(st.tuples(st.integers(0, CAPACITY), st.integers(0, CAPACITY)), max_size=12).map(normalise)


def as_set(ranges: Ranges) -> set[int]:
    return {at for start, end in ranges for at in range(start, end)}


@given(ANY, ANY)
def test_ranges_are_sets(left: Ranges, right: Ranges) -> None:
    assert as_set(intersect(left, right)) == as_set(left) & as_set(right)
    assert as_set(subtract(left, right)) == as_set(left) - as_set(right)
    assert as_set(normalise(left + right)) == as_set(left) | as_set(right)
    assert total(left) == len(as_set(left))
    assert as_set(list(pieces(left, 7))) == as_set(left)


@given(ANY, ANY)
def test_divided_gives_each_part_its_own(ranges: Ranges, over: Ranges) -> None:
    parts = list(pieces(over, 7))
    assert list(divided(ranges, parts)) == [(part, intersect(ranges, [part])) for part in parts]


@given(ANY)
def test_aligned_covers_whole_blocks_within_the_disk(ranges: Ranges) -> None:
    grown = aligned(ranges, 64, CAPACITY)
    assert as_set(ranges) <= as_set(grown)
    assert {at // 64 for at in as_set(ranges)} == {at // 64 for at in as_set(grown)}
    assert all(start % 64 == 0 and (end % 64 == 0 or end == CAPACITY) for start, end in grown)


BIG = 10 * CHUNK + BLOCK + 512
PLACES = st.lists(st.tuples(st.integers(0, BIG), st.integers(0, BIG)), max_size=8).map(normalise)


@given(PLACES, PLACES)
def test_work_sends_all_that_is_wanted_and_reads_all_that_it_hashes(wanted: Ranges, data: Ranges) -> None:
    work = plan_work(wanted, data, BIG)
    assert subtract(wanted, normalise([*work.data, *work.zero])) == []
    assert intersect(work.data, work.zero) == []
    assert intersect(work.zero, data) == [], "data would be lost"
    assert subtract(work.data, work.read) == []
    unread = subtract(work.touched, work.read)
    assert intersect(unread, data) == [], "a chunk with data would be called zero"
    assert subtract(normalise([*work.data, *work.zero]), work.touched) == []


@given(st.integers(1, 5 * CHUNK))
def test_chunks_cover_the_disk(capacity: int) -> None:
    hashes = ChunkHashes(capacity)
    assert (chunk_count(capacity) - 1) * CHUNK < capacity <= chunk_count(capacity) * CHUNK
    assert hashes[chunk_count(capacity) - 1] == ZERO
