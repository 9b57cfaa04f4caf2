"""Sets of bytes of a disk, as sorted lists of ranges that do not touch. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Range = tuple[int, int]  # start, end (exclusive), in bytes
Ranges = list[Range]


def normalise(ranges: Iterable[Range]) -> Ranges:
    """Sorted and joined; empty ranges go."""
    out: Ranges = []
    for start, end in sorted(one for one in ranges if one[0] < one[1]):
        if out and start <= out[-1][1]:
            if end > out[-1][1]:
                out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def aligned(ranges: Ranges, block: int, capacity: int) -> Ranges:
    """Grown to whole blocks, within the disk."""
    return normalise(
        (start // block * block, min(capacity, -(-end // block) * block)) for start, end in ranges
    )


def intersect(left: Ranges, right: Ranges) -> Ranges:
    out: Ranges = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            out.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return out


def subtract(left: Ranges, right: Ranges) -> Ranges:
    """What is in `left` and not in `right`."""
    out: Ranges = []
    j = 0
    for start, end in left:
        while j < len(right) and right[j][1] <= start:
            j += 1
        at, k = start, j
        while k < len(right) and right[k][0] < end:
            if right[k][0] > at:
                out.append((at, right[k][0]))
            at = right[k][1]
            k += 1
        if at < end:
            out.append((at, end))
    return out


def total(ranges: Ranges) -> int:
    return sum(end - start for start, end in ranges)


def pieces(ranges: Ranges, longest: int) -> Iterator[Range]:
    """The same bytes, in pieces of at most `longest`."""
    for start, end in ranges:
        for at in range(start, end, longest):
            yield at, min(at + longest, end)


def divided(ranges: Ranges, parts: Iterable[Range]) -> Iterator[tuple[Range, Ranges]]:
    """Each part (sorted, apart) with those of the bytes that lie in it."""
    rest = iter(ranges)
    one = next(rest, None)
    for start, end in parts:
        mine: Ranges = []
        while one is not None and one[0] < end:
            if one[1] > start:
                mine.append((max(one[0], start), min(one[1], end)))
            if one[1] > end:
                break
            one = next(rest, None)
        yield (start, end), mine
