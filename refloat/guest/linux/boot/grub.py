"""Names of storage devices in the boot loader's files. Pure functions, as in storage.py."""

from __future__ import annotations

import re
from collections.abc import Callable

from refloat.guest.linux.edits import Edit, Rewritten
from refloat.guest.linux.storage import DeviceNames

# Kernel arguments whose value is a device.
_ARGUMENT = re.compile(r"(?<![^\s\"'])(root|resume)=(/dev/[^\s\"']+)")
_LINUX = re.compile(r"\s*linux(?:16|efi)?\s")
_DEFAULTS_CMDLINE = re.compile(r"\s*(?:export\s+)?GRUB_CMDLINE_LINUX(?:_\w+)?=")
_DISABLE_UUID = re.compile(r"(\s*(?:export\s+)?GRUB_DISABLE_LINUX_UUID=)([\"']?)true\2(\s*(?:#.*)?)$")

GRUB_CFG = "/boot/grub/grub.cfg"
GRUB_DEFAULTS = "/etc/default/grub"


def rewrite_grub_cfg(text: str, names: DeviceNames, path: str = GRUB_CFG) -> Rewritten:
    """root= and resume= of every menu entry, whatever kernel it starts."""
    return _rewrite_arguments(text, names, path, lambda line: bool(_LINUX.match(line)))


def rewrite_grub_defaults(text: str, names: DeviceNames) -> Rewritten:
    """What the next update-grub generates from: UUIDs are asked for, and no argument names a bus."""
    done = _rewrite_arguments(text, names, GRUB_DEFAULTS, lambda line: bool(_DEFAULTS_CMDLINE.match(line)))
    lines, edits = done.text.split("\n"), list(done.edits)
    for index, line in enumerate(lines):
        match = _DISABLE_UUID.match(line)
        if match:
            quote = match[2]
            lines[index] = f"{match[1]}{quote}false{quote}{match[3]}"
            edits.append(Edit(index + 1, "GRUB_DISABLE_LINUX_UUID=true", "GRUB_DISABLE_LINUX_UUID=false"))
    edits.sort(key=lambda edit: edit.line)
    return Rewritten("\n".join(lines), tuple(edits), done.problems, done.warnings)


def rewrite_resume(text: str, names: DeviceNames, path: str) -> Rewritten:
    """initramfs-tools' conf.d/resume (RESUME=/dev/sda5): a missing device delays each boot by 30 s."""
    lines, edits, warnings = text.split("\n"), [], []
    for index, line in enumerate(lines):
        key, separator, value = line.strip().partition("=")
        if key != "RESUME" or not separator:
            continue
        try:
            new = names.stable(value)
        except LookupError as error:
            warnings.append(f"{path}:{index + 1}: {error}")
            continue
        if new is not None:
            lines[index] = line.replace(value, new)
            edits.append(Edit(index + 1, value, new))
    return Rewritten("\n".join(lines), tuple(edits), (), tuple(warnings))


def linux_lines(text: str) -> tuple[str, ...]:
    """The lines of a grub.cfg that start a kernel."""
    return tuple(line.strip() for line in text.split("\n") if _LINUX.match(line))


def _rewrite_arguments(
    text: str, names: DeviceNames, path: str, concerned: Callable[[str], bool]
) -> Rewritten:
    lines, edits, problems = text.split("\n"), [], []
    for index, line in enumerate(lines):
        if not concerned(line):
            continue
        pieces, position = [], 0
        for match in _ARGUMENT.finditer(line):
            try:
                new = names.stable(match[2])
            except LookupError as error:
                problems.append(f"{path}:{index + 1}: {error}")
                continue
            if new is not None:
                pieces += [line[position : match.start(2)], new]
                position = match.end(2)
                edits.append(Edit(index + 1, f"{match[1]}={match[2]}", f"{match[1]}={new}"))
        lines[index] = "".join((*pieces, line[position:]))
    return Rewritten("\n".join(lines), tuple(edits), tuple(problems))
