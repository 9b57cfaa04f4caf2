"""Files inside an initramfs that name storage devices: those that follow the bus are mended or refused.

A generic initramfs names nothing. One that was made for its host (dracut's default on RHEL) holds the
root device, devices to wait for, LVM and RAID settings: with another bus it waits for ever. What is
mended here is written into the appended archive, under the same name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from refloat.guest.linux.edits import Edit, Rewritten
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.linux.storage.lvm import DEVICES_FILE, LVM_CONF, LVM_LOCAL, filter_problems, switch_off
from refloat.guest.linux.storage.raid import rewrite_mdadm_conf
from refloat.model import DiskBus

_DEVICE = re.compile(r"(?<![\w/.+-])/dev/[^\s\"'`,;|\])}]+")
_QUIET = re.compile(r"\b(?:nofail|noauto)\b")
_RESUME = re.compile(r"(?<!\S)(?:resume|RESUME)=\S*")
_TIMEOUT = re.compile(r"^(Job(?:Running)?TimeoutSec)=(.*)$", re.MULTILINE)
_DEVICE_UNIT = re.compile(r"etc/systemd/system/(dev-.+)\.device\.d/timeout\.conf")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
# path in the archive, its text, the names -> the text as it must be
Mend = Callable[[str, str, DeviceNames], Rewritten]


@dataclass(frozen=True)
class Pin:
    """A kind of file, by the pattern of its whole path in the archive, with the reason to look at it."""

    pattern: str
    mend: Mend
    because: str


@dataclass
class _Draft:
    """A text on its way, line by line."""

    lines: list[str]
    edits: list[Edit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def put(self, index: int, old: str, new: str, line: str) -> None:
        self.lines[index] = line
        self.edits.append(Edit(index + 1, old, new))

    def done(self) -> Rewritten:
        return Rewritten("\n".join(self.lines), tuple(self.edits), tuple(self.problems), tuple(self.warnings))


def mend_names(path: str, text: str, names: DeviceNames) -> Rewritten:
    """Every device name outside of comments. One that means nothing is a problem, unless the line says
    that the device may be missing, or only hibernation would look for it."""
    draft = _Draft(text.split("\n"))
    for index, line in enumerate(draft.lines):
        if line.lstrip().startswith("#"):
            continue
        for name in dict.fromkeys(_DEVICE.findall(line)):
            try:
                new = names.stable(name)
            except LookupError as error:
                _unknown(draft, index, name, f"{path}:{index + 1}: {error}")
                continue
            if new is not None:
                draft.put(index, name, new, _replace_name(draft.lines[index], name, new))
    return draft.done()


def _unknown(draft: _Draft, index: int, name: str, words: str) -> None:
    line = draft.lines[index]
    resume = next((one[0] for one in _RESUME.finditer(line) if name in one[0]), None)
    if resume is not None:
        # An image of another machine's memory is of no use here, and waiting for it takes minutes.
        draft.put(index, resume, "", line.replace(resume, "", 1))
        draft.warnings.append(words)
    elif _QUIET.search(line):
        draft.warnings.append(words)
    else:
        draft.problems.append(words)


def _replace_name(line: str, name: str, new: str) -> str:
    return _DEVICE.sub(lambda match: new if match[0] == name else match[0], line)


def mend_wait(path: str, text: str, names: DeviceNames) -> Rewritten:
    """dracut's initqueue/finished/devexists-*.sh: the boot goes on when every one of them succeeds."""
    draft = _Draft(text.split("\n"))
    for index, line in enumerate(draft.lines):
        for name in dict.fromkeys(_DEVICE.findall(line)):
            link = _link(name, names)
            if link == "":
                draft.warnings.append(f"{path}: the boot does not wait for {name} any more")
                draft.put(index, line, "true", "true")
                break
            if link is not None:
                draft.put(index, name, link, _replace_name(draft.lines[index], name, link))
    return draft.done()


def _link(name: str, names: DeviceNames) -> str | None:
    """The name under /dev that a device will have for certain; None: the old one, "": there is none."""
    try:
        stable = names.stable(name)
    except LookupError:
        return ""
    if stable is None:
        return None
    tag, _, value = stable.partition("=")
    return f"/dev/disk/by-{tag.lower()}/{value}"


