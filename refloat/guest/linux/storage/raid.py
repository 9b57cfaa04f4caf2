"""mdadm.conf(5): arrays are known by UUID; what names their members by the bus would hide them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from refloat.guest.linux.edits import Edit, Rewritten
from refloat.guest.linux.storage.names import bound, is_kernel_name

MDADM_CONFS = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")

_WORD = re.compile(r"[^ \t]+")
# What DEVICE says where it is not written at all.
_EVERYTHING = "partitions containers"
_GLOBS = re.compile(r"/dev/(?:sd|vd|xvd|hd|nvme)[\w*?\[\]!-]*")


@dataclass(frozen=True)
class Array:
    """An ARRAY line: `uuid` as 32 hexadecimal digits, empty where the line has none."""

    line: int
    name: str
    uuid: str
    devices: str


def digits(uuid: str) -> str:
    """A UUID in the one spelling that can be compared: mdadm writes colons, blkid hyphens."""
    return uuid.lower().replace(":", "").replace("-", "")


def parse_mdadm_conf(text: str) -> tuple[Array, ...]:
    found: dict[int, dict[str, str]] = {}
    for start, keyword, _, words in _lines(text):
        if keyword != "array":
            continue
        values = found.setdefault(start, {})
        for word in words:
            key, separator, value = word.group().partition("=")
            if separator:
                values.setdefault(key.lower(), value)
            else:
                values.setdefault("", key)
    return tuple(
        Array(line, values.get("", ""), digits(values.get("uuid", "")), values.get("devices", ""))
        for line, values in found.items()
    )


def rewrite_mdadm_conf(text: str, path: str) -> Rewritten:
    """DEVICE looks everywhere instead of at names of the old bus, and no ARRAY is known by such names alone.

    mdadm takes a member only if all that an ARRAY line says fits it: a devices= beside a UUID goes.
    """
    lines, edits = text.split("\n"), []
    problems = []
    uuids = {array.line: array.uuid for array in parse_mdadm_conf(text)}
    for start, keyword, number, words in _lines(text):
        replaced: list[tuple[int, int, str]] = []
        for word in words:
            value = word.group()
            if keyword == "device" and _of_the_bus(value):
                replaced.append((*word.span(), "" if replaced else _EVERYTHING))
            elif keyword == "array" and value.lower().startswith("devices=") and _of_the_bus(value[8:]):
                if uuids.get(start):
                    replaced.append((*word.span(), ""))
                else:
                    problems.append(f"{path}:{number}: this array is known by its members' names alone")
        for begin, end, new in reversed(replaced):
            line = lines[number - 1]
            edits.append(Edit(number, line[begin:end], new or "(nothing)"))
            head, tail = line[:begin], line[end:]
            if not new:  # with the blanks on one side
                head, tail = (head, tail.lstrip(" \t")) if tail.strip() else (head.rstrip(" \t"), tail)
            lines[number - 1] = f"{head}{new}{tail}"
    return Rewritten("\n".join(lines), tuple(edits), tuple(problems))


def _of_the_bus(value: str) -> bool:
    return any(is_kernel_name(one) or bound(one) or _GLOBS.fullmatch(one) for one in value.split(","))


def _lines(text: str) -> Iterator[tuple[int, str, int, list[re.Match[str]]]]:
    """Where the statement starts, its keyword, the line's number and its words after the keyword."""
    start, keyword = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        words = list(_WORD.finditer(line.rstrip("\r")))
        comment = next(
            (index for index, word in enumerate(words) if word.group().startswith("#")), len(words)
        )
        words = words[:comment]
        if not words:
            continue
        if line[0] not in " \t":
            start, keyword, words = number, _keyword(words[0].group()), words[1:]
        yield start, keyword, number, words


def _keyword(word: str) -> str:
    """Keywords may be cut down to three letters."""
    lower = word.lower()
    full = ("device", "array")
    return next((one for one in full if len(lower) >= 3 and one.startswith(lower)), lower)
