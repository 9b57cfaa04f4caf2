"""What an initramfs holds, as far as it matters for extending it. Read once, streamed, within bounds."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from refloat.guest.linux import cpio
from refloat.guest.linux.compression import BrokenInitramfs
from refloat.guest.linux.modules import module_name

MARKER = "etc/refloat-appended"
_CONFIG_LIMIT = 1024 * 1024
_CONFIGS_LIMIT = 16 * 1024 * 1024
_MODULE_LIMIT = 64 * 1024 * 1024

# What can load a module on its own or on request; without any of them a new module would stay a file.
LOADERS = frozenset({"modprobe", "kmod", "insmod", "busybox", "nlplug-findfs", "systemd-udevd", "udevd"})
# Other programs that tell how modules can be asked for.
_NOTED = LOADERS | {"systemd-modules-load", "init_functions"}


@dataclass
class Contents:
    """Paths have no leading slash. `configs` holds the text of the small files that were asked for."""

    kernel: str
    size: int = 0
    kinds: list[str] = field(default_factory=list)  # compression of each segment
    modules: dict[str, str] = field(default_factory=dict)  # name -> path
    directories: set[str] = field(default_factory=set)
    symlinks: dict[str, str] = field(default_factory=dict)
    configs: dict[str, str] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)  # of the configs
    linked: set[str] = field(default_factory=set)  # files with more than one name
    programs: set[str] = field(default_factory=set)
    appended: bool = False

    def resolve(self, path: str) -> str:
        """`path` with the archive's symlinks followed (lib -> usr/lib), as a kernel would unpack it."""
        done = ""
        pending = path.split("/")
        for _ in range(256):
            if not pending:
                return done
            step = posixpath.join(done, pending.pop(0))
            target = self.symlinks.get(step)
            if target is None:
                done = step
                continue
            whole = posixpath.normpath(posixpath.join("/", done, target)).lstrip("/")
            pending = [part for part in (*whole.split("/"), *pending) if part]
            done = ""
        raise BrokenInitramfs(f"its symlinks lead in a circle at {path}")

    def module_directory(self) -> str:
        """Where this initramfs has its kernel's modules: lib/modules/V or usr/lib/modules/V."""
        marker = f"/modules/{self.kernel}/"
        for path in self.modules.values():
            head, found, _ = path.partition(marker)
            if found:
                return self.resolve(f"{head}/modules/{self.kernel}")
        return self.resolve(f"lib/modules/{self.kernel}")

    def can_load(self) -> bool:
        return bool(self.programs & LOADERS)


def scan(fd: int, kernel: str, wanted: Callable[[str], bool], spool: Path | None = None) -> Contents:
    """Reads the initramfs behind a descriptor, with the text of the files that are `wanted`.

    With `spool`, its modules are unpacked below it. Raises BrokenInitramfs for what no kernel could
    unpack, and for what holds more than any system has.
    """
    reader = _Reader(Contents(kernel, os.fstat(fd).st_size), wanted, spool)
    found = reader.found
    with open(f"/proc/self/fd/{fd}", "rb") as handle:
        for item in cpio.read(handle, found.size, reader.reads):
            if isinstance(item, cpio.Segment):
                found.kinds.append(item.kind)
                reader.waiting.clear()
            else:
                reader.note(item)
    if not found.kinds:
        raise BrokenInitramfs("it is empty")
    return found


class _Reader:
    """Notes members as they pass.

    A file with several names has its content at the last of them: the names before are remembered by
    their inode number until it comes.
    """

    def __init__(self, found: Contents, wanted: Callable[[str], bool], spool: Path | None) -> None:
        self.found, self._wanted, self._spool = found, wanted, spool
        self.waiting: dict[int, list[cpio.Member]] = {}
        self._left = _CONFIGS_LIMIT

    def reads(self, member: cpio.Member) -> bool:
        return member.is_file and (
            self._interesting(member) or (member.links > 1 and member.inode in self.waiting)
        )

    def _interesting(self, member: cpio.Member) -> bool:
        if self._wanted(member.name):
            if member.size > _CONFIG_LIMIT:
                raise BrokenInitramfs(f"its {member.name} has {member.size} bytes")
            return True
        if self._spool is None or module_name(member.name) is None:
            return False
        return member.size <= _MODULE_LIMIT

    def note(self, member: cpio.Member) -> None:
        found = self.found
        if posixpath.basename(member.name) in _NOTED and not member.is_directory:
            found.programs.add(posixpath.basename(member.name))
        if member.is_directory:
            found.directories.add(member.name)
        elif member.is_symlink:
            found.symlinks[member.name] = os.fsdecode(member.content or b"").rstrip("\0")
        elif member.is_file:
            self._note_file(member)

    def _note_file(self, member: cpio.Member) -> None:
        found = self.found
        name = module_name(member.name)
        if name:
            found.modules[name] = member.name
        found.appended = found.appended or member.name == MARKER
        if member.links > 1:
            found.linked.add(member.name)
        else:
            found.linked.discard(member.name)
        if member.links > 1 and not member.size and self._interesting(member):
            self.waiting.setdefault(member.inode, []).append(member)
            return
        if member.content is None:
            return
        for earlier in self.waiting.pop(member.inode, []) if member.links > 1 else []:
            self._keep(earlier, member.content)
        if self._interesting(member):
            self._keep(member, member.content)

    def _keep(self, member: cpio.Member, content: bytes) -> None:
        if self._wanted(member.name):
            self._left -= len(content)
            if self._left < 0 or len(content) > _CONFIG_LIMIT:
                raise BrokenInitramfs("it holds more configuration than any system has")
            self.found.configs[member.name] = content.decode("utf-8", "surrogateescape")
            self.found.modes[member.name] = member.mode & 0o7777
        elif self._spool is not None:
            _unpack_module(member, content, self.found.kernel, self._spool)


def _unpack_module(member: cpio.Member, content: bytes, kernel: str, spool: Path) -> None:
    """Puts a module where depmod looks for it. Names come from the guest: only plain ones are taken."""
    _, found, inner = member.name.partition(f"/modules/{kernel}/")
    if found and ".." not in inner.split("/") and module_name(inner):
        write_module(spool / "lib/modules" / kernel, inner, content)


def write_module(base: Path, inner: str, content: bytes) -> None:
    """A module's file below `base`. Raises BrokenInitramfs for a name that no filesystem takes."""
    path = base / inner
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:  # too long, or a directory where another name is a file
        raise BrokenInitramfs(f"its module {inner[:100]} cannot be unpacked: {error.strerror}") from error
