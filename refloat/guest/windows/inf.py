"""Reading a driver's INF file as far as needed: its class, catalog, files, hardware ids and services.

The format: Microsoft's "INF file sections and directives". A driver set is an operator's, but may be damaged
or planted: everything read has a bound, and what is not understood is refused, never guessed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from refloat.errors import Refused

INF_LIMIT = 1024 * 1024  # bytes; the longest of virtio-win has 25 thousand
_LINES = 20_000
_FILES = 200
_IDS = 1_000
_BOMS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF8, "utf-8"))
_SECTION = re.compile(r"\[([^\]]{1,255})\]\s*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_GUID = re.compile(r"\{[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\}")
_ASSOCIATED = 0x2  # SPSVCINST_ASSOCSERVICE: the service that drives the device
_PLATFORMS = {"amd64": "ntamd64", "x86": "ntx86", "ARM64": "ntarm64"}

Entry = tuple[str, tuple[str, ...]]  # what is left of "=", empty without one; the fields on the right


class InfDamaged(Refused):
    default_code = "drivers_damaged"


@dataclass(frozen=True)
class Inf:
    """What an INF says for one architecture. `files` are those beside it that it installs or is proven by,
    without the INF itself; `ids` in upper case ("PCI\\VEN_1AF4&DEV_1001"); `services` those that drive a
    device, in lower case; `binaries` the file names of their programs, in the same order."""

    name: str
    class_guid: str
    version: str
    catalog: str
    files: tuple[str, ...]
    ids: frozenset[str]
    services: tuple[str, ...]
    binaries: tuple[str, ...]


def read_inf(name: str, content: bytes, architecture: str) -> Inf:
    """An INF for `architecture` (amd64, x86, ARM64). Raises InfDamaged, saying what is wrong with it."""
    if len(content) > INF_LIMIT:
        raise _damaged(name, f"it has {len(content)} bytes")
    platform = _PLATFORMS[architecture]
    sections = _sections(name, _text(name, content))
    header = _values(sections.get("version", ()))
    if header.get("signature", "").lower() not in ("$windows nt$", "$chicago$"):
        raise _damaged(name, "it has no signature of an INF")
    class_guid = header.get("classguid", "")
    if not _GUID.fullmatch(class_guid):
        raise _damaged(name, "it names no class of devices")
    catalog = header.get(f"catalogfile.{platform}") or header.get("catalogfile", "")
    if not catalog:
        raise _damaged(name, "it names no catalog, so that Windows would not trust it")
    installs, ids = _models(name, sections, platform)
    services = _services(name, sections, installs, platform)
    return Inf(
        name=name,
        class_guid=class_guid.upper(),
        version=header.get("driverver", "").partition(",")[2].strip(),
        catalog=_plain(name, catalog),
        files=tuple(dict.fromkeys([_plain(name, catalog), *_sources(name, sections, platform)])),
        ids=frozenset(ids),
        services=tuple(services),
        binaries=tuple(services.values()),
    )


# ---------------------------------------------------------------- text to sections


def _text(name: str, content: bytes) -> str:
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(encoding)
            except UnicodeDecodeError:
                raise _damaged(name, f"it says that it is {encoding}, but is not")
    # Without a mark it is in the code page of where it was made: all that matters is ASCII.
    text = content.decode("latin-1")
    if "\0" in text:
        raise _damaged(name, "it is no text")
    return text


def _sections(name: str, text: str) -> dict[str, list[Entry]]:
    """The lines of each section, by its name in lower case; equal names are one section."""
    sections: dict[str, list[Entry]] = {}
    raw: dict[str, list[str]] = {}
    current = None
    for line in _joined(name, text):
        heading = _SECTION.fullmatch(line)
        if heading:
            current = raw.setdefault(heading.group(1).strip().lower(), [])
        elif current is not None:
            current.append(line)
        else:
            raise _damaged(name, "a line stands before its first section")
    strings = {}
    for line in raw.get("strings", ()):
        key, _, value = line.partition("=")
        strings[key.strip().lower()] = _unquoted(value)
    for section, lines in raw.items():
        sections[section] = [_entry(line, strings) for line in lines]
    return sections


def _joined(name: str, text: str) -> Iterable[str]:
    """The lines without comments and blank ones, those that go on after a backslash made one."""
    lines = text.splitlines()
    if len(lines) > _LINES:
        raise _damaged(name, f"it has {len(lines)} lines")
    pending: list[str] = []
    for line in lines:
        bare = _without_comment(line).strip()
        if bare.endswith("\\") and '"' not in bare[-2:]:
            pending.append(bare[:-1])
            continue
        whole = "".join([*pending, bare]).strip()
        pending = []
        if whole:
            yield whole


def _without_comment(line: str) -> str:
    quoted = False
    for place, letter in enumerate(line):
        if letter == '"':
            quoted = not quoted
        elif letter == ";" and not quoted:
            return line[:place]
    return line


def _entry(line: str, strings: dict[str, str]) -> Entry:
    parts = _split(line, "=", 1)
    left, right = (parts[0], parts[1]) if len(parts) == 2 else ("", line)
    fields = tuple(_expanded(_unquoted(field), strings) for field in _split(right, ",", -1))
    return _expanded(_unquoted(left), strings), fields


def _split(text: str, mark: str, most: int) -> list[str]:
    """Splits at `mark` outside of quotes, at most `most` times (-1: always)."""
    parts: list[str] = []
    start, quoted = 0, False
    for place, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter == mark and not quoted and len(parts) != most:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def _expanded(text: str, strings: dict[str, str]) -> str:
    """%name% by its string, once; numbers (%12%) are directories and stay."""
    return re.sub(r"%([^%\\]{1,255})%", lambda m: strings.get(m.group(1).lower(), m.group(0))[:1024], text)


# ---------------------------------------------------------------- what the sections say


def _values(entries: Iterable[Entry]) -> dict[str, str]:
    return {left.lower(): ",".join(fields) for left, fields in entries if left}


def _sources(name: str, sections: dict[str, list[Entry]], platform: str) -> list[str]:
    """The files that come with the driver: file = disk[, folder[, size]]."""
    files = []
    for section in ("sourcedisksfiles", f"sourcedisksfiles.{platform[2:]}"):
        for left, fields in sections.get(section, ()):
            if len(fields) > 1 and fields[1].strip("\\. "):
                raise _damaged(name, f"its file {left[:60]!r} lies in a folder of its own")
            files.append(_plain(name, left))
    if not files or len(files) > _FILES:
        raise _damaged(name, f"it lists {len(files)} files")
    return files


def _models(name: str, sections: dict[str, list[Entry]], platform: str) -> tuple[list[str], list[str]]:
    """The sections that install a device, and all ids that they are for."""
    installs, ids = [], []
    for _, fields in sections.get("manufacturer", ()):
        model, decorations = fields[0].lower(), [field.lower() for field in fields[1:] if field]
        # "ntamd64.10.0...16299" is one for later builds only; a driver folder is made for its own build.
        fitting = [one for one in decorations if one == platform or one.startswith(f"{platform}.")]
        for section in [f"{model}.{one}" for one in fitting] or ([] if decorations else [model]):
            for _, (install, *hardware) in sections.get(section, ()):
                installs.append(install.lower())
                ids += [one.upper() for one in hardware if one]
    if not ids or len(ids) > _IDS:
        raise _damaged(name, f"it is for {len(ids)} devices of this architecture")
    return list(dict.fromkeys(installs)), ids


def _services(
    name: str, sections: dict[str, list[Entry]], installs: Sequence[str], platform: str
) -> dict[str, str]:
    """The services that drive the devices, each with the file name of its program."""
    found = {}
    for install in installs:
        for suffix in (f".{platform}", ".nt", ""):
            for left, fields in sections.get(f"{install}{suffix}.services", ()):
                if left.lower() == "addservice" and len(fields) >= 3 and _number(fields[1]) & _ASSOCIATED:
                    found[fields[0].lower()] = _binary(sections, fields[2])
    return {_plain(name, service): binary for service, binary in found.items()}


def _binary(sections: dict[str, list[Entry]], section: str) -> str:
    path = _values(sections.get(section.lower(), ())).get("servicebinary", "")
    return path.replace("/", "\\").rpartition("\\")[2].lower()


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0


def _plain(name: str, file: str) -> str:
    """A bare file name: nothing that leads elsewhere, or that a shell or Windows reads otherwise."""
    if not _FILE_NAME.fullmatch(file) or file.endswith("."):
        raise _damaged(name, f"{file[:60]!r} is no name of a driver's file")
    return file


def _damaged(name: str, what: str) -> InfDamaged:
    return InfDamaged(
        f"the driver file {name} is damaged: {what}",
        hint="get the driver set (virtio-win) again and compare its checksum with the publisher's",
    )
