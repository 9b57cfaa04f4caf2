"""The arguments of kernels, wherever a boot loader keeps them.

Each format says where in its text the command lines stand (`CommandLine`); what is to become of their
arguments is the same for all. Pure: text in, text and edits out; what is not edited stays byte for byte.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from refloat.guest.linux.edits import Edit, Rewritten
from refloat.guest.linux.storage import DeviceNames

SERIAL = "console=ttyS0,115200"
SCREEN = "console=tty0"


@dataclass(frozen=True)
class CommandLine:
    """The arguments of one kernel: text[start:end], without quotes around the whole.

    `initrd`: the entry loads an initramfs, without which no root is found by UUID. `template`: other lines
    are generated from this one, so it gets the console though it names no root. `bare`: it stands where
    a blank would need quotes.
    """

    start: int
    end: int
    initrd: bool = True
    template: bool = False
    bare: bool = False


@dataclass(frozen=True)
class Wanted:
    """What is to become of the arguments; `console`: a serial one is added where there is none."""

    names: DeviceNames
    console: bool = False


@dataclass(frozen=True)
class Argument:
    """An argument whose value is a device, and may as well be UUID=. `needed`: no boot without it.

    The device ends at `end`, where other things follow it.
    """

    needed: bool
    end: str = ""


# dracut.cmdline(7), kernel-command-line(7), the hooks of mkinitcpio and mkinitfs: all take UUID= here.
# rd.lvm.lv, rd.md.uuid and rd.luks.uuid name nothing that the virtual hardware could change.
DEVICES: Mapping[str, Argument] = {
    "root": Argument(needed=True),
    "mount.usr": Argument(needed=True),
    "cryptdevice": Argument(needed=True, end=":"),
    "cryptroot": Argument(needed=True, end=":"),
    "cryptkey": Argument(needed=True, end=":"),
    # A resume device that is missing delays the boot, as it did before if it was missing there already.
    "resume": Argument(needed=False),
}
# Without these there is no root either, but nothing except a device's name is understood in them.
_NEEDED_BY_NAME = frozenset({"rootflags", "md"})

_ARGUMENT = re.compile(r"(?<![^\s\"'])([\w.-]+)=([^\s\"']*?/dev/[^\s\"']*)")
_DEVICE = re.compile(r"/dev/[^\s\"',:;=]+")
_ROOT = re.compile(r"(?<![^\s\"'])root=\S")
_CONSOLE = re.compile(r"(?<![^\s\"'])[\"']?console=(\w*)")


@dataclass(frozen=True)
class _Found:
    """One argument and what is said about it: a replacement, or a reason against one."""

    start: int
    old: str
    new: str = ""
    problem: str = ""
    warning: str = ""


def rewrite(text: str, path: str, lines: Iterable[CommandLine], wanted: Wanted) -> Rewritten:
    """The text with each device that follows the bus named by UUID, and the console if it is wanted."""
    number = line_number(text)
    found = sorted(_all(text, lines, wanted), key=lambda one: (one.start, bool(one.old)))
    pieces, position, edits = [], 0, []
    problems: list[str] = []
    warnings: list[str] = []
    for one in found:
        line = number(one.start)
        problems += [f"{path}:{line}: {one.problem}"] if one.problem else []
        warnings += [f"{path}:{line}: {one.warning}"] if one.warning else []
        if not one.problem and not one.warning:
            pieces += [text[position : one.start], one.new]
            position = one.start + len(one.old)
            edits.append(Edit(line, one.old, one.new))
    pieces.append(text[position:])
    return Rewritten("".join(pieces), tuple(edits), tuple(problems), tuple(warnings))


def line_number(text: str) -> Callable[[int], int]:
    """The number of the line, from 1, in which a position of this text stands."""
    breaks = [match.start() for match in re.finditer("\n", text)]
    return lambda position: bisect_left(breaks, position) + 1


def has_console(text: str, lines: Iterable[CommandLine]) -> bool:
    return any(name == "ttyS0" for line in lines for _, name in _consoles(text, line))


def first_console(text: str, line: CommandLine) -> int | None:
    """Where the first console= stands."""
    return next((position for position, _ in _consoles(text, line)), None)


def _consoles(text: str, line: CommandLine) -> Iterator[tuple[int, str]]:
    for match in _CONSOLE.finditer(text[line.start : line.end]):
        yield line.start + match.start(), match[1]


def _all(text: str, lines: Iterable[CommandLine], wanted: Wanted) -> Iterator[_Found]:
    for line in lines:
        content = text[line.start : line.end]
        for match in _ARGUMENT.finditer(content):
            for one in _device(match, line, wanted.names):
                yield replace(one, start=line.start + one.start)
        if wanted.console and (line.template or _ROOT.search(content)):
            yield from _console(text, line)


def _device(match: re.Match[str], line: CommandLine, names: DeviceNames) -> Iterator[_Found]:
    key, value = match[1], match[2]
    argument = DEVICES.get(key)
    if argument is None or not value.startswith("/dev/"):
        yield from _unknown(match, names)
        return
    device = value.partition(argument.end)[0] if argument.end else value
    old = f"{key}={device}"
    try:
        new = names.stable(device)
        if new is not None and not line.initrd:
            new = names.partition(device)  # the only stable name that a kernel alone understands
    except LookupError as error:
        reason = f"{old}: {error}"
        yield _Found(match.start(), old, problem=reason if argument.needed else "",
                     warning="" if argument.needed else reason)  # fmt: skip
        return
    if new is not None:
        yield _Found(match.start(), old, f"{key}={new}")


def _unknown(match: re.Match[str], names: DeviceNames) -> Iterator[_Found]:
    """An argument of which nothing is known, and whose value names a device."""
    if match[1] == "BOOT_IMAGE":
        return
    for device in _DEVICE.findall(match[2]):
        try:
            bound = names.stable(device) is not None
        except LookupError:
            bound = True
        if bound:
            reason = f"{match[0]} names {device} by its bus, and cannot name it otherwise"
            needed = match[1] in _NEEDED_BY_NAME
            yield _Found(match.start(), match[0], problem=reason if needed else "",
                         warning="" if needed else f"{reason}: it is left alone")  # fmt: skip
            return


def _console(text: str, line: CommandLine) -> Iterator[_Found]:
    """The serial console, in front of the others.

    The last one is /dev/console: the emergency shell of an initramfs and what init prints appear there
    alone. That stays the screen (or whatever it was), which every destination has; the kernel's messages
    and a login are on both.
    """
    consoles = list(_consoles(text, line))
    if any(name == "ttyS0" for _, name in consoles):
        return
    quote = '"' if line.bare else ""
    if quote:
        yield _Found(line.start, "", quote)
    content = text[line.start : line.end].rstrip()
    end = line.start + len(content)
    if consoles:
        yield _Found(consoles[0][0], "", f"{SERIAL} ")
        yield from (_Found(end, "", quote),) if quote else ()
    else:
        yield _Found(end, "", f"{' ' if content.strip() else ''}{SERIAL} {SCREEN}{quote}")
