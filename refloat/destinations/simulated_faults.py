"""Faults of a simulated platform, by configuration: what goes wrong, at which verb, how often."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from refloat.codec import DecodeError, decode, encode
from refloat.durable import write_durably
from refloat.errors import Failed, Refused, Unreachable

T = TypeVar("T")


class FaultKind(StrEnum):
    """error: nothing was done. unreachable: nobody answers, nothing was done. lost_answer: it was done, and
    nobody says so. twice: the platform does it twice. slow: it takes `seconds` longer. stale: the answer is
    that of the last time."""

    ERROR = "error"
    UNREACHABLE = "unreachable"
    LOST_ANSWER = "lost_answer"
    TWICE = "twice"
    SLOW = "slow"
    STALE = "stale"


@dataclass(frozen=True)
class Fault:
    """`verb` is a method of the driver, or "*"; `vm` the VM that it is about, or "". `times` is how often it
    happens, -1 for always; it begins after the first `skip` calls."""

    verb: str
    kind: FaultKind
    times: int = 1
    skip: int = 0
    seconds: float = 0.0
    vm: str = ""

    def __post_init__(self) -> None:
        if self.times < -1 or self.skip < 0 or self.seconds < 0:
            raise ValueError(f"a fault with times {self.times}, skip {self.skip}, seconds {self.seconds}")


class Faults:
    """The faults in a file: kept there, so that another process goes on where this one ended."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def set(self, *faults: Fault) -> None:
        with self._locked():
            self._write(faults)

    def left(self) -> tuple[Fault, ...]:
        """Raises Refused for a file that holds no faults."""
        if not self._file.exists():
            return ()
        try:
            return decode(tuple[Fault, ...], json.loads(self._file.read_bytes()), "faults")
        except (DecodeError, ValueError) as error:
            raise Refused(
                f"{self._file}: {error}", code="bad_faults", hint="see docs/simulated.md for its form"
            ) from error

    def apply(self, verb: str, vm: str, act: Callable[[], T], stale: Callable[[], T | None]) -> T:
        """The result of `act` as this platform gives it now. `stale` is its last answer, None where the
        verb changes something."""
        fault, what = self._next(verb, vm), f"{verb} of {vm}"
        if fault is None:
            return act()
        time.sleep(fault.seconds)
        if fault.kind is FaultKind.ERROR:
            raise Failed(f"{what}: the simulated platform failed, as told", code="simulated")
        if fault.kind is FaultKind.UNREACHABLE:
            raise Unreachable(f"{what}: the simulated platform does not answer, as told")
        if fault.kind is FaultKind.STALE and (before := stale()) is not None:
            return before
        result = act()
        if fault.kind is FaultKind.TWICE:
            result = act()
        if fault.kind is FaultKind.LOST_ANSWER:
            raise Unreachable(f"{what}: the simulated platform's answer was lost, as told")
        return result

    def _next(self, verb: str, vm: str) -> Fault | None:
        """The fault of this call; counts it."""
        if not self._file.exists():
            return None
        with self._locked():
            faults = list(self.left())
            for index, fault in enumerate(faults):
                if fault.verb not in (verb, "*") or fault.vm not in (vm, "") or not fault.times:
                    continue
                if fault.skip:
                    faults[index] = replace(fault, skip=fault.skip - 1)
                    self._write(faults)
                    continue
                if fault.times > 0:
                    faults[index] = replace(fault, times=fault.times - 1)
                    self._write(faults)
                return fault
        return None

    def _write(self, faults: tuple[Fault, ...] | list[Fault]) -> None:
        write_durably(self._file, json.dumps(encode(tuple(faults)), indent=2).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
