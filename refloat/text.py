"""How facts become text for people: sizes, spans of time, and text that others wrote."""

from __future__ import annotations

import unicodedata
from typing import Any

# Control (Cc), invisible and direction-changing (Cf), half characters (Cs): they can move the cursor,
# hide text or reorder it. What a guest or a tool reports is shown without them.
_UNSAFE = frozenset({"Cc", "Cf", "Cs"})
_MARK = "\N{REPLACEMENT CHARACTER}"


def safe(text: object, *, keep: str = "") -> str:
    """`text` on one line, with every character that could deceive a terminal or a reader replaced.

    Line ends and tabs become a space unless they are in `keep`.
    """
    return "".join(_safe_character(character, keep) for character in str(text))


def _safe_character(character: str, keep: str) -> str:
    if character in keep or character.isprintable():
        return character
    if character in "\n\r\t\u2028\u2029":
        return " "
    return _MARK if unicodedata.category(character) in _UNSAFE else character


def safe_data(value: Any, *, keep: str = "\n\t") -> Any:
    """The same data with `safe` applied to every string in it."""
    if isinstance(value, str):
        return safe(value, keep=keep)
    if isinstance(value, dict):
        return {safe(key): safe_data(item, keep=keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [safe_data(item, keep=keep) for item in value]
    return value


def size(count: float) -> str:
    """Bytes for people: 1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count == int(count) else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """A span of time for people: 0.42 -> "0.4 s", 75 -> "1 min 15 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def instant(stamp: str) -> str:
    """An ISO instant without what is the same everywhere: "2026-01-31 12:00:01"."""
    return stamp[:19].replace("T", " ")
