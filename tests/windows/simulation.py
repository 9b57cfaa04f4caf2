"""A simulated guest: the launcher and the script as they are written, over the real tables of stages.py.

What may go wrong comes from a test: the outcome of each attempt, hangs, scripts that die, restarts that do
not happen, and a power cut before any write that has to last. The order of writes is that of firstboot.cmd
and main.ps1; only what is written survives a power cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from refloat.guest.firstboot.windows.stages import (
    RESTARTS,
    RUNS,
    SILENT,
    STAGES,
    Outcome,
    Stage,
    State,
    Step,
    crosses,
    decide,
    status,
)
from refloat.model import Remediation

TICK = 5


class PowerCut(Exception):
    """The machine is off."""


class ScriptEnded(Exception):
    """PowerShell is gone without a word."""


class Event(StrEnum):
    """What happens in an attempt at a stage, where the stage itself does not decide."""

    WORKS = "works"
    WORKS_AFTER_RESTART = "works after a restart"
    NEEDS_RESTART = "needs a restart first"
    FAILS = "fails"
    HANGS = "hangs"
    DIES = "dies"


@dataclass
class World:
    """The guest itself: what the stages change and what verify looks at. `ghost` holds the address until it
    is removed; a clustered disk is nobody's to bring online."""

    bound: bool = False  # the devices to the installed drivers
    stub: bool = True  # the package that Windows booted with
    online: set[str] = field(default_factory=lambda: {"system"})
    planned: frozenset[str] = frozenset({"data"})
    clustered: frozenset[str] = frozenset({"quorum"})
    ghost: bool = True
    address: bool = False
    pending: set[str] = field(default_factory=set)  # stages whose work Windows completes at its start

    def do(self, stage: str) -> None:
        if stage == "drivers":
            self.bound, self.stub = True, False
        elif stage == "disks" and self.bound:
            self.online |= self.planned - self.clustered
        elif stage == "stale":
            self.ghost = False
        elif stage == "network" and self.bound:
            self.address = True

    def start(self) -> None:
        for stage in sorted(self.pending):
            self.do(stage)
        self.pending.clear()

    def right(self) -> bool:
        return self.bound and self.address and self.planned <= self.online


@dataclass
class Disk:
    """What a power cut leaves: the files below state, and what is staged."""

    numbers: dict[str, int] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    begun: str = ""
    wants_restart: int = 0
    next: str = ""
    finished: Remediation | None = None
    last: int = 0  # the number of the last report, which is kept as it went out
    cleaned: bool = False
    removed: bool = False


