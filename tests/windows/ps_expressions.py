"""Expressions of PowerShell, read from tree-sitter's tree. An unknown one is an error."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import timedelta

from tree_sitter import Node

from tests.windows.powershell import _nodes, _text
from tests.windows.ps_values import (
    Block,
    PowerShellError,
    Table,
    Thing,
    Value,
    cast,
    collapsed,
    compare,
    plus,
    spread,
    text_of,
    truth,
)


class Expressions(ABC):
    """What the interpreter adds: pipelines, commands, statements, variables."""

    scopes: list[dict[str, Value]]
    environment: dict[str, str]

    @abstractmethod
    def value(self, node: Node) -> Value: ...

    @abstractmethod
    def command(self, node: Node, piped: list[Value]) -> list[Value]: ...

    @abstractmethod
    def statements(self, node: Node | None) -> Iterator[Value]: ...

    @abstractmethod
    def assign(self, target: Node, value: Value) -> None: ...

    def matched(self, found: list[Value]) -> None:
        self.scopes[-1]["matches"] = found

    def expression(self, node: Node) -> Value:
        """One value; an array stays one."""
        part = list(single(node))[-1]
        handler = getattr(self, f"_x_{part.type}", None)
        if handler is None:
            raise NotImplementedError(f"{part.type}: {_text(part)[:80]}")
        return handler(part)

    def _x_pipeline(self, node: Node) -> Value:
        return self.value(node)

    def _x_command(self, node: Node) -> Value:
        return collapsed(self.command(node, []))

    def _x_pipeline_chain(self, node: Node) -> Value:
        return self.value(node)

    def _x_variable(self, node: Node) -> Value:
        return self.variable(_text(node).lstrip("$").lower())

    def variable(self, name: str) -> Value:
        if name.startswith("env:"):
            return self.environment[name.partition(":")[2]]
        if name.startswith("script:"):
            return self.scopes[0].get(name.partition(":")[2])
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def _x_decimal_integer_literal(self, node: Node) -> Value:
        return int(_text(node))

    def _x_verbatim_string_characters(self, node: Node) -> Value:
        return _text(node)[1:-1].replace("''", "'")

    def _x_verbatim_here_string_characters(self, node: Node) -> Value:
        return _text(node)

    def _x_expandable_string_literal(self, node: Node) -> Value:
        return re.sub(r"\$(\w+)", lambda m: text_of(self.variable(m[1].lower())), _text(node)[1:-1])

    def _x_simple_name(self, node: Node) -> Value:
        return _text(node)

    def _x_parenthesized_expression(self, node: Node) -> Value:
        return self.value(part_of(node, "pipeline"))

    def _x_sub_expression(self, node: Node) -> Value:
        return collapsed(list(self.statements(node)))

    def _x_array_expression(self, node: Node) -> Value:
        return [one for value in self.statements(node) for one in spread(value)]

    def _x_array_literal_expression(self, node: Node) -> Value:
        return [self.expression(child) for child in node.children if child.is_named]

    def _x_hash_literal_expression(self, node: Node) -> Value:
        table = Table()
        for entry in (part for part in _nodes(node, deep=2) if part.type == "hash_entry"):
            key, value = (child for child in entry.children if child.is_named and child.type != "comment")
            table[self.expression(key)] = self.value(value)
        return table

    def _x_script_block_expression(self, node: Node) -> Value:
        return Block(part_of(node, "script_block"))

    def _x_element_access(self, node: Node) -> Value:
        holder, key = (self.expression(child) for child in node.children if child.is_named)
        if holder is None:
            raise PowerShellError("cannot index into a null array")
        if isinstance(holder, Table):
            return holder[key]
        if isinstance(holder, list):
            return holder[key] if -len(holder) <= key < len(holder) else None
        raise NotImplementedError(f"index of {holder!r}")

    def _x_member_access(self, node: Node) -> Value:
        named = [child for child in node.children if child.is_named]
        return self.member(self.expression(named[0]), text_of(self.expression(named[-1])))

    def member(self, holder: Value, name: str) -> Value:
        if isinstance(holder, Table):
            return list(holder.values()) if name.lower() == "values" else holder[name]
        if isinstance(holder, Thing):
            return holder.get(name)
        if isinstance(holder, list):
            return len(holder) if name.lower() in ("count", "length") else None
        if isinstance(holder, timedelta):
            return holder.total_seconds()
        return None

    def _x_cast_expression(self, node: Node) -> Value:
        return cast(_text(node.children[0])[1:-1].lower(), self.expression(node.children[1]))

    def _x_type_literal(self, node: Node) -> Value:
        return _text(node)

    def _x_expression_with_unary_operator(self, node: Node) -> Value:
        value = self.expression(node.children[1])
        if _text(node.children[0]).lower() in ("-not", "!"):
            return not truth(value)
        return -value

    def _x_post_increment_expression(self, node: Node) -> Value:
        self.assign(node.children[0], (self.expression(node.children[0]) or 0) + 1)

    def _x_logical_expression(self, node: Node) -> Value:
        left, operator, right = node.children
        if _text(operator).lower() == "-and":
            return truth(self.expression(left)) and truth(self.expression(right))
        return truth(self.expression(left)) or truth(self.expression(right))

    def _x_additive_expression(self, node: Node) -> Value:
        left, right = self.expression(node.children[0]), self.expression(node.children[2])
        return plus(left, right) if _text(node.children[1]) == "+" else left - right

    def _x_multiplicative_expression(self, node: Node) -> Value:
        assert _text(node.children[1]) == "*"
        return self.expression(node.children[0]) * self.expression(node.children[2])

    def _x_format_expression(self, node: Node) -> Value:
        template, values = self.expression(node.children[0]), self.expression(node.children[2])
        items = values if isinstance(values, list) else [values]
        template = re.sub(r"\{(\d):x2\}", r"{\1:02x}", template)
        return template.format(
            *(
                item if isinstance(item, int) and not isinstance(item, bool) else text_of(item)
                for item in items
            )
        )

    def _x_comparison_expression(self, node: Node) -> Value:
        left, operator, right = node.children
        values = self.expression(left), self.expression(right)
        return compare(_text(operator).lower(), *values, self.matched)


def part_of(node: Node, kind: str) -> Node:
    return next(child for child in node.children if child.type == kind)


def single(node: Node) -> Iterator[Node]:
    """A node and what it consists of alone, down to the first that says something."""
    yield node
    while len(node.children) == 1 and node.children[0].is_named and node.type != "expandable_string_literal":
        node = node.children[0]
        yield node
