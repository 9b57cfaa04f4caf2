"""Requests that reach the controller on standard input: they hold secrets, or are too long for argv."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import BinaryIO

from refloat.codec import DecodeError, decode
from refloat.errors import Refused
from refloat.model import AdaptRequest, DiskBus, DriverFile, GuestFacts, NicModel, PlannedDisk

_SYSTEM_MODULES = "/usr/lib/python3/dist-packages"


@dataclass(frozen=True)
class InspectRequest:
    """`luks_keys` are passphrases by the UUID of the container. They are never shown or logged."""

    disks: tuple[PlannedDisk, ...]
    bus: DiskBus
    nic: NicModel
    luks_keys: dict[str, str] = field(default_factory=dict, repr=False)


def read_inspect_request(stream: BinaryIO) -> InspectRequest:
    data = _load(stream, {"disks", "bus", "nic"}, {"luks_keys"})
    try:
        return decode(InspectRequest, data)
    except DecodeError as error:
        raise _bad(str(error))


@dataclass(frozen=True)
class DriversRequest:
    """`archive` is the hash that names the pushed archive with these files; empty: none was pushed."""

    files: tuple[DriverFile, ...]
    archive: str = ""


def read_drivers_request(stream: BinaryIO) -> DriversRequest:
    data = _load(stream, {"files", "archive"})
    try:
        return decode(DriversRequest, data)
    except DecodeError as error:
        raise _bad(str(error))


def read_adapt_request(stream: BinaryIO) -> tuple[AdaptRequest, GuestFacts]:
    data = _load(stream, {"request", "facts"})
    try:
        return decode(AdaptRequest, data["request"]), decode(GuestFacts, data["facts"])
    except DecodeError as error:
        raise _bad(str(error))


def use_system_modules() -> None:
    """The controller starts Python without `site`, which is faster; python3-hivex lies there."""
    if _SYSTEM_MODULES not in sys.path:
        sys.path.append(_SYSTEM_MODULES)


def _load(
    stream: BinaryIO, keys: set[str], optional: frozenset[str] | set[str] = frozenset()
) -> dict[str, object]:
    try:
        data = json.loads(stream.read())
    except ValueError as error:
        raise _bad(f"no JSON: {error}")
    if not isinstance(data, dict) or set(data) - optional != keys:
        raise _bad(f"expected an object of {', '.join(sorted(keys))}")
    return data


def _bad(message: str) -> Refused:
    return Refused(
        f"request on standard input: {message}", code="bad_request", hint="hub and controller differ?"
    )
