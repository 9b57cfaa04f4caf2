"""Reads an estate, and refuses one that contradicts itself: everything that is wrong, each with its line."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from refloat.errors import Refused
from refloat.estate import text as written
from refloat.estate.estate import Estate
from refloat.estate.forms import FITS
from refloat.estate.text import NotRead, Read, Wrong, read, words_of

MOST_SAID = 50

# Pydantic's words where it has none that say what to do.
_WORDS = {
    "missing": "is missing: write it",
    "model_type": "is no mapping: it has lines of the form `name: value`",
    "extra_forbidden": "is no word of the estate here: leave it out, or see docs/estate.md for the right one",
}

Claim = tuple[written.Path, str]  # what is wrong, and where


def load_estate(file: Path) -> Estate:
    """The estate in this file. Raises Refused (bad_estate) naming every line that is wrong, and why."""
    return parse_estate(read_estate(file), str(file))


def read_estate(file: Path) -> str:
    """Its text. Raises Refused (bad_estate)."""
    try:
        with file.open("rb") as stream:
            return stream.read(written.LARGEST + 1).decode()
    except OSError as error:
        hint = "set `estate:` in the config, or run `refloat lab up`"
        raise _bad(f"estate file {file}: {error.strerror or error}", hint) from error
    except UnicodeDecodeError as error:
        raise _bad(f"estate file {file} is no UTF-8: {error}", "write it as UTF-8") from error


def parse_estate(text: str, name: str) -> Estate:
    """The estate that this text says; `name` is what errors call it. Raises Refused (bad_estate): its message
    has one line for each thing that is wrong, `NAME:LINE: PLACE: WHAT`."""
    try:
        found = read(text)
    except NotRead as error:
        raise _refused([error.wrong], name) from error
    estate: Estate | None = None
    claims = list(_references(found.data))
    try:
        estate = Estate.model_validate(found.data)
    except ValidationError as error:
        claims += [_claim(one) for one in error.errors(include_url=False)]
    if estate is not None and not claims:
        claims += _shared(estate)
    wrong = [*found.wrong, *(_wrong(found, place, what) for place, what in claims)]
    if wrong or estate is None:
        raise _refused(wrong, name)
    return estate


def _wrong(found: Read, place: written.Path, what: str) -> Wrong:
    return Wrong(found.line(place), words_of(place) or "the estate", what)


def _refused(wrong: list[Wrong], name: str) -> Refused:
    ordered = sorted(wrong, key=lambda one: one.line)
    lines = [_line(one, name) for one in ordered[:MOST_SAID]]
    if len(ordered) > MOST_SAID:
        lines.append(f"and {len(ordered) - MOST_SAID} more")
    return _bad("\n".join(lines), "nothing was changed; mend these lines, docs/estate.md has the form")


def _line(one: Wrong, name: str) -> str:
    where = f"{name}:{one.line}" if one.line else name
    return ": ".join(part for part in (where, one.place, one.what) if part)


def _bad(message: str, hint: str) -> Refused:
    return Refused(message, code="bad_estate", hint=hint)


def _claim(error: ErrorDetails) -> Claim:
    """As the text has it: which kind of site or probe it is, is one of its words and no level of its own."""
    words = [part for part in error["loc"] if part != "[key]"]
    if words[:1] == ["sites"]:
        words[2:3] = ["platform"] if error["type"].startswith("union_tag") else []
    if words[:1] == ["policies"] and words[2:3] == ["probes"]:
        words[4:5] = ["kind"] if error["type"] == "unknown_kind" else []
    fits = FITS.get(error.get("ctx", {}).get("pattern", ""), "")
    return tuple(words), fits or _WORDS.get(error["type"], error["msg"].removeprefix("Value error, "))


# ---------------------------------------------------------------- what contradicts


def _section(data: Any, name: str) -> dict[str, Any]:
    """Its entries that have the form of one; what has not is said by the form's own check."""
    found = data.get(name) if isinstance(data, dict) else None
    entries = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in entries if isinstance(value, dict)}


def _references(data: Any) -> Iterator[Claim]:
    """Every name that is used is declared, also in a text that is wrong elsewhere."""
    sites, protected, targets = (_section(data, name) for name in ("sites", "protected", "targets"))
    policies = {*_section(data, "policies"), "default"}
    for name, item in protected.items():
        yield from _declared(("protected", name, "site"), item.get("site"), sites)
        yield from _declared(("protected", name, "policy"), item.get("policy"), policies)
    for name, item in targets.items():
        yield from _declared(("targets", name, "site"), item.get("site"), sites)
        yield from _declared(("targets", name, "protected"), item.get("protected"), protected)
    yield from _mappings(data, sites)


def _declared(
    place: written.Path, used: object, declared: Collection[str], what: str = ""
) -> Iterator[Claim]:
    if isinstance(used, str) and used not in declared:
        known = ", ".join(sorted(str(one) for one in declared)) or "none"
        yield place, f"{what}{used!r} is not declared; declared: {known}"


def _mappings(data: Any, sites: dict[str, Any]) -> Iterator[Claim]:
    networks = {name for site in sites.values() for name in _section(site, "networks")}
    mappings = data.get("mappings") if isinstance(data, dict) else None
    known: set[str] = set()
    for index, mapping in enumerate(mappings if isinstance(mappings, list) else ()):
        if not isinstance(mapping, dict):
            continue
        for word in ("to", "test"):
            yield from _declared(("mappings", index, word), mapping.get(word), networks, "network ")
        source = mapping.get("from")
        if isinstance(source, str) and source in known:
            yield ("mappings", index, "from"), f"{source!r} is mapped twice: keep one of the two"
        elif isinstance(source, str):
            known.add(source)


def _shared(estate: Estate) -> Iterator[Claim]:
    """One target per source VM, and one controller per target: the changed-block tracking of two targets and
    the failovers of one VM would each undo what the other relies on. Sites are told apart by their URI."""
    sources: dict[tuple[str, str], str] = {}
    controllers: dict[tuple[str, str], str] = {}
    for name in estate.targets:
        target = estate.target(name)
        source = (estate.sites[target.source_site].uri, target.source_vm)
        controller = (estate.sites[target.site].uri, target.controller_vm)
        if (other := sources.setdefault(source, name)) != name:
            yield (
                ("targets", name, "protected"),
                f"VM {target.source_vm} is already protected by target {other}: a VM has one replica",
            )
        if (other := controllers.setdefault(controller, name)) != name:
            yield (
                ("targets", name, "controller", "vm"),
                f"{target.controller_vm} is already the controller of {other}: give each target its own",
            )
