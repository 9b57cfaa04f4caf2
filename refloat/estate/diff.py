"""What another estate would change, object by object, in words that may be shown: no secret is among them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from refloat.estate.estate import Estate
from refloat.estate.forms import Form
from refloat.estate.probes import HttpForm

LONGEST = 200  # characters of a value that are shown
HIDDEN = "(hidden)"

# A section of the estate, and what one of its objects is called.
KINDS = {
    "sites": "site",
    "mappings": "mapping",
    "policies": "policy",
    "protected": "protected",
    "targets": "target",
}

_SECRET = re.compile(r"pass(word|wd|phrase)|secret|token|credential|api_?key|private_?key", re.IGNORECASE)
_REFERENCE = (".file", ".env", ".sealed")  # where a secret is may be shown, what it is may not
_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_PROGRAMS = re.compile(r"(^|\.)(command|reader)$")  # argument lists: a secret has no name of its own there

_URL_PATH = re.compile(r"^probes\.\d+\.path$")


class What(StrEnum):
    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True)
class FieldChange:
    """Empty: the field has no value there. A secret that changed is `HIDDEN` on both sides."""

    field: str
    old: str
    new: str


@dataclass(frozen=True)
class Change:
    """`kind` is one of KINDS' words. What is added is told by its fields, what is removed by name alone."""

    what: What
    kind: str
    name: str
    fields: tuple[FieldChange, ...] = ()


def differences(old: Estate, new: Estate) -> tuple[Change, ...]:
    """Empty where both mean the same, however they are written."""
    return tuple(change for section in KINDS for change in _in_section(section, old, new))


def new_reach(old: Estate, new: Estate) -> tuple[str, ...]:
    """Of the hub's own machine, what no object named before: programs that it would run, files and variables
    that it would read, addresses that it would show its secrets to. Fit to be shown."""
    known = {value for _, value in _reach(old)}
    return tuple(dict.fromkeys(_shown(place, value) for place, value in _reach(new) if value not in known))


def _reach(estate: Estate) -> Iterator[tuple[str, str]]:
    yield from (("site", site.uri) for site in estate.sites.values())  # of libvirt it may name a program, too
    for policy in estate.policies.values():
        for probe in policy.probes:
            if isinstance(probe, HttpForm) and probe.headers and probe.address:
                yield "probe", f"{probe.address} is shown {', '.join(sorted(probe.headers.values()))}"
    for section in KINDS:
        for form in _objects(section, estate).values():
            for place, value in _fields(form, defaults=False).items():
                if _PROGRAMS.search(place) or place.endswith(".env") or _is_file(place, value):
                    yield place, value


def _is_file(place: str, value: str) -> bool:
    return value.startswith("/") and not _URL_PATH.search(place)


def _in_section(section: str, old: Estate, new: Estate) -> Iterator[Change]:
    before, after, kind = _objects(section, old), _objects(section, new), KINDS[section]
    for name, form in after.items():
        if name not in before:
            yield Change(What.ADDED, kind, name, _told({}, _fields(form, defaults=False)))
            continue
        was, is_now = _fields(before[name]), _fields(form)
        if was != is_now:
            yield Change(What.CHANGED, kind, name, _told(was, is_now))
    for name in before:
        if name not in after:
            yield Change(What.REMOVED, kind, name)


def _objects(section: str, estate: Estate) -> Mapping[str, Form]:
    if section == "mappings":
        return {mapping.source: mapping for mapping in estate.mappings}
    found: Mapping[str, Form] = getattr(estate, section)
    return found


def _fields(form: Form, defaults: bool = True) -> dict[str, str]:
    data = form.model_dump(mode="json", by_alias=True, exclude_defaults=not defaults)
    return dict(_flat("", data))


def _flat(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """`a.b.0.c` and its value as text; what is empty has none."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{place}.{key}" if place else str(key), item)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from _flat(f"{place}.{index}", item)
    elif isinstance(value, list):
        if value:
            yield place, " ".join(_word(item) for item in value)
    elif value not in (None, ""):
        yield place, _word(value)


def _word(value: object) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _told(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[FieldChange, ...]:
    """Compared as they are, and only then made fit to be shown."""
    places = [*new, *(place for place in old if place not in new)]
    return tuple(
        FieldChange(place, _shown(place, old.get(place, "")), _shown(place, new.get(place, "")))
        for place in places
        if old.get(place) != new.get(place)
    )


def _shown(place: str, value: str) -> str:
    named = _SECRET.search(place) and not place.endswith(_REFERENCE)
    if value and (named or (_PROGRAMS.search(place) and _SECRET.search(value))):
        return HIDDEN
    value = _IN_URL.sub(HIDDEN, value)
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}... ({len(value)} characters)"
