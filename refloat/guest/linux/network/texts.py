"""Configuration files line by line: read without losing where a value stands, edited without touching the
lines that are not meant. Shell assignments (sysconfig) and sections (keyfiles, systemd)."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_SECTION = re.compile(r"\s*\[([^\]]*)\]\s*")
# What needs no quotes in a shell assignment.
_BARE = re.compile(r"[A-Za-z0-9._:/@%+,=-]*")
_LINE_LIMIT = 16384


@dataclass(frozen=True)
class Entry:
    """One assignment: `line` from 0. `section` is empty for shell files; `part` counts the sections of a
    file, as systemd has several of one name."""

    line: int
    key: str
    value: str
    section: str = ""
    part: int = 0


def shell_entries(text: str) -> Iterator[Entry]:
    """KEY=VALUE lines with shell quoting. A value that the shell would compute ($, `) comes as written."""
    for index, line in enumerate(text.split("\n")):
        match = _ASSIGNMENT.fullmatch(line) if len(line) < _LINE_LIMIT else None
        if match:
            yield Entry(index, match[1], unquoted(match[2]))


def settings(text: str) -> dict[str, str]:
    """The values of KEY=VALUE lines; of several lines with one key the last counts."""
    return {entry.key: entry.value for entry in shell_entries(text)}


def split_name(prefixes: Sequence[str], path: str) -> tuple[str, str]:
    """The prefix of a file's name and what follows: ("ifcfg-", "eth0:1"); "" and the name without one."""
    name = posixpath.basename(path)
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
    return prefix, name[len(prefix) :]


def unquoted(value: str) -> str:
    try:
        words = shlex.split(value, comments=True)
    except ValueError:
        return value.strip()
    return words[0] if words else ""


def computed(value: str) -> bool:
    """Whether only a shell could tell the value."""
    return "$" in value or "`" in value


def quoted(value: str) -> str:
    """A value for a shell assignment."""
    return value if _BARE.fullmatch(value) else "'" + value.replace("'", "") + "'"


def requoted(line: str, key: str, value: str) -> str:
    """The line with another value, in the quotes that it had."""
    head, _, rest = line.partition("=")
    quote = rest.strip()[:1]
    if quote in ("'", '"'):
        return f"{head}={quote}{value}{quote}"
    return f"{head or key}={quoted(value)}"


def valued(line: str, value: str) -> str:
    """The line with another value behind its "=", and the spaces that it had."""
    head, equals, rest = line.partition("=")
    lead = rest[: len(rest) - len(rest.lstrip())] if rest.strip() else ""
    return f"{head}{equals}{lead}{value}{rest[len(rest.rstrip()) :] if rest.strip() else ''}"


def section_entries(text: str) -> Iterator[Entry]:
    """Key=Value lines below [Section] lines."""
    section, part = "", 0
    for index, line in enumerate(text.split("\n")):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;" or len(line) >= _LINE_LIMIT:
            continue
        header = _SECTION.fullmatch(line)
        if header:
            section, part = header[1], part + 1
        elif "=" in stripped and section:
            key, _, value = stripped.partition("=")
            yield Entry(index, key.strip(), value.strip(), section, part)


def section_end(text: str, section: str) -> int | None:
    """The line before which an entry is added to the first section of this name: after its last line
    that is not empty. None where there is no such section."""
    inside, end = False, None
    for index, line in enumerate(text.split("\n")):
        header = _SECTION.fullmatch(line)
        if header:
            if inside:
                break
            inside = header[1] == section
        if inside and line.strip():
            end = index + 1
    return end


def edited(
    text: str,
    changes: Mapping[int, str | None],
    added: Mapping[int, Sequence[str]] | None = None,
) -> str:
    """The text with lines replaced (None: deleted) and lines added before a line number. All else stays."""
    lines = text.split("\n")
    result: list[str] = []
    added = added or {}
    for index, line in enumerate(lines):
        result += added.get(index, ())
        new = changes.get(index, line)
        if new is not None:
            result.append(new)
    beyond = [line for index, extra in sorted(added.items()) if index >= len(lines) for line in extra]
    if beyond and result and not result[-1]:
        result[-1:] = [*beyond, ""]
    else:
        result += beyond
    return "\n".join(result)


def last_line(text: str) -> int:
    """The line number before which something is appended to the file."""
    return text.count("\n") if text.endswith("\n") else text.count("\n") + 1


def swapped(text: str, words: Mapping[str, str]) -> str:
    """Each word (an address, a name) replaced as a whole: not as a part of a longer one."""
    if not words:
        return text
    choices = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w.:@-])({choices})(?![\w:@-]|\.\w)", re.IGNORECASE)
    lowered = {word.lower(): new for word, new in words.items()}
    return pattern.sub(lambda match: lowered[match[1].lower()], text)
