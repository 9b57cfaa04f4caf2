"""Drivers for the destination's disks in a guest's initramfs: appended, never rebuilt.

A kernel unpacks archives that follow each other, later files winning. So one more archive with the
missing modules and a new module index is enough, and no code of the guest has to run.

The appended archive is not compressed: that is understood behind every format but legacy lz4, depends
on no option of the guest's kernel, and is below 1 MB.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from refloat.command import run
from refloat.guest.linux import compression, cpio
from refloat.guest.linux.compression import BrokenInitramfs
from refloat.guest.linux.modules import KernelModules, module_name
from refloat.guest.tree import Tree

MARKER = "etc/refloat-appended"
FORCE_LIST = "conf/modules"
RESUME = "conf/conf.d/resume"

# What depmod makes and modprobe reads. The built-in ones stay as they are: nothing is added to them.
_INDEX = (
    "modules.alias", "modules.alias.bin", "modules.dep", "modules.dep.bin", "modules.devname",
    "modules.softdep", "modules.symbols", "modules.symbols.bin",
)  # fmt: skip
# The size of a new index on top of the modules, in bytes, when the space is estimated.
INDEX_ALLOWANCE = 4 * 1024 * 1024
_CONFIG_LIMIT = 64 * 1024
_MODULE_LIMIT = 64 * 1024 * 1024


@dataclass
class Contents:
    """What an initramfs holds, as far as it matters here. Paths have no leading slash."""

    kernel: str
    size: int = 0
    kinds: list[str] = field(default_factory=list)  # compression of each segment
    modules: dict[str, str] = field(default_factory=dict)  # name -> path
    directories: set[str] = field(default_factory=set)
    symlinks: dict[str, str] = field(default_factory=dict)
    configs: dict[str, str] = field(default_factory=dict)  # small files that are read or extended
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


def scan(fd: int, kernel: str, spool: Path | None = None) -> Contents:
    """Reads the initramfs behind a descriptor. With `spool`, its modules are unpacked below it.

    Raises BrokenInitramfs for what no kernel could unpack.
    """
    found = Contents(kernel, os.fstat(fd).st_size)
    with open(f"/proc/self/fd/{fd}", "rb") as handle:
        for item in cpio.read(handle, found.size, lambda member: _wanted(member, spool is not None)):
            if isinstance(item, cpio.Segment):
                found.kinds.append(item.kind)
            else:
                _note(found, item)
                if spool is not None and item.is_file and item.content is not None:
                    _spool(item, kernel, spool)
    if not found.kinds:
        raise BrokenInitramfs("it is empty")
    return found


def _wanted(member: cpio.Member, with_modules: bool) -> bool:
    if not member.is_file:
        return False
    if member.name in (FORCE_LIST, RESUME):
        return member.size <= _CONFIG_LIMIT
    return with_modules and module_name(member.name) is not None and member.size <= _MODULE_LIMIT


def _note(found: Contents, member: cpio.Member) -> None:
    if member.is_directory:
        found.directories.add(member.name)
    elif member.is_symlink:
        found.symlinks[member.name] = os.fsdecode(member.content or b"").rstrip("\0")
    elif member.is_file:
        name = module_name(member.name)
        if name:
            found.modules[name] = member.name
        if member.name in (FORCE_LIST, RESUME):
            found.configs[member.name] = (member.content or b"").decode("utf-8", "surrogateescape")
        found.appended = found.appended or member.name == MARKER


def _spool(member: cpio.Member, kernel: str, spool: Path) -> None:
    """Puts a module where depmod looks for it. Names come from the guest: only plain ones are taken."""
    _, found, inner = member.name.partition(f"/modules/{kernel}/")
    if not found or ".." in inner.split("/") or member.content is None or not module_name(inner):
        return
    path = spool / "lib/modules" / kernel / inner
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(member.content)


def missing(contents: Contents, modules: KernelModules, needed: Iterable[str]) -> tuple[str, ...]:
    """The modules, with those that they depend on, which are neither in the initramfs nor built in.

    Raises ModuleMissing where the kernel has no such module at all.
    """
    return tuple(name for name in modules.closure(needed) if name not in contents.modules)


@dataclass(frozen=True)
class Addition:
    """What to append to one initramfs: `tail` includes the padding. `added` are modules."""

    tail: bytes
    added: tuple[str, ...]


def addition(
    tree: Tree,
    path: str,
    modules: KernelModules,
    *,
    needed: Sequence[str],
    force: Sequence[str] = (),
    welcome: Sequence[str] = (),
    mend: Callable[[str, str], str] = lambda path, text: text,
) -> Addition | None:
    """The archive to append to the initramfs at `path`, or None if it lacks nothing.

    `needed` modules must end up in it, and those of them in `force` are loaded without being asked for.
    `welcome` ones are added where the kernel has them. `mend` gives the new text of a configuration file
    in it. Raises BrokenInitramfs, ModuleMissing.
    """
    with tempfile.TemporaryDirectory(prefix="refloat-initramfs-") as name:
        work = Path(name)
        with tree.open(path) as fd:
            contents = scan(fd, modules.version, work)
        wanted = (*needed, *(one for one in welcome if modules.has(one)))
        added = missing(contents, modules, wanted)
        mended = {path: mend(path, text) for path, text in contents.configs.items() if path == RESUME}
        mended = {path: text for path, text in mended.items() if text != contents.configs[path]}
        if not missing(contents, modules, needed) and not mended:
            return None
        members = _new_files(contents, modules, added, work)
        members += _config_files(contents, force, mended)
        archive = cpio.write([*_directories(contents, members), *members])
        tail = _tail(contents, archive)
        _verify(tail, contents, modules, needed)
    return Addition(tail, added)


def _new_files(
    contents: Contents, modules: KernelModules, added: Sequence[str], work: Path
) -> list[cpio.Member]:
    """The added modules and the index over them and those that were there before."""
    if not added:
        return []
    base = work / "lib/modules" / modules.version
    target = contents.module_directory()
    members = []
    for name in added:
        inner, content = modules.path(name), modules.content(name)
        (base / inner).parent.mkdir(parents=True, exist_ok=True)
        (base / inner).write_bytes(content)
        members.append(_file(contents.resolve(f"{target}/{inner}"), content))
    (base / "modules.order").write_bytes(modules.order())
    run(["depmod", "-b", str(work), modules.version], timeout=300)
    for name in _INDEX:
        if (base / name).is_file():
            members.append(_file(f"{target}/{name}", (base / name).read_bytes()))
    return members


def _config_files(contents: Contents, force: Sequence[str], configs: dict[str, str]) -> list[cpio.Member]:
    files = dict(configs)
    if FORCE_LIST in contents.configs:
        text = contents.configs[FORCE_LIST]
        listed = {line.split()[0].replace("-", "_") for line in text.splitlines() if line.split()}
        lines = [name for name in force if name not in listed]
        glue = "" if not text or text.endswith("\n") else "\n"
        files[FORCE_LIST] = text + glue + "".join(f"{name}\n" for name in lines)
    files[MARKER] = "This archive was appended by Refloat.\n"
    return [
        _file(contents.resolve(path), text.encode("utf-8", "surrogateescape"))
        for path, text in sorted(files.items())
    ]


def _file(path: str, content: bytes) -> cpio.Member:
    return cpio.Member(path, stat.S_IFREG | 0o644, len(content), content)


def _directories(contents: Contents, members: Iterable[cpio.Member]) -> list[cpio.Member]:
    """The directories that the archive before does not have. One that exists must never come again:
    a directory `lib` in the place of the symlink lib -> usr/lib leaves the kernel without its init."""
    new: dict[str, None] = {}
    for member in members:
        parts = member.name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path not in contents.directories and path not in contents.symlinks:
                new[path] = None
    return [cpio.Member(path, stat.S_IFDIR | 0o755, 0) for path in new]


def _tail(contents: Contents, archive: bytes) -> bytes:
    if contents.kinds[-1] == "lz4":
        # The kernel takes whatever follows legacy lz4 as more of it: no padding, no other format.
        return compression.pack_lz4(archive)
    return bytes(-contents.size % 4) + archive


def _verify(tail: bytes, contents: Contents, modules: KernelModules, needed: Sequence[str]) -> None:
    """Reads back what will be appended and holds it against what was promised."""
    with tempfile.TemporaryFile() as handle:
        # Alignment counts from the start of the file, so the padding stands in for the old content.
        handle.write(bytes(contents.size % 4) if contents.kinds[-1] != "lz4" else b"")
        handle.write(tail)
        handle.flush()
        size = handle.tell()
        names, index, indexed = dict(contents.modules), f"{contents.module_directory()}/modules.dep", ""
        for item in cpio.read(handle, size, lambda member: member.name == index):
            if isinstance(item, cpio.Segment):
                continue
            name = module_name(item.name)
            if name:
                names[name] = item.name
            if item.name == index:
                indexed = (item.content or b"").decode()
    listed = {module_name(line.partition(":")[0]) for line in indexed.splitlines()}
    for name in modules.closure(needed):
        if name not in names or (indexed and name not in listed):
            raise BrokenInitramfs(f"the archive made for kernel {modules.version} lacks {name}")
