"""A strict reader for the part of YAML in which people write netplan files, with the place of every value.

Block and flow mappings and sequences, plain and quoted scalars of one line, comments. What it does not
understand it refuses: anchors, tags, block scalars, several documents, duplicate keys, tabs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TEXT_LIMIT = 256 * 1024
_DEPTH_LIMIT = 24
_PLACEHOLDER = re.compile(r"@REFLOAT_NIC_\d+@")
_COMMENT = re.compile(r"\s+#.*|\s*")
# What may not begin a plain scalar (YAML 1.2, 7.3.3), beside "-", "?" and ":" before a space.
_INDICATORS = "&*!|>%@`\"'#,]}[{"


class YamlError(ValueError):
    """What was not understood: `line` from 1 and words."""

    def __init__(self, line: int, words: str) -> None:
        super().__init__(words)
        self.line = line
        self.words = words


@dataclass(frozen=True)
class Scalar:
    """`line` from 0; `start` and `end` are the columns of the value as written, quotes included."""

    value: str
    line: int
    start: int
    end: int
    quote: str = ""

    @property
    def last(self) -> int:
        return self.line


@dataclass
class Sequence:
    """`column` is that of the dashes; -1 in the flow style."""

    line: int
    column: int
    last: int
    items: list[Node] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)  # where each item begins


@dataclass
class Mapping:
    """`column` is that of the keys; -1 in the flow style."""

    line: int
    column: int
    last: int
    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)

    def get(self, key: str) -> Node | None:
        found = self.entries.get(key)
        return found[1] if found else None

    def text(self, key: str) -> str:
        """A scalar's value, empty where there is none."""
        found = self.get(key)
        return found.value if isinstance(found, Scalar) else ""

    def mapping(self, key: str) -> Mapping:
        """The mapping below a key; an empty one where there is none."""
        found = self.get(key)
        return found if isinstance(found, Mapping) else Mapping(self.line, -1, self.line)

    def items(self, key: str) -> list[Node]:
        found = self.get(key)
        return found.items if isinstance(found, Sequence) else []

    def texts(self, key: str) -> list[str]:
        return [item.value for item in self.items(key) if isinstance(item, Scalar)]


Node = Scalar | Sequence | Mapping


def scalars(node: Node) -> Iterator[Scalar]:
    """Every scalar below a node, keys included."""
    if isinstance(node, Scalar):
        yield node
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from scalars(item)
    else:
        for key, value in node.entries.values():
            yield key
            yield from scalars(value)


def read(text: str) -> Mapping:
    """The document's mapping; an empty one for a file without content. Raises YamlError."""
    if len(text) > TEXT_LIMIT:
        raise YamlError(1, f"the file has more than {TEXT_LIMIT} characters")
    reader = _Reader(text)
    root = reader.document()
    if not isinstance(root, Mapping):
        raise YamlError(root.line + 1, "the document is no mapping")
    return root


