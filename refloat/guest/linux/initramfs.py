"""Drivers for the destination's disks in a guest's initramfs: appended, never rebuilt.

A kernel unpacks archives that follow each other, later files winning. So one more archive with the
missing modules and a new module index is enough, and no code of the guest has to run.

The appended archive is not compressed: that is understood behind every format but legacy lz4, depends
on no option of the guest's kernel, and is below 1 MB.
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refloat.command import run
from refloat.errors import Failed
from refloat.guest.families import DISK_MODULES, needed_modules
from refloat.guest.linux import compression, cpio, pins, tools
from refloat.guest.linux.compression import BrokenInitramfs
from refloat.guest.linux.contents import MARKER, Contents, scan, write_module
from refloat.guest.linux.edits import Rewritten
from refloat.guest.linux.modules import KernelModules, ModuleMissing, module_name
from refloat.guest.linux.storage import DeviceNames
from refloat.model import AdaptRequest

# What depmod makes and modprobe reads. The built-in ones stay as they are: nothing is added to them.
_INDEX = (
    "modules.alias", "modules.alias.bin", "modules.dep", "modules.dep.bin", "modules.devname",
    "modules.softdep", "modules.symbols", "modules.symbols.bin",
)  # fmt: skip
# The size of a new index on top of the modules, in bytes, when the space is estimated.
INDEX_ALLOWANCE = 4 * 1024 * 1024
# Added besides what the destination needs, where the guest's kernel has them: the guest can then be
# moved between virtio buses without another adaptation.
_WELCOME = ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "sd_mod")

# The configuration files of an archive -> those that have to change, with what they become.
Mend = Callable[[Mapping[str, str]], Mapping[str, Rewritten]]


def wanted(path: str) -> bool:
    """Whether the text of this file in an archive is needed to extend it."""
    return tools.is_force_list(path) or pins.is_pin(path)


def missing(contents: Contents, modules: KernelModules, needed: Iterable[str]) -> tuple[str, ...]:
    """The modules, with those that they depend on, which are neither in the initramfs nor built in.

    Raises ModuleMissing where the kernel has no such module at all, BrokenInitramfs where nothing in the
    initramfs could load one.
    """
    lacking = tuple(name for name in modules.closure(needed) if name not in contents.modules)
    if lacking and not contents.can_load():
        raise BrokenInitramfs(f"it lacks {lacking[-1]} and has no program that could load a module")
    return lacking


@dataclass(frozen=True)
class Addition:
    """What to append to one initramfs: `tail` includes the padding. `added` are modules, `mended` files
    of the archive that named devices by the old bus."""

    tail: bytes
    added: tuple[str, ...]
    mended: tuple[str, ...] = ()

    def reasons(self) -> Iterator[str]:
        if self.added:
            yield f"drivers appended: {' '.join(self.added)}"
        if self.mended:
            yield f"names that follow the bus mended in {' '.join(self.mended)}"


def for_destination(
    fd: int, modules: KernelModules, request: AdaptRequest, names: DeviceNames
) -> Addition | None:
    """addition() of what the hardware of `request` needs."""
    return addition(
        fd,
        modules,
        needed=needed_modules(request.disk_bus, request.nic_model),
        force=DISK_MODULES[request.disk_bus],
        welcome=_WELCOME,
        mend=lambda configs: pins.mended(configs, names, request.disk_bus),
    )


def addition(
    fd: int,
    modules: KernelModules,
    *,
    needed: Sequence[str],
    force: Sequence[str] = (),
    welcome: Sequence[str] = (),
    mend: Mend = lambda configs: {},
) -> Addition | None:
    """The archive to append to the initramfs behind `fd`, or None if it lacks nothing.

    `needed` modules must end up in it, and those of them in `force` are loaded without being asked for.
    `welcome` ones are added where the kernel has them. Raises BrokenInitramfs, ModuleMissing, and Failed
    where `mend` cannot make sense of a name.
    """
    with tempfile.TemporaryDirectory(prefix="refloat-initramfs-") as name:
        work = Path(name)
        contents = scan(fd, modules.version, wanted, work)
        configs = _mended(mend(contents.configs))
        if not missing(contents, modules, needed) and not configs:
            return None
        offered = [one for one in welcome if _is_complete(modules, one)] if contents.can_load() else []
        added = missing(contents, modules, (*needed, *offered))
        mended = tuple(configs)
        if added:
            configs |= tools.forced(contents, force)
        members = _new_files(contents, modules, added, work) + _config_files(contents, configs)
        archive = cpio.write([*_directories(contents, members), *_unlinked(contents, members)])
        tail = _tail(contents, archive)
        _verify(tail, contents, modules, needed)
    return Addition(tail, added, mended)


def _mended(found: Mapping[str, Rewritten]) -> dict[str, str]:
    problems = [words for done in found.values() for words in done.problems]
    if problems:
        raise Failed(
            "; ".join(problems), code="guest_names", hint="the guest differs from what was inspected"
        )
    return {path: done.text for path, done in found.items() if done.edits}


def _is_complete(modules: KernelModules, name: str) -> bool:
    try:
        modules.closure([name])
    except ModuleMissing:
        return False
    return True


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
        write_module(base, inner, content)
        members.append(_file(contents.resolve(f"{target}/{inner}"), content))
    index = _own_index if any(base.rglob("*.ko.gz")) else _new_index
    return members + [_file(f"{target}/{name}", content) for name, content in index(modules, work)]


def _new_index(modules: KernelModules, work: Path) -> Iterator[tuple[str, bytes]]:
    base = work / "lib/modules" / modules.version
    (base / "modules.order").write_bytes(modules.order())
    run(["depmod", "-b", str(work), "--", modules.version], timeout=300)
    for name in _INDEX:
        if (base / name).is_file():
            yield name, (base / name).read_bytes()


def _own_index(modules: KernelModules, work: Path) -> Iterator[tuple[str, bytes]]:
    """The index over all of the kernel's modules, as the guest has it. Debian's depmod does not read
    modules packed with gzip, as Alpine has them; modules that are listed and not there do no harm."""
    for name in _INDEX:
        content = modules.index(name)
        if content is not None:
            yield name, content
        elif name.startswith(("modules.dep", "modules.alias")):
            raise BrokenInitramfs(f"kernel {modules.version} has no {name}, which only its own depmod makes")


def _config_files(contents: Contents, configs: Mapping[str, str]) -> list[cpio.Member]:
    files = {**configs, MARKER: "This archive was appended by Refloat.\n"}
    return [
        _file(
            contents.resolve(path),
            text.encode("utf-8", "surrogateescape"),
            contents.modes.get(path, 0o644),
        )
        for path, text in sorted(files.items())
    ]


def _file(path: str, content: bytes, mode: int = 0o644) -> cpio.Member:
    return cpio.Member(path, stat.S_IFREG | mode, len(content), content)


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


def _unlinked(contents: Contents, members: Iterable[cpio.Member]) -> Iterable[cpio.Member]:
    """A kernel writes a new file into the old one, under all the names that this has (dracut gives files
    of the same content one inode). A symlink of that name in between takes it out of their company.
    Both were seen on a booted 6.1 kernel."""
    for member in members:
        if member.name in contents.linked:
            yield cpio.Member(member.name, stat.S_IFLNK | 0o777, 1, b".")
        yield member


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
