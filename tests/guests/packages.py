"""Debian packages as tars of root filesystems: the slow step of a guest, cached by its content."""

from __future__ import annotations

import os
from pathlib import Path

from refloat.command import run
from refloat.lab import recipes
from refloat.lab.cache import content_key, entry

_TIMEOUT = 1800  # seconds: catches a hang, not a slow registry

# Mounts, loop devices and processes of a step die with its first process, and that one with its caller. What
# others unmount meanwhile is unmounted in there as well: a copy of their mount would keep their disk busy.
ISOLATED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"),
)

_COMMON = (
    *("linux-image-amd64", "systemd-sysv", "udev", "kmod", "openssh-server", "dbus", "iproute2", "e2fsprogs"),
    *("iputils-ping", "zstd", "grub-pc-bin", "grub2-common"),
)
_INITRAMFS_TOOLS = ("initramfs-tools", "busybox")

# Few rows for many guests: a row costs minutes, a guest of a row that is there seconds.
PACKAGES: dict[str, tuple[str, ...]] = {
    "ifupdown": (*_COMMON, *_INITRAMFS_TOOLS, "ifupdown", "xfsprogs", "btrfs-progs"),
    "dracut-networkmanager": (*_COMMON, "dracut", "network-manager", "xfsprogs"),
    "netplan-efi": (
        *(*_COMMON, *_INITRAMFS_TOOLS, "netplan.io", "cloud-init"),
        *("grub-efi-amd64-bin", "grub-efi-amd64-signed", "shim-signed", "dosfstools", "mtools"),
    ),
    "volumes": (*_COMMON, *_INITRAMFS_TOOLS, "ifupdown", "lvm2", "cryptsetup-initramfs"),
}


def packages_key(suite: str, name: str) -> str:
    return content_key("1", suite, *sorted(PACKAGES[name]), "without", *sorted(recipes.SOURCE.excludes))


def packages_tar(suite: str, name: str) -> Path:
    """The row's packages as installed by Debian's own tools; neither configured nor with an initramfs."""

    def build(directory: Path) -> None:
        mirror = os.environ.get("REFLOAT_DEBIAN_MIRROR")
        argv = [
            *ISOLATED,
            *("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES[name])}"),
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipes.SOURCE.excludes),
            *(suite, str(directory / "root.tar"), *([mirror] if mirror else [])),
        ]
        # INITRD=No: the guest's own step makes the only initramfs that is ever used.
        run(argv, timeout=_TIMEOUT, env={"TMPDIR": str(directory), "INITRD": "No"})

    return entry(f"guest-{suite}-{name}", packages_key(suite, name), build) / "root.tar"