class _Reader:
    """`rows` are the lines with content, as [line, column]; a dash moves its row's column to the right."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.rows: list[list[int]] = []
        self.at = 0
        for index, line in enumerate(self.lines):
            stripped = line.strip()
            if not stripped or stripped.startswith("#"):
                continue
            if stripped == "---" and not self.rows:
                continue
            if line.startswith(("---", "...", "%")):
                raise YamlError(index + 1, "more than one document, or a directive")
            if "\t" in line[: len(line) - len(line.lstrip())]:
                raise YamlError(index + 1, "a tab in the indentation")
            self.rows.append([index, len(line) - len(line.lstrip(" "))])

    # ------------------------------------------------------------ blocks

    def document(self) -> Node:
        if not self.rows:
            return Mapping(0, 0, 0)
        node = self.block(0)
        if self.at < len(self.rows):
            raise YamlError(self.rows[self.at][0] + 1, "the indentation fits to nothing above")
        return node

    def block(self, depth: int) -> Node:
        if depth > _DEPTH_LIMIT:
            raise YamlError(self.rows[self.at][0] + 1, "nested too deeply")
        line, column = self.rows[self.at]
        if self.dash(line, column):
            return self.sequence(column, depth)
        content = self.lines[line][column:]
        if content[0] in "[{":
            node, end = _Flow(self.lines, depth).node(line, column)
            self.finish(node.last, end)
            return node
        return self.mapping(column, depth)

    def dash(self, line: int, column: int) -> bool:
        content = self.lines[line][column:]
        return content == "-" or content.startswith("- ")

    def sequence(self, column: int, depth: int) -> Sequence:
        node = Sequence(self.rows[self.at][0], column, 0)
        while self.at < len(self.rows) and self.rows[self.at][1] == column:
            line = self.rows[self.at][0]
            if not self.dash(line, column):
                break
            node.lines.append(line)
            rest = self.lines[line][column + 1 :]
            inner = column + 1 + len(rest) - len(rest.lstrip())
            if _COMMENT.fullmatch(rest):
                item = self.below(line, column, depth, dash=True)
            elif self.key_end(line, inner) is not None or self.dash(line, inner):
                self.rows[self.at][1] = inner
                item = self.block(depth + 1)
            else:
                item = self.inline(line, inner, depth)
            node.items.append(item)
            node.last = max(item.last, line)
        self.no_deeper(column)
        return node

    def mapping(self, column: int, depth: int) -> Mapping:
        node = Mapping(self.rows[self.at][0], column, 0)
        while self.at < len(self.rows) and self.rows[self.at][1] == column:
            line = self.rows[self.at][0]
            if self.dash(line, column):
                break
            end = self.key_end(line, column)
            if end is None:
                raise YamlError(line + 1, "neither a key nor an item")
            key = _scalar(self.lines[line], line, column, end)
            end = self.lines[line].index(":", end)
            if key.value in node.entries:
                raise YamlError(line + 1, f"{key.value!r} a second time")
            value = self.value(line, column, end, depth)
            node.entries[key.value] = (key, value)
            node.last = max(value.last, line)
        self.no_deeper(column)
        return node

    def value(self, line: int, column: int, end: int, depth: int) -> Node:
        """What follows a key whose colon is at `end`."""
        rest = self.lines[line][end + 1 :]
        if _COMMENT.fullmatch(rest):
            return self.below(line, column, depth, dash=False)
        return self.inline(line, end + 1 + len(rest) - len(rest.lstrip()), depth)

    def below(self, line: int, column: int, depth: int, *, dash: bool) -> Node:
        """The block under a key or a dash without anything behind it; nothing is an empty scalar."""
        self.at += 1
        if self.at < len(self.rows):
            below_line, below = self.rows[self.at]
            if below > column or (below == column and not dash and self.dash(below_line, below)):
                return self.block(depth + 1)
        length = len(self.lines[line].rstrip())
        return Scalar("", line, length, length)

    def inline(self, line: int, column: int, depth: int) -> Node:
        content = self.lines[line]
        if content[column] in "[{":
            node, end = _Flow(self.lines, depth).node(line, column)
            self.finish(node.last, end)
            return node
        end = _quoted_end(content, line, column) if content[column] in "\"'" else _plain_end(content, column)
        scalar = _scalar(content, line, column, end)
        if scalar.quote == "" and (": " in scalar.value or scalar.value.endswith(":")):
            raise YamlError(line + 1, "a mapping within a plain value")
        self.finish(line, end)
        return scalar

    def finish(self, line: int, end: int) -> None:
        """Nothing but a comment may follow; goes on to the next line."""
        if not _COMMENT.fullmatch(self.lines[line][end:]):
            raise YamlError(line + 1, "something follows the value")
        while self.at < len(self.rows) and self.rows[self.at][0] <= line:
            self.at += 1

    def no_deeper(self, column: int) -> None:
        if self.at < len(self.rows) and self.rows[self.at][1] > column:
            raise YamlError(self.rows[self.at][0] + 1, "deeper than what it could belong to")

    def key_end(self, line: int, column: int) -> int | None:
        """The column of the colon behind a key that begins at `column`; None where no key does."""
        content = self.lines[line]
        if content[column] in "\"'":
            end = _quoted_end(content, line, column)
            return end if content[end : end + 1] == ":" and content[end + 1 : end + 2] in ("", " ") else None
        match = re.compile(r"[^#\s][^#]*?(?=:(?:\s|$))|[^\s:]+(?=:(?:\s|$))").match(content, column)
        if match is None or content[column] in "[{":
            return None
        return column + len(match[0].rstrip())


class _Flow:
    """[a, b] and {a: b}, over several lines if need be."""

    def __init__(self, lines: list[str], depth: int) -> None:
        self.lines = lines
        self.depth = depth
        self.line = 0
        self.column = 0

    def node(self, line: int, column: int) -> tuple[Node, int]:
        """The node that begins there, and the column behind it (on the node's last line)."""
        self.line, self.column = line, column
        node = self.any(self.depth)
        return node, self.column

    def any(self, depth: int) -> Node:
        if depth > _DEPTH_LIMIT:
            raise YamlError(self.line + 1, "nested too deeply")
        character = self.peek()
        if character == "[":
            return self.sequence(depth)
        if character == "{":
            return self.mapping(depth)
        return self.scalar()

    def peek(self) -> str:
        """The next character that counts."""
        while self.line < len(self.lines):
            text = self.lines[self.line]
            while self.column < len(text) and text[self.column] in " \t":
                self.column += 1
            comment = self.column < len(text) and text[self.column] == "#"
            if self.column < len(text) and not comment:
                return text[self.column]
            self.line, self.column = self.line + 1, 0
        raise YamlError(len(self.lines), "a bracket is never closed")

    def sequence(self, depth: int) -> Sequence:
        node = Sequence(self.line, -1, self.line)
        self.column += 1
        while self.peek() != "]":
            node.lines.append(self.line)
            node.items.append(self.any(depth + 1))
            self.comma("]")
        self.column += 1
        node.last = self.line
        return node

    def mapping(self, depth: int) -> Mapping:
        node = Mapping(self.line, -1, self.line)
        self.column += 1
        while self.peek() != "}":
            key = self.scalar()
            if self.peek() != ":":
                raise YamlError(self.line + 1, "a key without a value")
            self.column += 1
            if key.value in node.entries:
                raise YamlError(self.line + 1, f"{key.value!r} a second time")
            node.entries[key.value] = (key, self.any(depth + 1))
            self.comma("}")
        self.column += 1
        node.last = self.line
        return node

    def comma(self, closing: str) -> None:
        character = self.peek()
        if character == ",":
            self.column += 1
        elif character != closing:
            raise YamlError(self.line + 1, f"neither a comma nor {closing!r}")

    def scalar(self) -> Scalar:
        text, start = self.lines[self.line], self.column
        if text[start] in "\"'":
            end = _quoted_end(text, self.line, start)
        else:
            match = re.compile(r"(?:[^,\[\]{}:#]|:(?=[^\s,\[\]{}])|(?<=\S)#)*").match(text, start)
            end = start + len(text[start : match.end() if match else start].rstrip())
        scalar = _scalar(text, self.line, start, end)
        # Inside brackets readers differ on these two.
        if not scalar.quote and ("?" in scalar.value or scalar.value.startswith(":")):
            raise YamlError(self.line + 1, f"{scalar.value[:20]!r} is YAML that is not understood here")
        self.column = end
        return scalar


def _quoted_end(text: str, line: int, start: int) -> int:
    pattern = r"'(?:[^']|'')*'" if text[start] == "'" else r'"(?:[^"\\]|\\["\\/])*"'
    match = re.compile(pattern).match(text, start)
    if match is None:
        raise YamlError(line + 1, "a quoted value that does not end on its line, or an escape in it")
    return match.end()


def _plain_end(text: str, start: int) -> int:
    match = re.compile(r"\s#").search(text, start)
    return start + len(text[start : match.start() if match else len(text)].rstrip())


def _scalar(text: str, line: int, start: int, end: int) -> Scalar:
    raw = text[start:end]
    if raw[:1] == "'":
        return Scalar(raw[1:-1].replace("''", "'"), line, start, end, "'")
    if raw[:1] == '"':
        return Scalar(re.sub(r"\\(.)", r"\1", raw[1:-1]), line, start, end, '"')
    strange = not raw or raw[0] in _INDICATORS or raw[:2] in ("- ", "? ", ": ") or raw in ("-", "?", ":")
    if strange and not _PLACEHOLDER.match(raw):
        raise YamlError(line + 1, f"{raw[:20]!r} is YAML that is not understood here")
    return Scalar(raw, line, start, end)
