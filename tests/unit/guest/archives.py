"""Initramfs as the tools of different distributions make them, from small specifications."""

from __future__ import annotations

import gzip
import lzma
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refloat.guest.linux import cpio
from tests.unit.guest.elf import kernel_module
from tests.unit.guest.guests import MODULES, directory, file, pack_initramfs

# Modules that a guest on VMware needed.
PRESENT = ("scsi_mod", "sd_mod", "vmw_pvscsi")

# Programs and files by which an initramfs of each tool is known.
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "initramfs-tools": ("init", "scripts/functions", "conf/initramfs.conf", "conf/modules",
                        "usr/sbin/modprobe"),
    "dracut": ("usr/lib/dracut-lib.sh", "usr/bin/kmod", "usr/lib/systemd/systemd-udevd",
               "usr/lib/systemd/systemd-modules-load"),
    "dracut-plain": ("init", "usr/lib/dracut-lib.sh", "usr/bin/kmod", "usr/lib/systemd/systemd-udevd"),
    "mkinitcpio": ("init", "init_functions", "config", "usr/bin/busybox", "usr/bin/kmod"),
    "mkinitcpio-systemd": ("usr/bin/kmod", "usr/lib/systemd/systemd-modules-load", "VERSION"),
    "mkinitfs": ("init", "bin/busybox", "sbin/nlplug-findfs", "etc/fstab"),
}  # fmt: skip
_TEXTS = {"conf/modules": b"vmw_pvscsi\n", "config": b'MODULES="vmw_pvscsi"\nHOOKS="udev"\n'}


@dataclass(frozen=True)
class Image:
    """`early` is how many uncompressed archives come before, `files` what lies in it besides its layout.
    Those in `twins` have one inode, as dracut's hardlink makes them of files with the same content."""

    layout: str
    pack: str
    early: int = 0
    files: Mapping[str, str] | None = None
    twins: Sequence[str] = ()
    merged: bool = True  # /lib is a symlink to /usr/lib


def module_file(name: str, suffix: str) -> str:
    return f"kernel/{MODULES[name][0]}/{name}{suffix}"


def module_content(name: str, suffix: str) -> bytes:
    _, depends, alias = MODULES[name]
    content = kernel_module(name, alias=alias, depends=depends.replace(" ", ","))
    if suffix.endswith(".gz"):
        return gzip.compress(content, mtime=0)
    if suffix.endswith(".xz"):
        return lzma.compress(content, check=lzma.CHECK_CRC32)
    if suffix.endswith(".zst"):
        return subprocess.run(["zstd", "-qc"], input=content, stdout=subprocess.PIPE, check=True).stdout
    return content


def build(image: Image, version: str, suffix: str) -> bytes:
    files = {name: _TEXTS.get(name, b"") for name in LAYOUTS[image.layout]}
    prefix = "usr/lib" if image.merged else "lib"
    for name in PRESENT:
        files[f"{prefix}/modules/{version}/{module_file(name, suffix)}"] = module_content(name, suffix)
    for name, text in (image.files or {}).items():
        files[name] = text.encode()
    members = [cpio.Member("lib", stat.S_IFLNK | 0o777, 7, b"usr/lib")] if image.merged else []
    members += [directory(path) for path in _parents(files)]
    members += [file(name, content) for name, content in files.items() if name not in image.twins]
    main = pack_initramfs(_with_twins(members, files, image.twins), image.pack)
    return _early(image.early) + main


def _parents(files: Mapping[str, bytes]) -> list[str]:
    found: dict[str, None] = {}
    for name in files:
        parts = name.split("/")[:-1]
        found |= {"/".join(parts[: depth + 1]): None for depth in range(len(parts))}
    return list(found)


def _with_twins(members: list[cpio.Member], files: Mapping[str, bytes], twins: Sequence[str]) -> bytes:
    """As GNU cpio writes several names of one file: the content comes with the last of them."""
    last = twins[-1] if twins else ""
    shared = [file(name, files[name] if name == last else b"") for name in twins]
    archive = bytearray(cpio.write([*members, *shared]))
    for name in twins:
        header = archive.rindex(b"070701", 0, archive.index(name.encode() + b"\0"))
        archive[header + 6 : header + 14] = b"%08X" % 7777
        archive[header + 38 : header + 46] = b"%08X" % len(twins)
    return bytes(archive)


def _early(count: int) -> bytes:
    """Microcode and ACPI tables: plain archives, padded to 512 bytes as cpio -o does."""
    result = b""
    for number in range(count):
        content = bytes([number + 1]) * 1001
        result += cpio.write(
            [directory("kernel"), directory("kernel/x86"), file("kernel/x86/code.bin", content)]
        )
        result += bytes(-len(result) % 512)
    return result


def make_kernel_modules(base: Path, suffix: str) -> None:
    """/lib/modules/<version> of a guest, with the index that its own depmod made (as far as one of the
    index files has to be there at all)."""
    lines = []
    for name, (_, depends, _) in MODULES.items():
        path = base / module_file(name, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(module_content(name, suffix))
        needs = [module_file(need, suffix) for need in depends.split()]
        lines.append(f"{module_file(name, suffix)}: {' '.join(needs)}".rstrip())
    (base / "modules.dep").write_text("".join(f"{line}\n" for line in lines))
    (base / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (base / "modules.order").write_text("".join(f"{module_file(name, '.ko')}\n" for name in MODULES))
    if suffix.endswith(".gz"):
        for name in ("modules.dep.bin", "modules.alias", "modules.alias.bin", "modules.symbols"):
            (base / name).write_text(f"the guest's own {name}\n")
