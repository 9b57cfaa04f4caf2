"""Screenshots to pixels: PNG as platforms make it, read within bounds. The content is the guest's: hostile.

No picture library: those read dozens of formats, and their flaws are what a hostile picture is made for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

LARGEST = 16 << 20  # bytes of a file
MOST_PIXELS = 5_000_000  # some 2560 by 1600
_SIDE = 8192
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bytes per pixel of 8 bits a channel, by colour type: PNG specification, 11.2.2.
_CHANNELS = {0: 1, 2: 3, 3: 1, 6: 4}


class BadPicture(ValueError):
    """Not a PNG of the plain kinds that platforms make, or too large."""


@dataclass(frozen=True)
class Pixels:
    """Rows from the top; `step` bytes are one pixel. What the bytes mean does not matter: console.py asks
    only which pixels are alike."""

    width: int
    height: int
    step: int
    rows: tuple[bytes, ...]


def read_png(data: bytes) -> Pixels:
    """Raises BadPicture. Checksums are not looked at: a picture is evidence, and nothing is executed."""
    if len(data) > LARGEST or not data.startswith(_SIGNATURE):
        raise BadPicture("no PNG, or a very large one")
    header, packed = b"", bytearray()
    for kind, content in _chunks(data):
        if kind == b"IHDR":
            header = header or content
        elif kind == b"IDAT":
            packed += content
    if len(header) != 13:
        raise BadPicture("the PNG has no header")
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    depth, colour, interlaced = header[8], header[9], header[12]
    if not (0 < width <= _SIDE and 0 < height <= _SIDE and width * height <= MOST_PIXELS):
        raise BadPicture(f"a picture of {width} by {height} pixels")
    if colour not in _CHANNELS or interlaced or depth not in ((1, 2, 4, 8) if colour in (0, 3) else (8,)):
        raise BadPicture("a kind of PNG that platforms do not make")
    step = _CHANNELS[colour]
    stride = (width * step * depth + 7) // 8
    rows = tuple(_rows(_unpacked(bytes(packed), (stride + 1) * height), stride, step))
    if depth < 8:
        rows = tuple(_spread(row, depth, width) for row in rows)
    return Pixels(width, height, step, rows)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(_SIGNATURE)
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4])
        if place + 12 + size > len(data):
            raise BadPicture("the PNG is cut off")
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        place += 12 + size


def _unpacked(packed: bytes, size: int) -> bytes:
    """Never more than `size` bytes, whatever the stream would become."""
    try:
        found = zlib.decompressobj().decompress(packed, size)
    except zlib.error as error:
        raise BadPicture(f"the PNG's data: {error}") from error
    if len(found) != size:
        raise BadPicture("the PNG has fewer rows than it says")
    return found


def _rows(data: bytes, stride: int, step: int) -> Iterator[bytes]:
    """Takes back the filter of each row: PNG specification, 9.2."""
    above = bytes(stride)
    for start in range(0, len(data), stride + 1):
        row = data[start + 1 : start + 1 + stride]
        above = _unfiltered(data[start], row, above, step)
        yield above


def _unfiltered(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    if kind == 0:
        return row
    if kind == 2:
        return bytes((value + up) & 255 for value, up in zip(row, above, strict=True))
    if kind not in (1, 3, 4):
        raise BadPicture(f"unknown filter {kind}")
    out = bytearray(row)
    for place in range(len(out)):
        left = out[place - step] if place >= step else 0
        if kind == 1:
            guess = left
        elif kind == 3:
            guess = (left + above[place]) >> 1
        else:
            guess = _paeth(left, above[place], above[place - step] if place >= step else 0)
        out[place] = (out[place] + guess) & 255
    return bytes(out)


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    far = abs(guess - left), abs(guess - up), abs(guess - corner)
    return left if far[0] <= far[1] and far[0] <= far[2] else up if far[1] <= far[2] else corner


def _spread(row: bytes, depth: int, width: int) -> bytes:
    """One byte for each pixel of a row that packs several into one."""
    mask = (1 << depth) - 1
    shifts = range(8 - depth, -1, -depth)
    return bytes(value >> shift & mask for value in row for shift in shifts)[:width]


def is_plain(pixels: Pixels) -> bool:
    """One colour throughout: a screen that is off, or was blanked."""
    first = pixels.rows[0]
    return (
        all(row == after for row, after in pairwise(pixels.rows))
        and len({first[place : place + pixels.step] for place in range(0, len(first), pixels.step)}) == 1
    )