def mend_timeout(path: str, text: str, names: DeviceNames) -> Rewritten:
    """systemd's side of the same wait: initrd.target wants the device, and JobTimeoutSec=0 is for ever.

    A wanted device is not required: after a second without it the boot goes on.
    """
    match = _DEVICE_UNIT.fullmatch(path)
    if match is None or _link(_device_of(match[1]), names) is None:
        return Rewritten(text)
    new = _TIMEOUT.sub(lambda found: f"{found[1]}=1", text)
    if new == text:
        return Rewritten(text)
    return Rewritten(new, (Edit(1, f"{match[1]}.device", "no wait without end"),))


def _device_of(unit: str) -> str:
    """systemd.unit(5): dev-disk-by\\x2dpath-pci -> /dev/disk/by-path/pci."""
    return "/" + _ESCAPE.sub(lambda match: chr(int(match[1], 16)), unit.replace("-", "/"))


def mend_mdadm(path: str, text: str, names: DeviceNames) -> Rewritten:
    """As on the root filesystem: arrays are found by UUID, wherever their members are."""
    return rewrite_mdadm_conf(text, path)


def _leave(path: str, text: str, names: DeviceNames) -> Rewritten:
    return Rewritten(text)


PINS = (
    Pin(r"conf/conf\.d/[^/]+", mend_names, "initramfs-tools: RESUME, ROOT, and cryptroot before Debian 10"),
    Pin(r"conf/initramfs\.conf", mend_names, "initramfs-tools: RESUME, ROOT"),
    Pin(r"cryptroot/crypttab", mend_names, "initramfs-tools: the disk to decrypt"),
    Pin(r"etc/crypttab", mend_names, "dracut and mkinitcpio: the disk to decrypt"),
    Pin(r"etc/fstab(?:\.sys)?", mend_names, "dracut: filesystems to mount before the root's own fstab"),
    Pin(r"etc/cmdline", mend_names, "dracut: arguments as on the kernel's command line"),
    Pin(r"etc/cmdline\.d/[^/]+\.conf", mend_names, "dracut (hostonly): root=, resume=, root.journaldev="),
    Pin(
        r"(?:usr/)?(?:var/)?lib/dracut/hooks/initqueue/finished/devexists-[^/]*\.sh",
        mend_wait,
        "dracut (hostonly): devices to wait for before the root is mounted",
    ),
    Pin(_DEVICE_UNIT.pattern, mend_timeout, "dracut (hostonly) with systemd: the same, without an end"),
    Pin(r"etc/lvm/(?:devices/system\.devices|lvm\.conf|lvmlocal\.conf)", _leave, "see _lvm()"),
    Pin(r"etc/mdadm(?:/mdadm)?\.conf", mend_mdadm, "md: devices on which arrays are looked for"),
    Pin(r"etc/mdadm(?:/mdadm)?\.conf\.d/[^/]+", mend_mdadm, "md: devices on which arrays are looked for"),
)
_COMPILED = tuple((re.compile(pin.pattern), pin) for pin in PINS)


def is_pin(path: str) -> bool:
    return any(pattern.fullmatch(path) for pattern, _ in _COMPILED)


def mended(configs: Mapping[str, str], names: DeviceNames, bus: DiskBus) -> dict[str, Rewritten]:
    """Every file that names devices and has to change, or cannot be: path in the archive -> what it
    becomes. `bus` is that of the destination."""
    result = {}
    for path, text in sorted(configs.items()):
        pin = next((pin for pattern, pin in _COMPILED if pattern.fullmatch(path)), None)
        done = pin.mend(path, text, names) if pin else Rewritten(text)
        if done.edits or done.problems or done.warnings:
            result[path] = done
    if "LVM2_member" in names.kinds():
        result |= _lvm(configs, bus)
    return result


def _lvm(configs: Mapping[str, str], bus: DiskBus) -> dict[str, Rewritten]:
    """LVM's own configuration, as on the root filesystem: filters that hide the disks' new names, and
    RHEL 9's list of devices, which is switched off in lvmlocal.conf."""
    devices, conf, local = (configs.get(path[1:], "") for path in (DEVICES_FILE, LVM_CONF, LVM_LOCAL))
    switched = switch_off(devices, conf, local)
    problems = (*filter_problems(conf, LVM_CONF[1:], bus), *filter_problems(local, LVM_LOCAL[1:], bus))
    if not switched.edits and not problems:
        return {}
    return {LVM_LOCAL[1:]: replace(switched, problems=problems)}
