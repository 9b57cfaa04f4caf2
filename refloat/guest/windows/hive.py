"""A registry hive that can be changed: values and keys by name, written by hivex in one go.

Reading needs no hivex: regf.py has checked the hive and reads it. What is set or deleted is kept here until
`content` has hivex apply what differs in the end. So nothing that was not checked reaches C code, a change
that was taken back is none, and the result is checked like any other hive before anyone gets it.

Keys are named from the hive's root, "ControlSet001\\Services\\viostor", in any spelling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from refloat.errors import Failed
from refloat.guest.boundary import BoundaryViolation
from refloat.guest.windows.hivewrite import written
from refloat.guest.windows.keys import BOUNDARY, key_path, value_path
from refloat.guest.windows.regf import Regf, damaged, fold, opened
from refloat.guest.windows.values import Value
from refloat.model import ValueChange
from refloat.text import safe


@dataclass
class Key:
    """A key as it is to be. `offset` is where the hive has it, None for one that is to be made.

    `gone` marks one that is to be deleted; one that is set anew afterwards is the old one without its values.
    """

    name: str
    offset: int | None
    gone: bool = False
    children: dict[str, Key] | None = None  # None: not read yet
    values: dict[str, tuple[str, Value]] | None = None
    before: dict[str, tuple[str, Value]] = field(default_factory=dict)


class Hive:
    """See the module. Raises BoundaryViolation for a change that keys.py does not allow."""

    def __init__(self, name: str, regf: Regf) -> None:
        self.name = name
        self._regf = regf
        self._root = Key("", regf.root)

    @classmethod
    def open(cls, name: str, content: bytes) -> Hive:
        """`name` is what messages and the journal call it: "SYSTEM". Raises HiveDamaged."""
        return cls(name, opened(name, content))

    # ------------------------------------------------------------ reading

    def has(self, key: str) -> bool:
        return self._find(key) is not None

    def keys(self, key: str = "") -> tuple[str, ...]:
        """The names of the keys in this one; none where there is no such key."""
        found = self._find(key)
        children = self._children(found).values() if found else ()
        return tuple(child.name for child in children if not child.gone)

    def values(self, key: str) -> dict[str, Value]:
        """By name as spelled there; "" is the key's default."""
        found = self._find(key)
        return dict(self._values(found).values()) if found else {}

    def get(self, key: str, name: str) -> Value | None:
        found = self._find(key)
        entry = self._values(found).get(fold(name)) if found else None
        return entry[1] if entry else None

    def number(self, key: str, name: str) -> int | None:
        """A number, or None where there is none."""
        value = self.get(key, name)
        return value.number if value else None

    def string(self, key: str, name: str) -> str:
        """A text of at most 256 characters that can be shown; empty where there is none."""
        value = self.get(key, name)
        return safe(value.string or "")[:256].strip() if value else ""

    # ------------------------------------------------------------ changing

    def set(self, key: str, name: str, value: Value) -> None:
        """Gives a value this content; makes the keys on the way that are not there."""
        if self.get(key, name) == value:
            return
        BOUNDARY.check(value_path(self.name, key, name))
        _check_plain(name)
        values = self._values(self._made(key))
        spelled = values[fold(name)][0] if fold(name) in values else name
        values[fold(name)] = (spelled, value)

    def make(self, key: str) -> None:
        """Makes a key, and those on the way to it, unless they are there."""
        self._made(key)

    def delete_value(self, key: str, name: str) -> None:
        if self.get(key, name) is None:
            return
        BOUNDARY.check(value_path(self.name, key, name))
        found = self._find(key)
        assert found is not None
        del self._values(found)[fold(name)]

    def delete_key(self, key: str) -> None:
        """Deletes a key with everything in it."""
        found = self._find(key)
        if found is None:
            return
        if found is self._root:
            raise Failed(f"the root of the hive {self.name} cannot be deleted", code="boundary")
        for path, one in self._below(key, found):
            BOUNDARY.check(key_path(self.name, path))
            for name, _ in self._values(one).values():
                BOUNDARY.check(value_path(self.name, path, name))
        for _, one in list(self._below(key, found)):
            one.gone = True
            self._values(one).clear()

    # ------------------------------------------------------------ results

    @property
    def changes(self) -> tuple[ValueChange, ...]:
        """What differs from the hive as it was opened."""
        loaded = self._loaded("", self._root)
        return tuple(change for path, key in loaded for change in self._change(path, key))

    def content(self) -> bytes:
        """The hive with the changes. Raises Failed if it is not exactly that."""
        if not self.changes:
            return self._regf.content
        again = Hive(self.name, written(self.name, self._regf, self._root))
        for path, key in self._loaded("", self._root):
            found = again._find(path)
            if (found is None) != key.gone or (found and again._values(found) != self._values(key)):
                raise Failed(
                    f"the hive {self.name} could not be changed: {path} is not as it should be",
                    code="hive_write",
                    hint="this is a defect in Refloat; nothing was written",
                )
        return again._regf.content

    def _change(self, path: str, key: Key) -> Iterator[ValueChange]:
        full = f"{self.name}\\{path}".rstrip("\\")
        if key.offset is None and not key.gone:
            yield ValueChange(full, None, None, "")
        if key.gone and key.offset is not None:
            yield ValueChange(full, None, "", None)
        after = key.values if key.values is not None else key.before
        for name in (*key.before, *(name for name in after if name not in key.before)):
            old, new = key.before.get(name), after.get(name)
            if old != new:
                spelled = (new or old or ("",))[0]
                yield ValueChange(full, spelled, old[1].text if old else None, new[1].text if new else None)

    # ------------------------------------------------------------ the tree

    def _find(self, path: str) -> Key | None:
        key = self._root
        for part in _parts(path):
            child = self._children(key).get(fold(part))
            if child is None or child.gone:
                return None
            key = child
        return key

    def _made(self, path: str) -> Key:
        key, so_far = self._root, ""
        for part in _parts(path):
            so_far = f"{so_far}\\{part}".lstrip("\\")
            children = self._children(key)
            child = children.get(fold(part))
            if child is not None and child.offset is not None and self._regf.is_link(child.offset):
                raise damaged(self.name, f"{so_far} is a link to another key")
            if child is None or child.gone:
                BOUNDARY.check(key_path(self.name, so_far))
                _check_plain(part)
                child = child or children.setdefault(fold(part), Key(part, None, children={}, values={}))
                child.gone = False
            key = child
        return key

    def _children(self, key: Key) -> dict[str, Key]:
        if key.children is None:
            assert key.offset is not None
            found = (Key(self._regf.name(offset), offset) for offset in self._regf.subkeys(key.offset))
            key.children = {fold(child.name): child for child in found}
        return key.children

    def _values(self, key: Key) -> dict[str, tuple[str, Value]]:
        if key.values is None:
            assert key.offset is not None
            key.before = {fold(name): (name, value) for name, value in self._regf.values(key.offset)}
            key.values = dict(key.before)
        return key.values

    def _below(self, path: str, key: Key) -> Iterator[tuple[str, Key]]:
        """The key and all that is in it."""
        yield path, key
        for child in self._children(key).values():
            if not child.gone:
                yield from self._below(f"{path}\\{child.name}", child)

    def _loaded(self, path: str, key: Key) -> Iterator[tuple[str, Key]]:
        """The keys that were looked at: no other can differ. Outer ones come first."""
        if key.offset is None and key.gone:
            return
        yield path, key
        for child in (key.children or {}).values():
            yield from self._loaded(f"{path}\\{child.name}".lstrip("\\"), child)


def _check_plain(name: str) -> None:
    """hivex hashes names as ASCII, and none that we make needs more."""
    if not (name.isascii() and (name.isprintable() or not name) and len(name) < 256):
        raise BoundaryViolation(f"refusing to make a key or value with the name {name!r}")


def _parts(path: str) -> list[str]:
    return [part for part in path.split("\\") if part]
