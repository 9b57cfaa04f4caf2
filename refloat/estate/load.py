"""Reads an estate file, and refuses one that contradicts itself."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import yaml
from pydantic import ValidationError

from refloat.errors import Refused
from refloat.estate.estate import Estate


def load_estate(file: Path) -> Estate:
    """The estate in this file. Raises Refused (bad_estate) naming the place and what is wrong there."""
    try:
        data = yaml.safe_load(file.read_text())
        estate = Estate.model_validate(data)
    except OSError as error:
        raise _bad(file, error.strerror or str(error), "set `estate:` in the config, or run `refloat lab up`")
    except yaml.YAMLError as error:
        raise _bad(file, f"no YAML: {error}", "mend the file")
    except ValidationError as error:
        first = error.errors()[0]
        where = _place(first["loc"], first["type"])
        raise _bad(file, f"{where}: {first['msg']}", "see docs/estate.md for the form")
    _check_references(file, estate)
    _check_nothing_is_shared(file, estate)
    return estate


def _place(path: tuple[int | str, ...], kind: str) -> str:
    """As the file has it: a site's platform is one of its words, no level of its own."""
    words = [str(part) for part in path]
    if words[:1] == ["sites"]:
        words[2:3] = ["platform"] if kind.startswith("union_tag") else []
    return ".".join(words) or "the file"


def _check_references(file: Path, estate: Estate) -> None:
    """Every name that is used is declared."""
    uses: list[tuple[str, str, Collection[str]]] = [
        *((f"protected.{name}.site", item.site, estate.sites) for name, item in estate.protected.items()),
        *((f"targets.{name}.site", item.site, estate.sites) for name, item in estate.targets.items()),
        *(
            (f"targets.{name}.protected", item.protected, estate.protected)
            for name, item in estate.targets.items()
        ),
        *(
            (f"protected.{name}.policy", item.policy, {*estate.policies, "default"})
            for name, item in estate.protected.items()
        ),
    ]
    for where, used, declared in uses:
        if used not in declared:
            raise _bad(
                file, f"{where}: {used!r} is not declared", f"declared: {', '.join(declared) or 'none'}"
            )
    networks = {name for site in estate.sites.values() for name in site.networks}
    for mapping in estate.mappings:
        for used in (mapping.live, mapping.test):
            if used not in networks:
                raise _bad(
                    file, f"mappings: network {used!r} is not declared", f"declared: {', '.join(networks)}"
                )


def _check_nothing_is_shared(file: Path, estate: Estate) -> None:
    """One target per source VM, and one controller per target: the changed-block tracking of two targets and
    the failovers of one VM would each undo what the other relies on. Sites are told apart by their URI."""
    sources: dict[tuple[str, str], str] = {}
    controllers: dict[tuple[str, str], str] = {}
    for name in estate.targets:
        target = estate.target(name)
        source = (estate.sites[target.source_site].uri, target.source_vm)
        controller = (estate.sites[target.site].uri, target.controller_vm)
        other = sources.setdefault(source, name)
        if other != name:
            raise _bad(
                file,
                f"targets.{name}.protected: VM {target.source_vm} is already protected by target {other}",
                "keep one of the two: a VM has one replica",
            )
        other = controllers.setdefault(controller, name)
        if other != name:
            raise _bad(
                file,
                f"targets.{name}.controller.vm: {target.controller_vm} is already the controller of {other}",
                "give each target a controller of its own: it becomes the recovered VM",
            )


def _bad(file: Path, message: str, hint: str) -> Refused:
    return Refused(f"estate file {file}: {message}", code="bad_estate", hint=hint)