@dataclass
class Guest:
    """`events`: what the attempts meet, in their order; then everything works. `cuts`: before which writes
    the power goes, counted from the last. `restarts_work`: whether Windows restarts when asked."""

    events: Iterator[Event]
    cuts: Iterator[int]
    powershell: bool = True
    restarts_work: bool = True
    deadline: int = 2000
    disk: Disk = field(default_factory=Disk)
    world: World = field(default_factory=World)
    reports: list[tuple[int, Remediation]] = field(default_factory=list)
    made: dict[str, int] = field(default_factory=dict)  # attempts that were really begun
    asked: int = 0  # restarts
    boots: int = 0
    _left: int = 0

    def live(self, most: int = 400) -> Remediation | None:
        """Boots until the launcher has removed itself. Raises AssertionError where that takes for ever."""
        self._left = next(self.cuts, 1 << 60)
        while not self.disk.removed:
            self.boots += 1
            assert self.boots < most, "it does not end"
            self.world.start()
            try:
                self._launcher()
            except PowerCut:
                self._left = next(self.cuts, 1 << 60)
        return self.disk.finished

    def _write(self) -> None:
        """Before every write that has to last."""
        if self._left == 0:
            raise PowerCut
        self._left -= 1

    def _number(self, name: str, value: int) -> None:
        self._write()
        self.disk.numbers[name] = value

    def _get(self, name: str) -> int:
        return self.disk.numbers.get(name, 0)

    # ------------------------------------------------------------ firstboot.cmd

    def _launcher(self) -> None:
        self._number("boots", self._get("boots") + 1)
        self._number("sequence", max(self._get("sequence"), self._get("boots") * 1000))
        while not self.disk.removed:
            if self.disk.finished:
                return self._finish()
            if self._out_of_chances():
                return self._fail()
            self._number("runs", self._get("runs") + 1)
            self._number("silent", self._get("silent") + 1)
            self.disk.next = ""
            if self.powershell:
                try:
                    self._script()
                except ScriptEnded:
                    self._spend(TICK)
            if self.disk.next == "restart":
                if self._get("restarts") >= RESTARTS:
                    return self._fail()
                self._number("restarts", self._get("restarts") + 1)
                self.disk.next = ""
                self.asked += 1
                if self.restarts_work:
                    return None
                self._spend(300)
            elif self.disk.next == "done":
                return self._finish()
        return None

    def _out_of_chances(self) -> bool:
        limits = (("spent", self.deadline), ("silent", SILENT), ("runs", RUNS))
        return any(self._get(name) >= limit for name, limit in limits)

    def _spend(self, seconds: int) -> None:
        self._number("spent", self._get("spent") + seconds)

    def _fail(self) -> None:
        if self.disk.finished is None:
            self._number("sequence", self._get("sequence") + 1)
            self._write()
            self.disk.last = self._get("sequence")
            self._write()
            self.disk.finished = Remediation.FAILED
        self._finish()

    def _finish(self) -> None:
        self._clean()
        if self.disk.finished and not self._get("delivered"):
            self.reports.append((self.disk.last, self.disk.finished))
        self._write()
        self.disk.removed = True

    def _clean(self) -> None:
        self._write()
        self.disk.cleaned = True

    # ------------------------------------------------------------ main.ps1

    def _script(self) -> None:
        if self.disk.finished:
            return
        for stage in STAGES:
            self.disk.states.setdefault(stage.name, State.PENDING)
        self._report(Remediation.RUNNING)
        if self._stages() == "restart":
            self._report(Remediation.AWAITING_REBOOT)
            self._write()
            self.disk.next = "restart"
        else:
            self._complete()

    def _report(self, word: Remediation) -> None:
        self._number("sequence", self._get("sequence") + 1)
        self.reports.append((self._get("sequence"), word))

    def _stages(self) -> str:
        disk = self.disk
        if disk.begun:
            self._attempted(_stage(disk.begun), Outcome.DIED)
        while True:
            stage = next((one for one in STAGES if disk.states[one.name] is State.PENDING), None)
            if self._restart_due(stage):
                if self._get("restarts") < RESTARTS and self._time_left():
                    return "restart"
                disk.problems += ("a restart is still needed",)
                disk.wants_restart = 0
            if stage is None:
                return "end"
            if not self._time_left():
                self._stop()
                return "end"
            if self._attempted(stage, self._attempt(stage)) is Step.RESTART:
                return "restart"

    def _time_left(self) -> bool:
        return self._get("spent") < self.deadline

    def _restart_due(self, stage: Stage | None) -> bool:
        if not self.disk.wants_restart or self.disk.wants_restart != self._get("boots"):
            return False
        number = STAGES.index(stage) if stage else len(STAGES)
        return crosses(stage, STAGES[number - 1] if number else None)

    def _stop(self) -> None:
        self._write()
        for name, state in self.disk.states.items():
            if state is State.PENDING:
                self.disk.states[name] = State.FAILED

    def _attempt(self, stage: Stage) -> Outcome:
        self._write()
        self.disk.begun = stage.name
        self.disk.attempts[stage.name] = self.disk.attempts.get(stage.name, 0) + 1
        self.made[stage.name] = self.made.get(stage.name, 0) + 1
        self._number("silent", 0)
        event = next(self.events, Event.WORKS)
        self._spend(stage.limit if event is Event.HANGS else TICK)
        self._write()
        if event in (Event.HANGS, Event.DIES):
            raise ScriptEnded
        return self._outcome(stage, event)

    def _outcome(self, stage: Stage, event: Event) -> Outcome:
        """What the stage says; verify says what is."""
        if event is Event.FAILS:
            return Outcome.FAILED
        if event is Event.NEEDS_RESTART:
            self.world.pending.add(stage.name)
            return Outcome.AGAIN
        if event is Event.WORKS_AFTER_RESTART and stage.name != "verify":  # it only looks
            self.world.pending.add(stage.name)
            return Outcome.RESTART
        self.world.do(stage.name)
        if stage.name == "verify" and not self.world.right():
            return Outcome.FAILED
        if stage.name == "disks" and not self.world.bound:
            return Outcome.FAILED
        return Outcome.DONE

    def _attempted(self, stage: Stage, outcome: Outcome) -> Step:
        disk = self.disk
        attempts, restarts = disk.attempts[stage.name], self._get("restarts")
        wanted = disk.wants_restart != 0 and disk.wants_restart == self._get("boots")
        decision = decide(outcome, attempts, restarts, self._time_left(), wanted)
        self._write()
        disk.states[stage.name] = decision.state
        disk.begun = ""
        if decision.wants_restart:
            disk.wants_restart = self._get("boots")
        return decision.step

    def _complete(self) -> None:
        word = status(self.disk.states, self.disk.problems)
        self._number("sequence", self._get("sequence") + 1)
        self._write()
        self.disk.last = self._get("sequence")
        self._write()
        self.disk.finished = word
        self._clean()
        self.reports.append((self.disk.last, word))
        self._number("delivered", 1)
        self._write()
        self.disk.next = "done"


def _stage(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)
