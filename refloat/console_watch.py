"""The recovered VM's console over time: pictures as evidence, and what they show as findings.

A picture is evidence, never a condition: what goes wrong with it is logged, not raised. Kept are the first of
each state that was recognised, those of the start and the end, and the newest of the rest.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from refloat.clock import now
from refloat.console import read_lines
from refloat.console_png import BadPicture, is_plain, read_png
from refloat.console_states import BY_NAME, Recognised, SerialText, recognise
from refloat.errors import RefloatError
from refloat.model import Findings, Sight
from refloat.run import Run

log = logging.getLogger(__name__)

EVERY = 20.0  # seconds between two pictures
AT_FIRST = 5.0  # and in the first minute: menus and panics that restart are short
FIRST = 60.0
MOST_ORDINARY = 20
MOST_SIGHTS = 40  # of a VM that restarts again and again: the first half of them and the latest


class Watch:
    """One watch a step. What it found is in the findings: one that is made anew goes on from there."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._began = time.monotonic()
        self._due = self._began
        self._latest = b""  # digest of the newest ordinary picture: a still screen is kept once
        self._serial = SerialText()

    @property
    def due(self) -> float:
        """When the next picture is, by the monotonic clock."""
        return self._due

    def look_if_due(self) -> None:
        if time.monotonic() >= self._due:
            self.look("boot")

    def look(self, label: str) -> None:
        """A picture now, whatever is due."""
        try:
            picture = self._run.destination.screenshot(self._run.vm)
        except RefloatError as error:
            log.warning("no screenshot of %s: %s", self._run.vm, error)
            picture = b""
        pause = AT_FIRST if time.monotonic() < self._began + FIRST else EVERY
        self._due = time.monotonic() + pause
        if picture:
            self._take(picture, label)
        elif label == "start":
            self._name_console()

    def _name_console(self) -> None:
        """Where the platform gives no picture, a person has to look: the page is named once."""
        try:
            page = self._run.destination.console(self._run.vm)
        except RefloatError as error:
            log.warning("no console page of %s: %s", self._run.vm, error)
            return
        if page:
            where = f"a person can look at it: {page}"
            self._run.progress(message=f"the platform gives no picture of the console; {where}")

    def heard(self, data: bytes) -> None:
        """What the serial line said."""
        found = recognise(self._serial.feed(data))
        if found is not None and self._changed("serial", found):
            self._note(Sight(found.state.name, found.words, now(), "serial"), found)

    def reported(self) -> None:
        """A report came by the serial line: whatever stood there before, the system went on."""
        self._serial = SerialText()
        if self._changed("serial", None):
            self._note(Sight("", "", now(), "serial"))

    def _take(self, picture: bytes, label: str) -> None:
        try:
            pixels = read_png(picture)
        except BadPicture as error:
            log.warning("the screenshot of %s cannot be read: %s", self._run.vm, error)
            self._keep(picture, label)
            return
        if is_plain(pixels) and self._may_blank():  # what stood there is there still
            self._keep(picture, label)
            return
        found = recognise(read_lines(pixels))
        if not self._changed("screen", found):
            self._keep(picture, label)
        elif found is None:
            self._note(Sight("", "", now(), "screen", self._keep(picture, label)))
        else:
            known = any(sight.state == found.state.name and sight.picture for sight in self._sights())
            name = self._keep(picture, label if known else found.state.name)
            self._note(Sight(found.state.name, found.words, now(), "screen", name), found)

    def _sights(self) -> tuple[Sight, ...]:
        return (self._run.load("findings", Findings) or Findings()).console

    def _changed(self, where: str, found: Recognised | None) -> bool:
        """Another state than the last one; its words may move on within it."""
        before = next((sight for sight in reversed(self._sights()) if sight.where == where), None)
        return (before.state if before else "") != (found.state.name if found else "")

    def _may_blank(self) -> bool:
        before = next((sight.state for sight in reversed(self._sights()) if sight.where == "screen"), "")
        return before not in BY_NAME or BY_NAME[before].blanks

    def _note(self, sight: Sight, found: Recognised | None = None) -> None:
        known = self._run.load("findings", Findings) or Findings()
        sights = (*known.console, sight)
        if len(sights) > MOST_SIGHTS:
            half = MOST_SIGHTS // 2
            sights = (*sights[:half], *sights[-half:])
        self._run.save("findings", replace(known, console=sights))
        if found is not None:
            self._run.progress(message=f'the console shows {found.state.says}: "{found.words}"')

    # ------------------------------------------------------------ files

    def _keep(self, picture: bytes, label: str) -> str:
        """Writes the picture, and returns its file's name; of a screen that stands still the first one's."""
        directory: Path = self._run.directory / "screens"
        directory.mkdir(exist_ok=True)
        digest = hashlib.sha256(picture).digest()
        if label == "boot" and digest == self._latest:
            return ""
        self._latest = digest
        file = directory / f"{datetime.now(UTC):%H%M%S}-{label}.png"
        file.write_bytes(picture)
        ordinary = sorted(directory.glob("*-boot.png"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        for old in ordinary[:-MOST_ORDINARY]:
            old.unlink(missing_ok=True)
        return file.name
