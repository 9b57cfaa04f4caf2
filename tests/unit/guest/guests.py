"""Small guests for tests: a Debian's files without its programs, an initramfs, modules for depmod."""

from __future__ import annotations

import gzip
import shutil
import stat
import subprocess
from pathlib import Path

from refloat.guest.disk import Found
from refloat.guest.inspect import place
from refloat.guest.linux import cpio
from refloat.guest.tree import Tree
from refloat.model import (
    AdaptRequest,
    DiskBus,
    GuestFacts,
    GuestFilesystem,
    NetworkMode,
    NicModel,
    PlannedDisk,
    PlannedNic,
    Secrets,
)
from tests.unit.guest.elf import kernel_module

GOLDEN = Path(__file__).parents[2] / "golden" / "guest"
KERNEL = "6.1.0-1-amd64"
ROOT_UUID = "11111111-1111-4111-8111-111111111111"
DATA_UUID = "22222222-2222-4222-8222-222222222222"
SWAP_UUID = "33333333-3333-4333-8333-333333333333"
MAC = "00:50:56:aa:bb:cc"
TOKEN = "t0ken" * 6

# module: (directory, what it depends on, alias)
MODULES = {
    "virtio": ("drivers/virtio", "virtio_ring", ""),
    "virtio_ring": ("drivers/virtio", "", ""),
    "virtio_pci": ("drivers/virtio", "virtio virtio_ring", "pci:v00001AF4d*sv*sd*bc*sc*i*"),
    "virtio_blk": ("drivers/block", "virtio virtio_ring", "virtio:d00000002v*"),
    "virtio_scsi": ("drivers/scsi", "virtio virtio_ring scsi_mod", "virtio:d00000008v*"),
    "virtio_net": ("drivers/net", "virtio net-failover", "virtio:d00000001v*"),
    "net-failover": ("drivers/net", "", ""),
    "virtio_console": ("drivers/char", "virtio", "virtio:d00000003v*"),
    "scsi_mod": ("drivers/scsi", "", ""),
    "sd_mod": ("drivers/scsi", "scsi_mod", "scsi:t-0x00*"),
    "vmw_pvscsi": ("drivers/scsi", "scsi_mod", "pci:v000015ADd000007C0sv*sd*bc*sc*i*"),
}


def filesystems() -> tuple[GuestFilesystem, ...]:
    return (
        GuestFilesystem("disk-a", 1, "ext4", ROOT_UUID),
        GuestFilesystem("disk-a", 5, "swap", SWAP_UUID),
        GuestFilesystem("disk-b", 1, "ext4", DATA_UUID),
    )


def found(tree: Tree) -> tuple[Found, ...]:
    here = tuple(Found(one, f"/dev/none-{one.disk}{one.partition}") for one in filesystems())
    return place(here, here[0], tree.read_text("/etc/fstab"), ORDER)


ORDER = ("disk-a", "disk-b")


def module_path(name: str) -> str:
    return f"kernel/{MODULES[name][0]}/{name}.ko"


