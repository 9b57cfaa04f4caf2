"""The text of an estate: YAML read with bounds, and the line that each thing in it stands on.

No anchors, aliases or tags: a few lines of them stand for gigabytes, and nobody sees it. No key twice: YAML
would silently take the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

LARGEST = 1 << 20  # bytes; 1,000 targets are a quarter of it
DEEPEST = 20  # levels
MOST_NODES = 200_000

Path = tuple[int | str, ...]


@dataclass(frozen=True)
class Wrong:
    """One thing to mend: `what` says what is wrong with it and what to do. `line` 0: the text as a whole."""

    line: int
    place: str
    what: str


class NotRead(Exception):
    """The text is no YAML that an estate may be written in."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.wrong = Wrong(line, "", what)


@dataclass(frozen=True)
class Read:
    """`lines` has the line of each key and list item, by its path. `wrong` are keys that stand twice."""

    data: Any
    lines: dict[Path, int]
    wrong: list[Wrong]

    def line(self, place: Sequence[int | str]) -> int:
        """Of the deepest part of `place` that is in the text: what is missing is on its parent's line."""
        known: Path = ()
        for part in place:
            if (*known, part) in self.lines:
                known = (*known, part)
        return self.lines.get(known, 1)


def read(text: str) -> Read:
    """Raises NotRead."""
    try:
        if len(text.encode()) > LARGEST:
            raise NotRead(0, f"it has more than {LARGEST} bytes: an estate is that large at most")
        _require_plain(text)
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
        reader = _Reader()
        data = None if node is None else reader.value(node, ())
    except UnicodeEncodeError as error:
        raise NotRead(0, "it has half characters: write it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or "a character that YAML does not allow"
        raise NotRead(mark.line + 1 if mark else 0, f"no YAML: {said}; mend this line") from error
    return Read(data, reader.lines, reader.wrong)


def _require_plain(text: str) -> None:
    """Over the events alone: nothing is put together before it is known to be bounded."""
    depth = 0
    for count, (event, change) in enumerate(_events(text)):
        line = event.start_mark.line + 1
        depth += change
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise NotRead(line, "anchors (&name) and aliases (*name) are refused: write it out")
        if getattr(event, "tag", None) is not None:
            raise NotRead(line, f"the tag {event.tag} is refused: leave it out")
        if depth > DEEPEST:
            raise NotRead(line, f"more than {DEEPEST} levels: no estate is that deep")
        if count > MOST_NODES:
            raise NotRead(line, f"more than {MOST_NODES} values: no estate is that large")


def _events(text: str) -> Iterator[tuple[Any, int]]:
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        begins, ends = yaml.CollectionStartEvent, yaml.CollectionEndEvent
        yield event, isinstance(event, begins) - isinstance(event, ends)


class _Reader:
    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.wrong: list[Wrong] = []
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, place: Path) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.lines[(*place, index)] = item.start_mark.line + 1
            return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
        try:
            return self._scalars.construct_object(node)
        except ValueError as error:  # a date that there is not, a number of thousands of digits
            line = node.start_mark.line + 1
            raise NotRead(line, "a value that cannot be read: quote it if it is a text") from error

    def _mapping(self, node: yaml.MappingNode, place: Path) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise NotRead(line, "a name is one word: no list and no mapping")
            key = self.value(key_node, place)
            if key in found:
                first = self.lines[(*place, key)]
                words = f"stands twice, first on line {first}: keep one of the two"
                self.wrong.append(Wrong(line, words_of((*place, key)), words))
                continue
            self.lines[(*place, key)] = line
            found[key] = self.value(value_node, (*place, key))
        return found


def words_of(place: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in place)
