"""What an adaptation may change in a guest at all: rows of data, and no by default.

Patterns are matched against real paths (no symlinks left). `*` stays within one path component,
`**` does not. A row that forbids wins over one that allows: it is there to give the reason in words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from refloat.errors import Failed


class BoundaryViolation(Failed):
    """The engine was about to change what it must never touch: the run stops."""

    default_code = "boundary"


@dataclass(frozen=True)
class Rule:
    pattern: str
    because: str


FORBIDDEN = (
    Rule("/home/**", "users' data"),
    Rule("/root/**", "root's own files"),
    Rule("/srv/**", "application data"),
    Rule("/opt/**", "applications"),
    Rule("/usr/**", "belongs to the guest's packages"),
    Rule("/var/lib/**", "application and package state"),
    Rule("/var/www/**", "application data"),
    Rule("/etc/passwd*", "users"),
    Rule("/etc/group*", "users"),
    Rule("/etc/*shadow*", "passwords"),
    Rule("/etc/sudoers*", "users' rights"),
    Rule("/etc/sudoers.d/**", "users' rights"),
    Rule("/etc/ssh/**", "host keys and remote access"),
    Rule("/etc/ssl/**", "keys and certificates"),
    Rule("/etc/pam.d/**", "log-in"),
    Rule("/etc/machine-id", "the guest's identity"),
    Rule("/etc/hostname", "the guest's identity"),
    Rule("/etc/krb5.*", "domain membership"),
    Rule("/etc/sssd/**", "domain membership"),
    Rule("/etc/samba/**", "domain membership"),
    Rule("/etc/cron*", "services"),
)

ALLOWED = (
    Rule("/etc/fstab", "names of storage devices"),
    Rule("/etc/crypttab", "names of storage devices"),
    Rule("/etc/mdadm.conf", "names of storage devices"),
    Rule("/etc/mdadm/mdadm.conf", "names of storage devices"),
    Rule("/etc/lvm/lvmlocal.conf", "the devices file pins physical volumes to ids of the old disks"),
    Rule("/etc/default/grub", "names of storage devices on the kernel's command line"),
    Rule("/boot/grub/grub.cfg", "names of storage devices on the kernel's command line"),
    Rule("/boot/initrd.img-*", "drivers for the destination's disks"),
    Rule("/boot/initrd-*", "drivers for the destination's disks"),
    Rule("/boot/initramfs-*", "drivers for the destination's disks"),
    Rule("/boot/*/*/init*", "drivers for the destination's disks (kernel-install)"),
    Rule("/boot/efi/*/*/init*", "drivers for the destination's disks (kernel-install)"),
    Rule("/efi/*/*/init*", "drivers for the destination's disks (kernel-install)"),
    Rule("/etc/initramfs-tools/modules", "the same drivers after the next kernel update"),
    Rule("/etc/dracut.conf.d", "the same drivers after the next kernel update"),
    Rule("/etc/dracut.conf.d/refloat.conf", "the same drivers after the next kernel update"),
    Rule("/etc/mkinitcpio.conf", "the same drivers after the next kernel update"),
    Rule("/etc/mkinitcpio.conf.d/refloat.conf", "the same drivers after the next kernel update"),
    Rule("/etc/mkinitfs/mkinitfs.conf", "the same drivers after the next kernel update"),
    Rule("/etc/mkinitfs/features.d", "the same drivers after the next kernel update"),
    Rule("/etc/mkinitfs/features.d/refloat.modules", "the same drivers after the next kernel update"),
    Rule("/etc/initramfs-tools/conf.d/resume", "name of the swap device"),
    Rule("/etc/refloat", "first-boot configuration, removed by the guest itself"),
    Rule("/etc/refloat/**", "first-boot configuration, removed by the guest itself"),
    Rule("/etc/cloud/cloud.cfg.d", "holds the guard below"),
    Rule("/etc/cloud/cloud.cfg.d/99-zz-refloat-guard.cfg", "cloud-init keeps its instance"),
    Rule("/etc/cloud/cloud-init.disabled", "cloud-init must not take the guest for a new instance"),
    Rule("/etc/udev/rules.d/*persistent-net*.rules", "an adapter's name follows it to its new address"),
    Rule("/etc/systemd/system/refloat-*.service", "first-boot units, removed by the guest itself"),
    Rule("/etc/systemd/system/*.target.wants", "where the units are enabled"),
    Rule("/etc/systemd/system/*.target.wants/refloat-*.service", "enables the first-boot units"),
)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", pattern)
    table = {"**": ".*", "*": "[^/]*"}
    return re.compile("".join(table.get(part, re.escape(part)) for part in parts), re.DOTALL)


def _first(rules: tuple[Rule, ...], path: str) -> Rule | None:
    return next((rule for rule in rules if _compiled(rule.pattern).fullmatch(path)), None)


def limitation(path: str) -> str | None:
    """Why `path` (a real guest path) must not be changed, or None if it may be."""
    if not path.startswith("/") or "/../" in f"{path}/" or "/./" in f"{path}/" or "\0" in path:
        return "not a plain absolute path"
    forbidden = _first(FORBIDDEN, path)
    if forbidden is not None:
        return forbidden.because
    return None if _first(ALLOWED, path) else "not among the files that an adaptation may change"


def check(path: str) -> None:
    """Raises BoundaryViolation unless `path` may be changed."""
    reason = limitation(path)
    if reason is not None:
        raise BoundaryViolation(
            f"refusing to change the guest's {path}: {reason}",
            hint="this is a defect in Refloat or a symlink planted in the guest; nothing was written there",
        )
