"""What a step is given: its job, the target's platforms, and the job's records."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from refloat.controller.client import ControllerClient
from refloat.destinations.base import Destination
from refloat.errors import Aborted, Failed
from refloat.model import Callback, Mode, Plan, SyncPoint, Target
from refloat.policy import Policy, Readdress, When
from refloat.sources.base import Source
from refloat.store.store import Store

T = TypeVar("T")

# Test hook: a comma-separated list of "step:point" at which the hub kills itself, once each.
# Crash tests must strike inside an effect, not near it; see docs/testing.md.
KILL_AT = "REFLOAT_KILL_AT"


@dataclass(frozen=True)
class Networks:
    """Where a source network leads at the recovery site, for live failovers and for tests."""

    live: dict[str, str]
    test: dict[str, str]
    readdress: dict[str, tuple[Readdress, ...]] = field(default_factory=dict)

    def rules(self, network: str, mode: Mode) -> tuple[Readdress, ...]:
        """Which of the source network's subnets are others there."""
        here = When.TEST if mode is Mode.TEST else When.LIVE
        return tuple(rule for rule in self.readdress.get(network, ()) if rule.when in (When.ALWAYS, here))

    def of(self, network: str, mode: Mode) -> str | None:
        return (self.test if mode is Mode.TEST else self.live).get(network)


@dataclass(frozen=True)
class Run:
    """One job's context. Records survive restarts; everything else is rebuilt from the estate."""

    job: str
    mode: Mode
    target: Target
    policy: Policy
    networks: Networks
    source: Source
    destination: Destination
    controller: ControllerClient
    store: Store
    data_dir: Path
    synchronise: Callable[[Callable[[], bool]], SyncPoint] = field(repr=False)
    drivers: Path | None = None  # the operator's virtio-win set, for Windows guests
    callback: Callback | None = None  # where guests may report by HTTPS

    @property
    def vm(self) -> str:
        """The destination VM: the controller, that becomes the recovered VM."""
        return self.target.controller_vm

    @property
    def tag(self) -> str:
        """Names this job's rollback points at the platform."""
        return f"refloat-{self.job}"

    @property
    def plan(self) -> Plan:
        return self.need("plan", Plan)

    @property
    def directory(self) -> Path:
        path = self.data_dir / "jobs" / self.job
        path.mkdir(parents=True, exist_ok=True)
        return path

    def save(self, name: str, record: Any) -> None:
        self.store.save(self.job, name, record)

    def load(self, name: str, kind: type[T]) -> T | None:
        return self.store.load(self.job, name, kind)

    def need(self, name: str, kind: type[T]) -> T:
        """A record that an earlier step must have left."""
        record = self.load(name, kind)
        if record is None:
            raise Failed(
                f"job {self.job} has no record {name!r}",
                code="record_missing",
                hint="this is a defect: please report it with the job's evidence",
            )
        return record

    def once(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """The record, made and kept at the first call: a retry decides nothing anew."""
        known = self.load(name, kind)
        if known is None:
            known = make()
            self.save(name, known)
        return known

    def progress(self, **data: Any) -> None:
        self.store.emit(self.job, "progress", data)

    def abort_requested(self) -> bool:
        return self.store.job(self.job).abort_requested

    def check_abort(self) -> None:
        if self.abort_requested():
            raise Aborted(
                "the operator aborted the job", hint="what was done is being rolled back; nothing to do"
            )

    def kill_point(self, step: str, point: str = "inside") -> None:
        """Where crash tests end the hub with SIGKILL: nothing unless REFLOAT_KILL_AT names this point."""
        name = f"{step}:{point}"
        if name not in os.environ.get(KILL_AT, "").split(","):
            return
        spent = self.directory / f"killed-{step}-{point}"
        if not spent.exists():
            spent.touch()
            os.sync()
            os.kill(os.getpid(), signal.SIGKILL)
