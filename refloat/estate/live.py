"""The estate that the hub works with, and how it becomes another one while the hub runs.

    text -> parse (every line that is wrong) -> differences -> what relies on them -> version kept -> in use

The store's newest version holds. The file of the settings is where the first one came from: when it says
something else later, that is said, at the hub's start and by the doctor, and changes nothing.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import yaml
from sqlalchemy.engine import Engine

from refloat.access import Audit
from refloat.errors import Busy, RefloatError, Refused
from refloat.estate.diff import Change, differences, new_reach
from refloat.estate.estate import Estate
from refloat.estate.load import parse_estate, read_estate
from refloat.estate.uses import blocked, orphans, uses_of
from refloat.store.estates import Applied, EstateVersions, digest
from refloat.store.store import Store

log = logging.getLogger(__name__)

THE_HUB = "the hub"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Compared:
    """Another estate beside the version `base`, which is in use. `blocked`: why it cannot be applied now;
    `reach`: see new_reach."""

    base: int
    estate: Estate
    changes: tuple[Change, ...]
    blocked: tuple[str, ...]
    reach: tuple[str, ...] = ()


class LiveEstate:
    """`use` makes the hub work with another estate at once; it must not fail."""

    def __init__(self, store: Store, audit: Audit, use: Callable[[Estate], None]) -> None:
        self._store, self._audit, self._use = store, audit, use
        self.versions = EstateVersions(store.engine)
        self.steady = threading.RLock()  # who holds it finds the same estate until it lets go
        self._estate: Estate | None = None

    # ------------------------------------------------------------ at the hub's start

    def given(self, estate: Estate) -> Estate:
        """For a hub within another program, which says what its estate is."""
        self._estate = estate
        return estate

    def at_start(self, file: Path, take: bool = False) -> Estate:
        """The newest version; where there is none yet, or the operator said `take`, `file` is the next one.
        Raises Refused (bad_estate)."""
        newest = self.versions.newest()
        if newest is None or take:
            text = read_estate(file)
            estate = parse_estate(text, str(file))
            number = newest.number + 1 if newest else 1
            self._keep(number, text, THE_HUB, f"taken from {file} at the hub's start")
            return self.given(estate)
        _, text = self.versions.read(newest.number)
        estate = _stored(newest, text)
        if said := unlike(file, text, newest.number):
            log.warning("%s", said.replace("\n", "; "))
        return self.given(estate)

    # ------------------------------------------------------------ while it runs

    def current(self) -> tuple[Applied, str]:
        """The version in use and its text. Number 0: an estate that was given, and is no version."""
        newest = self.versions.newest()
        if newest is not None:
            return self.versions.read(newest.number)
        text = _written(self._now())
        return Applied(0, digest(text), "", THE_HUB, ""), text

    def compare(self, text: str, name: str) -> Compared:
        """Raises Refused (bad_estate) for a text that is no estate; `name` is what errors call it."""
        wanted = parse_estate(text, name)
        with self.steady:
            old = self._now()
            changes = differences(old, wanted)
            troubles = blocked(changes, uses_of(self._store, old), old) if changes else []
            troubles += orphans(self._store, old, wanted) if changes else []
            newest = self.versions.newest()
            number = newest.number if newest else 0
            return Compared(number, wanted, changes, tuple(troubles), new_reach(old, wanted))

    def apply(
        self,
        text: str,
        base: int,
        by: str,
        reason: str,
        name: str,
        may: Callable[[Compared], None] = lambda _: None,
    ) -> Compared:
        """The new estate is kept and used at once; nothing happens where it means the same. `base` is the
        version that its author has seen; `may` raises where they may not do that.
        Raises Refused: bad_estate, Busy: estate_changed, estate_in_use."""
        with self.steady:
            compared = self.compare(text, name)
            if not compared.changes:
                return compared
            if compared.base != base:
                raise Busy(
                    f"the estate is version {compared.base} by now: this was compared with version {base}",
                    code="estate_changed",
                    hint="nothing was changed; look at the differences again, then apply it",
                )
            may(compared)
            if compared.blocked:
                raise Busy(
                    "\n".join(compared.blocked),
                    code="estate_in_use",
                    hint="nothing was changed; do what is said, or leave these objects as they are",
                )
            for target in compared.estate.targets.keys() - self._now().targets.keys():
                self._store.ensure_target(target)
            self._keep(base + 1, text, by, reason)
            self._estate = compared.estate
            self._use(compared.estate)
            log.info("estate version %s is in use: %s changes", base + 1, len(compared.changes))
            return compared

    def _now(self) -> Estate:
        assert self._estate is not None, "given() or at_start() come first"
        return self._estate

    def _keep(self, number: int, text: str, by: str, reason: str) -> None:
        """The log comes first: no version without an entry."""
        self._audit.record(by, "estate-apply", f"estate-{number}", reason, sha256=digest(text))
        self.versions.add(number, text, by, reason)


def _stored(version: Applied, text: str) -> Estate:
    try:
        return parse_estate(text, f"estate version {version.number}")
    except Refused as error:
        raise Refused(
            f"the hub keeps an estate that this release does not take:\n{error.message}",
            code=error.code,
            hint="write one that fits into the file of the settings, and start once with `--take-estate`; or "
            "start the release that took it",
        ) from error


def newest_text(engine: Engine) -> tuple[int, str] | None:
    """For who looks beside a running hub: the newest version's number and text, None before the first."""
    versions = EstateVersions(engine)
    newest = versions.newest()
    return (newest.number, versions.read(newest.number)[1]) if newest else None


def unlike(file: Path, text: str, number: int) -> str:
    """How the file of the settings differs from the version in use, in words; empty: it means the same."""
    try:
        wanted = parse_estate(read_estate(file), str(file))
        changes = differences(parse_estate(text, f"estate version {number}"), wanted)
    except RefloatError as error:
        return f"{error.message}; in use is version {number} of the estate (`refloat export`)"
    if not changes:
        return ""
    return (
        f"{file} differs from version {number} of the estate, which is in use, in {len(changes)} of its "
        f"objects: `refloat apply {file}` shows them, and takes the file over"
    )


def _written(estate: Estate) -> str:
    data = estate.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return yaml.dump({"version": 1, **data}, Dumper=_Plain, sort_keys=False, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Without anchors: an estate has none."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _HasEstates(Protocol):
    estates: LiveEstate


H = TypeVar("H", bound=_HasEstates)


def with_steady_estate(method: Callable[Concatenate[H, P], T]) -> Callable[Concatenate[H, P], T]:
    """A method of the hub in which something begins to rely on the estate: meanwhile it does not change."""

    @functools.wraps(method)
    def steady(self: H, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.estates.steady:
            return method(self, *args, **kwargs)

    return cast(Callable[Concatenate[H, P], T], steady)