def make_guest(root: Path, case: str = "debian-vmware", *, pack: str = "gzip") -> Path:
    """Copies a golden case's tree to `root` and adds what is binary: modules, initramfs, a shell."""
    shutil.copytree(GOLDEN / case / "tree", root, symlinks=True)
    for directory in ("usr/bin", "usr/lib/systemd", "etc/systemd/system/multi-user.target.wants", "boot"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/sh").write_bytes(kernel_module("sh"))
    (root / "usr/lib/systemd/systemd").write_bytes(b"")
    (root / "boot/grub/i386-pc").mkdir(parents=True, exist_ok=True)
    (root / f"boot/vmlinuz-{KERNEL}").write_bytes(b"kernel")
    make_modules(root / "usr/lib/modules" / KERNEL)
    (root / f"boot/initrd.img-{KERNEL}").write_bytes(pack_initramfs(main_archive(), pack))
    for path in root.rglob("*"):
        if not path.is_symlink():  # modes as they should be, whatever the umask here is
            path.chmod(0o755 if path.is_dir() else 0o644)
    return root


def make_modules(directory: Path) -> None:
    for name, (_, depends, alias) in MODULES.items():
        path = directory / module_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(kernel_module(name, alias=alias, depends=depends.replace(" ", ",")))
    lines = [
        f"{module_path(name)}: {' '.join(module_path(need) for need in depends.split())}".rstrip()
        for name, (_, depends, _) in MODULES.items()
    ]
    (directory / "modules.dep").write_text("".join(f"{line}\n" for line in lines))
    (directory / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (directory / "modules.order").write_text("".join(f"{module_path(name)}\n" for name in MODULES))


def directory(name: str) -> cpio.Member:
    return cpio.Member(name, stat.S_IFDIR | 0o755, 0)


def file(name: str, content: bytes) -> cpio.Member:
    return cpio.Member(name, stat.S_IFREG | 0o644, len(content), content)


def main_archive() -> bytes:
    """An initramfs as on a VMware guest: usrmerged, with pvscsi and without virtio."""
    base = f"usr/lib/modules/{KERNEL}"
    parts = f"{base}/kernel/drivers/scsi".split("/")
    link = cpio.Member("lib", stat.S_IFLNK | 0o777, 7, b"usr/lib")
    members = [link, directory("conf"), directory("conf/conf.d"), directory("etc")]
    members += [directory("/".join(parts[: depth + 1])) for depth in range(len(parts))]
    members += [
        file(f"{base}/{module_path(name)}", kernel_module(name, alias=MODULES[name][2]))
        for name in ("scsi_mod", "sd_mod", "vmw_pvscsi")
    ]
    members += [file("conf/modules", b"vmw_pvscsi\nsd_mod\n"), file("init", b"#!/bin/sh\n")]
    members += [file("conf/conf.d/resume", b"RESUME=/dev/sda5\n"), file("kmod", b"loads modules")]
    return cpio.write(members)


def pack_initramfs(archive: bytes, how: str) -> bytes:
    if how == "none":
        return archive
    if how == "gzip":
        return gzip.compress(archive, mtime=0)
    argv = {
        "zstd": ["zstd", "-qc"],
        "xz": ["xz", "-c", "--check=crc32"],
        "lzma": ["xz", "-c", "--format=lzma"],
        "bzip2": ["bzip2", "-c"],
        "lz4": ["lz4", "-lcq"],
        "lzo": ["lzop", "-c"],
    }[how]
    return subprocess.run(argv, input=archive, stdout=subprocess.PIPE, check=True).stdout


def request(facts: GuestFacts, *, mac: str = MAC, mode: NetworkMode = NetworkMode.RESTORE) -> AdaptRequest:
    nics = tuple(PlannedNic(mac, MAC, "production", mode, config, "test") for config in facts.nics[:1])
    return AdaptRequest(
        job="job-7",
        disks=(PlannedDisk("disk-a", "sda", "s0", 1), PlannedDisk("disk-b", "sdb", "s1", 1)),
        disk_bus=DiskBus.VIRTIO_BLK,
        nic_model=NicModel.VIRTIO,
        nics=nics,
        secrets=Secrets(TOKEN, "n0nce" * 6),
        channel="org.refloat.report",
        report_deadline=600,
    )


def snapshot(root: Path) -> dict[str, tuple[str, int, bytes]]:
    """Every file below `root`: kind, mode, and content (or a symlink's target)."""
    result = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = f"/{path.relative_to(root)}"
        if stat.S_ISLNK(status.st_mode):
            result[name] = ("symlink", 0, str(path.readlink()).encode())
        elif stat.S_ISDIR(status.st_mode):
            result[name] = ("directory", stat.S_IMODE(status.st_mode), b"")
        else:
            result[name] = ("file", stat.S_IMODE(status.st_mode), path.read_bytes())
    return result
