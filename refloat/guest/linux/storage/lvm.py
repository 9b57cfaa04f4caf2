"""LVM's own lists of devices: what would hide the physical volumes on other virtual hardware.

LVM finds its volumes by what is on them. Two things can stop it from looking: the devices file of RHEL 9
(lvmdevices(8)), whose entries pin each physical volume to the disk's old WWID or serial number, and a
filter in lvm.conf that accepts disks by their old names.

The devices file is left as it is and switched off in lvmlocal.conf. Entries of the type devname with the
PVID kept would be smaller, but LVM then searches by PVID only on devices without a serial number, and
only if the device's new name was not guessed right: without the file it looks everywhere, always.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from refloat.guest.linux.edits import Edit, Rewritten
from refloat.model import DiskBus

DEVICES_FILE = "/etc/lvm/devices/system.devices"
LVM_CONF = "/etc/lvm/lvm.conf"
LVM_LOCAL = "/etc/lvm/lvmlocal.conf"

# Types of ids that are made from what is on the disk.
_OWN_TYPES = frozenset({"crypt_uuid", "md_uuid", "lvmlv_uuid", "loop_file"})
_USED = re.compile(r"(?:^|[\s{/])use_devicesfile\s*=\s*(\d+)")
_FILTER = re.compile(r'(?:^|[\s{/])((?:global_)?filter)\s*=\s*(\[(?:[^"\[\]]|"[^"]*+")*+\]|"[^"]*")')
_PATTERN = re.compile(r'"([^"]*)"')
_BUS = re.compile(r"(?<![a-z])(?:sd|hd|xvd|vd|nvme)(?![a-z]{2})|by-id|by-path|mpath|emcpower")
_EVERYTHING = frozenset({".*", ".*/", "/dev", "/dev/", "/dev/.*", "/.*/", ".*/.*"})
# How the kernel names disks on each bus.
_NAMES = {DiskBus.VIRTIO_BLK: "vd", DiskBus.NVME: "nvme"}
_BLOCK = """\
# Since the recovery by Refloat: /etc/lvm/devices/system.devices lists the disks of the old hardware.
# To use a devices file again, remove these lines and that file, then run: vgimportdevices --all
devices {
	use_devicesfile = 0
}
"""


@dataclass(frozen=True)
class Device:
    """One entry of the devices file."""

    line: int
    idtype: str
    idname: str


def parse_devices_file(text: str) -> tuple[Device, ...]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if not line.lstrip().startswith("#") and "IDTYPE" in fields:
            found.append(Device(number, fields["IDTYPE"], fields.get("IDNAME", "")))
    return tuple(found)


def switch_off(devices: str, conf: str, local: str) -> Rewritten:
    """lvmlocal.conf, so that LVM does without its devices file if that pins old ids.

    The edits are the entries of `devices` (the devices file) that name what will not be there; `conf` and
    `local` are the texts of lvm.conf and lvmlocal.conf.
    """
    if _setting(local, _setting(conf, "1")) == "0":
        return Rewritten(local)
    edits = tuple(
        Edit(entry.line, f"{entry.idtype} {entry.idname}", "found by PVID")
        for entry in parse_devices_file(devices)
        if entry.idtype not in _OWN_TYPES
    )
    if not edits:
        return Rewritten(local)
    glue = "" if not local or local.endswith("\n") else "\n"
    return Rewritten(f"{local}{glue}{_BLOCK}", edits)


def filter_problems(text: str, path: str, bus: DiskBus) -> tuple[str, ...]:
    """Filters that accept disks by the names that they have now, and reject those that they get on `bus`."""
    found = []
    plain = _without_comments(text)
    for match in _FILTER.finditer(plain):
        patterns = _PATTERN.findall(match[2])
        accepted = [one for one in patterns if one.startswith("a")]
        pinned = [one for one in accepted if _BUS.search(one)]
        rejects = any(one.startswith("r") for one in patterns)
        if rejects and pinned and not any(_accepts(one, bus) for one in accepted):
            line = plain.count("\n", 0, match.start(1)) + 1
            found.append(
                f"{path}:{line}: {match[1]} accepts disks by names that will change ({' '.join(pinned)})"
            )
    return tuple(found)


def _accepts(pattern: str, bus: DiskBus) -> bool:
    """`pattern` is like a|/dev/sd.*|, with any character for the bars."""
    expression = pattern[2:-1].strip("^$")
    return expression in _EVERYTHING or f"/{_NAMES.get(bus, 'sd')}" in expression


def _setting(text: str, default: str) -> str:
    values = _USED.findall(_without_comments(text))
    return values[-1] if values else default


def _without_comments(text: str) -> str:
    """Line by line, so that line numbers hold. A # within quotes is no comment."""
    lines = []
    for line in text.split("\n"):
        parts = line.split('"')
        for index in range(0, len(parts), 2):
            if "#" in parts[index]:
                parts[index] = parts[index].partition("#")[0]
                del parts[index + 1 :]
                break
        lines.append('"'.join(parts))
    return "\n".join(lines)
