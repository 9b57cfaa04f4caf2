"""Where the other boot loaders keep kernel arguments: functions from a text to its command lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from refloat.guest.linux.boot import arguments, grub
from refloat.guest.linux.boot.arguments import CommandLine, Wanted
from refloat.guest.linux.edits import Edit, Rewritten
from refloat.model import DiskBus

# A line's blank-separated key and where its value begins.
_KEYED = re.compile(r"^[ \t]*(?P<key>[A-Za-z][\w-]*)(?:[ \t]+|$)(?P<value>.*)$", re.MULTILINE)


# ---------------------------------------------------------------- Boot Loader Specification


def entry_lines(text: str) -> tuple[CommandLine, ...]:
    """The options of a loader/entries/*.conf. $kernelopts stands for what is in grubenv."""
    keyed = list(_KEYED.finditer(text))
    initrd = any(match["key"] in ("initrd", "efi", "uki") for match in keyed)
    return tuple(
        CommandLine(*match.span("value"), initrd=initrd) for match in keyed if match["key"] == "options"
    )


def entry_starts(text: str) -> int:
    return int(any(match["key"] in ("linux", "efi", "uki") for match in _KEYED.finditer(text)))


def plain_lines(text: str) -> tuple[CommandLine, ...]:
    """/etc/kernel/cmdline and /etc/cmdline.d: nothing but arguments; a line may be a comment."""
    return tuple(CommandLine(*match.span()) for match in re.finditer(r"^(?![ \t]*#).+$", text, re.MULTILINE))


# ---------------------------------------------------------------- GRUB legacy

# update-grub of Debian's GRUB legacy generates from these comments.
_LEGACY_TEMPLATE = re.compile(r"^# (?:kopt(?:_\w+)?|\w*options|xenk?opt)=(?P<value>.*)$", re.MULTILINE)
_LEGACY = re.compile(r"^[ \t]*(?P<key>title|kernel|module|initrd)\b[ \t=]*(?P<value>.*)$", re.MULTILINE)
_LEGACY_ARGUMENTS = re.compile(r"(?:--\S+[ \t]+)*+\S+[ \t]*(?P<rest>.*)$")
_MAPPED = re.compile(r"^\(hd(?P<number>\d+)\)[ \t]+(?P<device>/dev/\S+)", re.MULTILINE)


def legacy_lines(text: str) -> tuple[CommandLine, ...]:
    """The arguments of each kernel (below Xen, each module) in a menu.lst or grub.conf."""
    found: list[CommandLine] = []
    waiting: list[int] = []
    for match in _LEGACY.finditer(text):
        if match["key"] in ("initrd", "module"):
            for index in waiting:
                found[index] = replace(found[index], initrd=True)
        if match["key"] != "kernel":
            waiting = []
        if match["key"] in ("kernel", "module"):
            rest = _LEGACY_ARGUMENTS.match(match["value"])
            start = match.start("value") + (rest.start("rest") if rest else len(match["value"]))
            waiting.append(len(found))
            found.append(CommandLine(start, match.end("value"), initrd=False))
    templates = [CommandLine(*match.span("value")) for match in _LEGACY_TEMPLATE.finditer(text)]
    return (*templates, *found)


def legacy_starts(text: str) -> int:
    return sum(match["key"] == "kernel" for match in _LEGACY.finditer(text))


# What a guest's kernel calls its disks on each bus, by their order. By this alone grub-install tells which
# disk is (hd0).
_DISK_NAMES: Mapping[DiskBus, str] = {
    DiskBus.VIRTIO_BLK: "/dev/vd{letter}",
    DiskBus.VIRTIO_SCSI: "/dev/sd{letter}",
    DiskBus.PVSCSI: "/dev/sd{letter}",
    DiskBus.SATA: "/dev/sd{letter}",
    DiskBus.NVME: "/dev/nvme{index}n1",
}
_WHOLE_DISK = re.compile(r"/dev/(?:sd|vd|xvd|hd)([a-z])$|/dev/nvme(\d)n1$")


def rewrite_device_map(text: str, path: str, bus: DiskBus) -> Rewritten:
    """(hd0) /dev/sda: no boot reads it, but the guest's next grub-install does.

    A whole disk has no UUID: the name is the one that the disk has on the destination's bus.
    """
    pieces, position, edits, warnings = [], 0, [], []
    line_number = arguments.line_number(text)
    for match in _MAPPED.finditer(text):
        number = line_number(match.start())
        known = _WHOLE_DISK.match(match["device"])
        if not known:
            warnings.append(f"{path}:{number}: {match['device']} is left alone: only grub-install reads it")
            continue
        index = ord(known[1]) - ord("a") if known[1] else int(known[2])
        new = _DISK_NAMES[bus].format(letter=chr(ord("a") + index), index=index)
        if new != match["device"]:
            pieces += [text[position : match.start("device")], new]
            position = match.end("device")
            edits.append(Edit(number, match["device"], new))
    return Rewritten("".join((*pieces, text[position:])), tuple(edits), (), tuple(warnings))


# ---------------------------------------------------------------- syslinux, extlinux

_SYSLINUX = re.compile(
    r"^[ \t]*(?P<key>label|linux|kernel|initrd|append)(?:[ \t]+|$)(?P<value>.*)$",
    re.MULTILINE | re.IGNORECASE,
)


def syslinux_lines(text: str) -> tuple[CommandLine, ...]:
    """The APPEND of each label, and the one for all of them; INITRD may stand before or behind it."""
    found: list[CommandLine] = []
    first, initrd, in_label = 0, False, False

    def close() -> None:
        for index in range(first, len(found)):
            found[index] = replace(found[index], initrd=initrd or not in_label)

    for match in _SYSLINUX.finditer(text):
        key = match["key"].lower()
        if key == "label":
            close()
            first, initrd, in_label = len(found), False, True
        elif key == "initrd":
            initrd = True
        elif key == "append":
            found.append(CommandLine(*match.span("value")))
            initrd = initrd or re.search(r"(?:^|\s)initrd=", match["value"]) is not None
    close()
    return tuple(found)


def syslinux_starts(text: str) -> int:
    return sum(
        match["key"].lower() in ("linux", "kernel") and not match["value"].lower().endswith((".c32", ".0"))
        for match in _SYSLINUX.finditer(text)
    )


def update_extlinux_lines(text: str) -> tuple[CommandLine, ...]:
    """The default options in Alpine's /etc/update-extlinux.conf, which take the console."""
    found = grub.assignments(text, "default_kernel_opts")
    options = [one.value for one in found]
    if found and found[-1].whole and not arguments.has_console(text, options):
        options[-1] = replace(options[-1], template=True)
    return tuple(options)


def rewrite_update_extlinux(text: str, path: str, wanted: Wanted) -> Rewritten:
    """What the next update-extlinux makes APPEND lines of: its root is a variable of its own."""
    done = arguments.rewrite(text, path, update_extlinux_lines(text), wanted)
    root = grub.rewrite_variable(done.text, "root", wanted.names, path)
    edits = sorted((*done.edits, *root.edits), key=lambda edit: edit.line)
    warnings = (*done.warnings, *root.warnings)
    return Rewritten(root.text, tuple(edits), (*done.problems, *root.problems), warnings)
