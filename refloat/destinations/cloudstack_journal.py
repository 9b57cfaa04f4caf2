"""What the driver keeps of one VM over the death of the hub: orders that may still be under way, and what
CloudStack itself cannot tell later (a revert, the state to go back to). One small file per VM, replaced at
once."""

from __future__ import annotations

import fcntl
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refloat.durable import write_durably
from refloat.errors import Failed

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


@dataclass(frozen=True)
class Pending:
    """An order that was about to be given. `job` is "" until CloudStack's answer named one; `at` is an
    instant of this host's clock."""

    command: str
    about: str
    job: str
    at: float


class Journal:
    """Of one VM. To be used by the holder of the VM's lock only, see Journals.alone."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            known = json.loads(file.read_bytes()) if file.exists() else {}
            self._pending = [Pending(**entry) for entry in known.get("pending", [])]
            self.notes: dict[str, Any] = dict(known.get("notes", {}))
        except (ValueError, TypeError) as error:
            raise Failed(
                f"the journal {file} cannot be read: {error}",
                code="journal_broken",
                hint="look in CloudStack at the jobs and volumes of this VM; move the file away if "
                "none is left",
            ) from error

    def pending(self) -> tuple[Pending, ...]:
        return tuple(self._pending)

    def begin(self, command: str, about: str) -> None:
        """Durable before the order is sent."""
        self._pending.append(Pending(command, about, "", time.time()))
        self._write()

    def named(self, job: str) -> None:
        """Durable before anybody waits for the job of the last order."""
        last = self._pending.pop()
        self._pending.append(Pending(last.command, last.about, job, last.at))
        self._write()

    def ended(self) -> None:
        """No order is under way."""
        if self._pending:
            self._pending.clear()
            self._write()

    def note(self, name: str, value: Any) -> None:
        """None forgets it."""
        if self.notes.get(name) != value:
            self.notes.pop(name, None)
            if value is not None:
                self.notes[name] = value
            self._write()

    def _write(self) -> None:
        content = {"pending": [asdict(entry) for entry in self._pending], "notes": self.notes}
        write_durably(self._file, json.dumps(content).encode())


class Journals:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def alone(self, vm: str) -> Iterator[Journal]:
        """Nobody else gives orders for this VM meanwhile, in this process or another."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / f"{_file_name(vm)}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.read(vm)

    def read(self, vm: str) -> Journal:
        """To look only."""
        return Journal(self._directory / f"{_file_name(vm)}.json")


def _file_name(vm: str) -> str:
    return vm if _PLAIN.fullmatch(vm) else "x-" + vm.encode().hex()[:200]
