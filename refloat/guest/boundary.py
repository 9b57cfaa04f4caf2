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
    """`any_case`: on vfat and NTFS, where any spelling opens the same file."""

    pattern: str
    because: str
    any_case: bool = False


_CMDLINE = "names of storage devices on the kernel's command line"


def _esp(mount: str) -> tuple[Rule, ...]:
    """What may change on an EFI system partition that is mounted there."""
    return (
        Rule(f"{mount}/EFI/*/grub.cfg", _CMDLINE, any_case=True),
        Rule(f"{mount}/EFI/*/grub.conf", _CMDLINE, any_case=True),
        Rule(f"{mount}/EFI/*/grubenv", _CMDLINE, any_case=True),
        Rule(f"{mount}/EFI/syslinux/*.cfg", _CMDLINE, any_case=True),
        Rule(f"{mount}/loader/entries/*.conf", _CMDLINE, any_case=True),
        Rule(f"{mount}/EFI/BOOT", "holds what a firmware without boot entries starts", any_case=True),
        Rule(f"{mount}/EFI/BOOT/*.efi", "what a firmware without boot entries starts", any_case=True),
    )


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
    Rule("/etc/default/grub", _CMDLINE),
    Rule("/etc/default/grub.d/*.cfg", _CMDLINE),
    Rule("/etc/grub.d/*custom*", _CMDLINE),
    Rule("/etc/kernel/cmdline", _CMDLINE),
    Rule("/etc/cmdline.d/*.conf", _CMDLINE),
    Rule("/etc/sysconfig/bootloader", _CMDLINE),
    Rule("/etc/update-extlinux.conf", _CMDLINE),
    Rule("/boot/grub/grub.cfg", _CMDLINE),
    Rule("/boot/grub2/grub.cfg", _CMDLINE),
    Rule("/boot/grub/custom.cfg", _CMDLINE),
    Rule("/boot/grub2/custom.cfg", _CMDLINE),
    Rule("/boot/grub/grubenv", _CMDLINE),
    Rule("/boot/grub2/grubenv", _CMDLINE),
    Rule("/boot/grub/menu.lst", _CMDLINE),
    Rule("/boot/grub/grub.conf", _CMDLINE),
    Rule("/boot/grub/device.map", "the disk's new name, for grub-install"),
    Rule("/boot/grub2/device.map", "the disk's new name, for grub-install"),
    Rule("/boot/loader/entries/*.conf", _CMDLINE, any_case=True),
    Rule("/boot/extlinux.conf", _CMDLINE),
    Rule("/extlinux.conf", _CMDLINE),
    Rule("/boot/extlinux/*.conf", _CMDLINE),
    Rule("/boot/extlinux/*.cfg", _CMDLINE),
    Rule("/boot/syslinux/*.cfg", _CMDLINE),
    *(rule for esp in ("/boot/efi", "/efi", "/boot") for rule in _esp(esp)),
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
    Rule("/etc/init.d/refloat-firstboot", "first-boot service, removed by the guest itself"),
    Rule("/etc/rc.d/init.d/refloat-firstboot", "first-boot service, removed by the guest itself"),
    Rule("/etc/runlevels/boot/refloat-firstboot", "enables the first-boot service"),
    Rule("/etc/rc*.d/S*refloat-firstboot", "enables the first-boot service"),
    Rule("/etc/rc.d/rc*.d/S*refloat-firstboot", "enables the first-boot service"),
    Rule("/etc/init.d/rc*.d/S*refloat-firstboot", "enables the first-boot service"),
    Rule("/etc/init.d/.depend.boot", "lists the first-boot service, which takes itself out again"),
    Rule("/etc/systemd/network", "holds the adapters' names"),
    Rule("/etc/systemd/network/10-refloat-*.link", "an adapter keeps the name that the guest knows"),
    Rule("/etc/udev/rules.d", "holds the adapters' names"),
    Rule("/etc/udev/rules.d/70-refloat-names.rules", "an adapter keeps the name that the guest knows"),
)


@cache
def _compiled(pattern: str, any_case: bool) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", pattern)
    table = {"**": ".*", "*": "[^/]*"}
    flags = re.DOTALL | re.IGNORECASE if any_case else re.DOTALL
    return re.compile("".join(table.get(part, re.escape(part)) for part in parts), flags)


@dataclass(frozen=True)
class Boundary:
    """The rules for one kind of guest."""

    allowed: tuple[Rule, ...]
    forbidden: tuple[Rule, ...]

    def limitation(self, path: str) -> str | None:
        """Why `path` (a real guest path) must not be changed, or None if it may be."""
        if not path.startswith("/") or "/../" in f"{path}/" or "/./" in f"{path}/" or "\0" in path:
            return "not a plain absolute path"
        forbidden = _first(self.forbidden, path)
        if forbidden is not None:
            return forbidden.because
        return None if _first(self.allowed, path) else "not among the files that an adaptation may change"

    def check(self, path: str) -> None:
        """Raises BoundaryViolation unless `path` may be changed."""
        reason = self.limitation(path)
        if reason is not None:
            raise BoundaryViolation(
                f"refusing to change the guest's {path}: {reason}",
                hint="this is a defect in Refloat or a symlink planted in the guest; "
                "nothing was written there",
            )


def _first(rules: tuple[Rule, ...], path: str) -> Rule | None:
    return next((rule for rule in rules if _compiled(rule.pattern, rule.any_case).fullmatch(path)), None)


LINUX = Boundary(ALLOWED, FORBIDDEN)
