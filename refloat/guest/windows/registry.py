"""The hives of a mounted Windows guest.

A hive is opened when it is first asked for, with its logs replayed. `commit` writes those that were changed,
whole, each through the journal with its values; SYSTEM is the last: what it binds is in place by then. A hive
that only had its logs replayed is not written: Windows does that itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from refloat.errors import Failed, NotFound, Refused
from refloat.guest.journal import Journal
from refloat.guest.tree import Tree
from refloat.guest.windows import paths
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.hivelog import LOG_LIMIT, replayed
from refloat.guest.windows.regf import HIVE_LIMIT, damaged, header
from refloat.model import ValueChange

_LOGS = (".LOG1", ".LOG2", ".LOG")
_ORDER = ("BCD", "SOFTWARE", "SYSTEM")
_BCD = ("/ESP/EFI/Microsoft/Boot/BCD", "/C/Boot/BCD")


@dataclass
class _Opened:
    hive: Hive
    path: str
    content: bytes  # as it is on the disk


class Registry:
    """Raises HiveDamaged where a hive cannot be used, NotFound where there is none."""

    def __init__(self, tree: Tree, system_root: str = "/C/Windows") -> None:
        self._tree = tree
        self._config = f"{system_root}/System32/config"
        self._opened: dict[str, _Opened] = {}
        self._made: dict[str, tuple[tuple[ValueChange, ...], bytes]] = {}

    @property
    def system(self) -> Hive:
        return self._hive("SYSTEM", (f"{self._config}/SYSTEM",)).hive

    @property
    def software(self) -> Hive:
        return self._hive("SOFTWARE", (f"{self._config}/SOFTWARE",)).hive

    @property
    def bcd(self) -> Hive | None:
        """The boot configuration; None where it is on a volume that is not mounted (BIOS)."""
        return self._hive("BCD", _BCD).hive if any(paths.find(self._tree, path) for path in _BCD) else None

    @property
    def control_set(self) -> str:
        """The key of the control set that Windows will start from: "ControlSet001"."""
        current = self.system.get("Select", "Current")
        name = f"ControlSet{current.number:03}" if current and current.number is not None else ""
        if not self.system.has(name) or not name:
            raise damaged("SYSTEM", "it does not say which control set is the current one")
        # The next start is by the default one. Another is there only between a failed start and a good one.
        default = self.system.get("Select", "Default")
        if default is not None and default != current:
            raise damaged("SYSTEM", "its next start would be from another control set than the current one")
        return name

    def prepare(self) -> None:
        """Makes the changed hives, while nothing is written yet. Raises Refused (hive_write) where one cannot
        be made."""
        for name, one in self._changed():
            changes = one.hive.changes
            if self._made.get(name, ((), b""))[0] == changes:
                continue
            try:
                self._made[name] = changes, one.hive.content()
            except Failed as error:
                raise Refused(error.message, code=error.code, hint=error.hint) from error

    def commit(self, journal: Journal, reason: str) -> None:
        """Writes the changed hives. All are made before the first is written."""
        self.prepare()
        for name, one in self._changed():
            changes, content = self._made[name]
            journal.write(one.path, content, reason, expect=one.content, values=changes, limit=HIVE_LIMIT)

    def _changed(self) -> list[tuple[str, _Opened]]:
        found = ((name, self._opened.get(name)) for name in _ORDER)
        return [(name, one) for name, one in found if one is not None and one.hive.changes]

    def _hive(self, name: str, places: tuple[str, ...]) -> _Opened:
        if name not in self._opened:
            path = next((found for place in places if (found := paths.find(self._tree, place))), None)
            if path is None:
                raise NotFound(f"the guest has no registry hive {name} at {places[0]}", code="no_hive")
            content = self._read(path, HIVE_LIMIT)
            logs = self._logs(path) if header(name, content).dirty else []
            hive = Hive.open(name, replayed(name, content, logs))
            self._opened[name] = _Opened(hive, path, content)
        return self._opened[name]

    def _logs(self, path: str) -> list[bytes]:
        logs = (paths.find(self._tree, path + suffix) for suffix in _LOGS)
        return [self._read(log, LOG_LIMIT) for log in logs if log and self._tree.is_file(log)]

    def _read(self, path: str, limit: int) -> bytes:
        status = self._tree.stat(path)
        if status is not None and status.st_size > limit:
            raise Refused(
                f"the guest's {path} has {status.st_size} bytes, more than the {limit} that can be handled",
                code="hive_too_large",
                hint="compact the hive on the source (a hive of that size is mostly left-over space)",
            )
        return self._tree.read_bytes(path, limit)
