"""A guest kernel's modules as its own /lib/modules lists them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from refloat.errors import Failed
from refloat.guest.tree import Tree

_SUFFIX = re.compile(r"\.ko(?:\.(?:gz|xz|zst))?$")
_INDEX_LIMIT = 16 * 1024 * 1024
_MODULE_LIMIT = 64 * 1024 * 1024


class ModuleMissing(Failed):
    """A kernel has a module neither built in nor as a file."""

    default_code = "module_missing"


def module_name(path: str) -> str | None:
    """The name of the module in a file ("kernel/fs/ext4/ext4.ko.xz": "ext4"); None for other files."""
    name, replaced = _SUFFIX.subn("", posixpath.basename(path))
    return name.replace("-", "_") if replaced else None


class KernelModules:
    """The modules of one installed kernel."""

    def __init__(self, tree: Tree, version: str) -> None:
        self.version = version
        self.directory = f"/lib/modules/{version}"
        self._tree = tree
        self._paths: dict[str, str] = {}
        self._needs: dict[str, tuple[str, ...]] = {}
        for line in self._lines("modules.dep"):
            path, _, needs = line.partition(":")
            name = module_name(path)
            if name and _is_plain(path):
                self._paths[name] = path
                self._needs[name] = tuple(filter(None, map(module_name, needs.split())))
        self.builtin = frozenset(filter(None, map(module_name, self._lines("modules.builtin"))))

    def _lines(self, name: str) -> list[str]:
        path = f"{self.directory}/{name}"
        return self._tree.read_text(path, _INDEX_LIMIT).splitlines() if self._tree.is_file(path) else []

    def has(self, name: str) -> bool:
        return name in self.builtin or name in self._paths

    def closure(self, names: Iterable[str]) -> tuple[str, ...]:
        """The modules and all that they depend on, dependencies first, without what is built in.

        Raises ModuleMissing.
        """
        ordered: dict[str, None] = {}
        seen: set[str] = set()
        # A stack of our own: how deep it goes is the guest's choice.
        pending = [(name, False) for name in reversed(tuple(names))]
        while pending:
            name, complete = pending.pop()
            if complete:
                ordered[name] = None
            elif name not in seen and name not in self.builtin:
                if name not in self._paths:
                    raise ModuleMissing(f"kernel {self.version} of the guest has no module {name}")
                seen.add(name)
                pending.append((name, True))
                pending += [(need, False) for need in reversed(self._needs[name])]
        return tuple(ordered)

    def path(self, name: str) -> str:
        """The module's file, relative to the kernel's module directory."""
        return self._paths[name]

    def size(self, name: str) -> int:
        status = self._tree.stat(f"{self.directory}/{self._paths[name]}")
        return status.st_size if status else 0

    def content(self, name: str) -> bytes:
        return self._tree.read_bytes(f"{self.directory}/{self._paths[name]}", _MODULE_LIMIT)

    def order(self) -> bytes:
        """modules.order, which decides between modules with the same alias; empty if there is none."""
        return self.index("modules.order") or b""

    def index(self, name: str) -> bytes | None:
        """A file that depmod made for all of this kernel's modules; None if there is none."""
        path = f"{self.directory}/{name}"
        return self._tree.read_bytes(path, _INDEX_LIMIT) if self._tree.is_file(path) else None


def _is_plain(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/")
