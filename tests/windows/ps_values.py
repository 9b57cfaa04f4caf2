"""Values of PowerShell as the interpreter has them, and what operators make of them: version 2.0's way."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tree_sitter import Node

Value = Any


class PowerShellError(Exception):
    """What `throw` throws, and a command that fails."""


class Table(dict[str, Value]):
    """A hashtable: keys in any case."""

    def __getitem__(self, key: Value) -> Value:
        return self.get(str(key).lower())

    def __setitem__(self, key: Value, value: Value) -> None:
        super().__setitem__(str(key).lower(), value)


@dataclass
class Thing:
    """An object with properties, in any case."""

    properties: dict[str, Value]

    def get(self, name: str) -> Value:
        return next((v for k, v in self.properties.items() if k.lower() == name.lower()), None)


@dataclass
class Block:
    node: Node


def spread(value: Value) -> list[Value]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def collapsed(values: list[Value]) -> Value:
    return None if not values else values[0] if len(values) == 1 else values


def flat(values: Sequence[Value]) -> list[Value]:
    return [one for value in values for one in (flat(value) if isinstance(value, list) else [value])]


def same(left: Value, right: Value) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return truth(left) is truth(right)
    if isinstance(left, int) and not isinstance(right, int):
        return right is not None and re.fullmatch(r"-?\d+", text_of(right)) is not None and left == int(right)
    return (left is None) == (right is None) and text_of(left).lower() == text_of(right).lower()


def truth(value: Value) -> bool:
    if isinstance(value, list):
        return truth(value[0]) if len(value) == 1 else bool(value)
    return not (value is None or value is False or value == 0 or value == "") or isinstance(value, Table)


def text_of(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, list):
        return " ".join(text_of(item) for item in value)
    return str(value)


def plus(left: Value, right: Value) -> Value:
    if isinstance(left, list):
        return [*left, *(right if isinstance(right, list) else [right])]
    if isinstance(left, str):
        return left + text_of(right)
    if left is None:
        return right
    return left + right


def cast(kind: str, value: Value) -> Value:
    if kind in ("int", "uint32"):
        if value is None or value == "":
            return 0
        try:
            return int(round(value) if isinstance(value, float) else value)
        except (TypeError, ValueError):
            raise PowerShellError(f"cannot convert {value!r} to a number")
    if kind == "string":
        return text_of(value)
    if kind == "string[]":
        return [text_of(item) for item in (value if isinstance(value, list) else [value])]
    if kind == "bool":
        return truth(value)
    if kind == "datetime":
        return datetime.strptime(value, "%Y-%m-%d %H:%M:%S")
    raise NotImplementedError(kind)


def compare(operator: str, left: Value, right: Value, matched: Callable[[list[Value]], None]) -> Value:
    """One operator; `matched` is told what -match has found."""
    if operator == "-isnot":
        assert right == "[hashtable]"
        return not isinstance(left, Table)
    if operator in ("-contains", "-notcontains"):
        held = any(same(item, right) for item in (left if isinstance(left, list) else [left]))
        return held is (operator == "-contains")
    if operator == "-join":
        return text_of(right).join(text_of(item) for item in flat([left]))
    if operator == "-split":
        return _split(left, right)
    if operator == "-replace":
        pattern, new = right if isinstance(right, list) else (right, "")
        new = re.sub(r"\$(\d)", r"\\g<\1>", new.replace("\\", "\\\\"))
        return re.sub(pattern, new, text_of(left), flags=re.IGNORECASE)
    if isinstance(left, list):
        return [item for item in left if compare(operator, item, right, matched)]
    return _compare_one(operator, left, right, matched)


def _split(left: Value, right: Value) -> Value:
    pattern, most = right if isinstance(right, list) else (right, 0)
    return re.split(pattern, text_of(left), maxsplit=max(0, most - 1))


def _compare_one(operator: str, left: Value, right: Value, matched: Callable[[list[Value]], None]) -> bool:
    if operator in ("-eq", "-ne"):
        return same(left, right) is (operator == "-eq")
    if operator in ("-match", "-notmatch"):
        found = re.search(right, text_of(left), re.IGNORECASE)
        if found and operator == "-match":
            matched([found[0], *found.groups()])
        return bool(found) is (operator == "-match")
    if operator in ("-like", "-notlike"):
        pattern = re.escape(right).replace(r"\*", ".*").replace(r"\?", ".")
        held = re.fullmatch(pattern, text_of(left), re.IGNORECASE | re.DOTALL)
        return bool(held) is (operator == "-like")
    ordered: dict[str, bool] = {
        "-lt": (left or 0) < right,
        "-gt": (left or 0) > right,
        "-le": (left or 0) <= right,
        "-ge": (left or 0) >= right,
    }
    return ordered[operator]
