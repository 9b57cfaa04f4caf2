"""Frozen dataclasses to JSON-ready data and back, strictly: what does not fit the record is an error."""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import Enum
from functools import cache
from typing import Any, TypeVar, cast

T = TypeVar("T")


class DecodeError(ValueError):
    """The data does not have the shape of the record; the message says where."""


def encode(value: Any) -> Any:
    """Data of dicts, lists, strings, numbers and None for a record built from the types of model."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def decode(record: type[T], data: Any, where: str = "") -> T:
    """The record that `encode` made `data` from. Unknown fields, missing ones and wrong types are refused."""
    return cast(T, _decode(record, data, where or getattr(record, "__name__", "value")))


@cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _decode_optional(args, data, where)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise DecodeError(f"{where}: expected a list")
        return tuple(_decode(args[0], item, f"{where}[{index}]") for index, item in enumerate(data))
    if origin is dict:
        if not isinstance(data, dict):
            raise DecodeError(f"{where}: expected an object")
        return {str(key): _decode(args[1], item, f"{where}.{key}") for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_record(cast(type, kind), data, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError as error:
            raise DecodeError(f"{where}: {data!r} is none of {[item.value for item in kind]}") from error
    return _decode_plain(kind, data, where)


def _decode_optional(args: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in args:
        return None
    wanted = next(arg for arg in args if arg is not type(None))
    return _decode(wanted, data, where)


def _decode_record(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise DecodeError(f"{where}: expected an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise DecodeError(f"{where}: unknown field {unknown[0]!r}")
    missing = [
        name
        for name, field in fields.items()
        if name not in data
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise DecodeError(f"{where}: field {missing[0]!r} is missing")
    hints = _hints(kind)
    return kind(**{name: _decode(hints[name], item, f"{where}.{name}") for name, item in data.items()})


def _decode_plain(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise DecodeError(f"{where}: expected {kind.__name__}, got {type(data).__name__}")
    return data
