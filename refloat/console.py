"""A text console's picture to its lines: pure, exact, and only for fonts that are known.

A console draws each character into a cell of a fixed grid. The cell's most frequent colour is its background,
all else is ink, whatever the colours are: 8 by 16 bits (EDK II: 8 by 19), looked up among the glyphs of
console_fonts.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from refloat.console_fonts import EDK, MEASURED, UNIFONT, VGA
from refloat.console_png import Pixels

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # ink that is no known glyph: a cursor, a frame, a picture
_WIDE = 8  # pixels of a glyph
_NEAREST = 6  # bits of 128: the same letter in a VGA's ROM and in the font differs by fewer
_COLOURS = 4  # of a cell; a picture has more
_APART = 2  # bits by which the next best letter must be worse


@dataclass(frozen=True)
class Grid:
    """Cells of `wide` by `high` pixels. The glyph is the first 8 pixels of each row: a VGA's text mode leaves
    a ninth between letters."""

    wide: int = _WIDE
    high: int = 16
    left: int = 0
    top: int = 0


def read_lines(pixels: Pixels) -> tuple[str, ...]:
    """The lines of the console, without spaces at their ends; none where this is no text that can be read."""
    found = [_read(pixels, grid) for grid in grids(pixels.width, pixels.height)]
    best = max(found, key=lambda lines: sum(map(_legible, lines)), default=())
    return best if sum(map(_legible, best)) > 0 else ()


_EDK_MODES = ((100, 31), (80, 25))  # columns and lines, in the middle of the screen


def grids(width: int, height: int) -> Iterator[Grid]:
    """Where the cells can be: a VGA's text mode; Linux' framebuffer console, from the top left; EDK II's text
    modes (MdeModulePkg, GraphicsConsoleDxe)."""
    if width == 720:
        yield Grid(9)
    yield Grid()
    for columns, lines in (*_EDK_MODES, (width // _WIDE, height // 19)):
        left, top = (width - columns * _WIDE) // 2, (height - lines * 19) // 2
        if left >= 0 and top >= 0:
            yield Grid(_WIDE, 19, left, top)


def _legible(line: str) -> int:
    unknown = line.count(UNKNOWN)
    return len(line) - line.count(" ") - 2 * unknown


def _read(pixels: Pixels, grid: Grid) -> tuple[str, ...]:
    known: dict[bytes, str] = {}
    lines = []
    columns = (pixels.width - grid.left) // grid.wide
    for top in range(grid.top, pixels.height - grid.high + 1, grid.high):
        rows = pixels.rows[top : top + grid.high]
        line = []
        for column in range(columns):
            start = (grid.left + column * grid.wide) * pixels.step
            cell = b"".join(row[start : start + _WIDE * pixels.step] for row in rows)
            character = known.get(cell)
            if character is None:
                character = known[cell] = _character(cell, pixels.step, grid.high)
            line.append(character)
        lines.append("".join(line).rstrip())
    return tuple(lines)


def _character(cell: bytes, step: int, high: int) -> str:
    dots = [cell[place : place + step] for place in range(0, len(cell), step)]
    colours = Counter(dots)
    if len(colours) > _COLOURS:
        return UNKNOWN
    background = colours.most_common(1)[0][0]
    bits = 0
    for dot in dots:
        bits = bits << 1 | (dot != background)
    glyphs = _glyphs(high)
    found = glyphs.get(bits) or glyphs.get(_without_cursor(bits))
    # Only the VGA's font differs from machine to machine; the others are exactly what is drawn.
    return found or (_nearest(bits) if high == 16 else UNKNOWN)


def _without_cursor(bits: int) -> int:
    """A cursor is some full rows near the bottom of a cell, under its character or alone."""
    for row in range(5):
        if bits >> 8 * row & 0xFF == 0xFF:
            bits &= ~(0xFF << 8 * row)
    return bits


@cache
def _glyphs(high: int) -> dict[int, str]:
    """By their bits. The VGA's come last: where two fonts disagree, hers is meant."""
    found = {0: " "}
    if high != 16:
        return found | {int(word[1:], 16): word[0] for word in EDK.split()}
    for font in (UNIFONT, VGA):
        found |= {int(glyph, 16): chr(0x21 + place) for place, glyph in enumerate(font.split())}
    return found | {int(glyph, 16): character for character, glyph in MEASURED}


def _nearest(bits: int) -> str:
    best: dict[str, int] = {}
    for glyph, character in _glyphs(16).items():
        if glyph:
            far = (glyph ^ bits).bit_count()
            best[character] = min(far, best.get(character, 999))
    first, second = sorted(best.items(), key=lambda item: item[1])[:2]
    return first[0] if first[1] <= _NEAREST and second[1] - first[1] >= _APART else UNKNOWN
