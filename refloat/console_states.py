"""What a console shows, by its words: pure. From a screen's lines (console.py) or a serial line's text.

Each state is a row; where its words come from is in `source`. A state never makes a success: at most it says
why there is none, or is one more piece of evidence from outside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from refloat.console import UNKNOWN
from refloat.text import safe

LONGEST = 240  # characters of the words that are kept


class Meaning(Enum):
    STUCK = "stuck"  # the boot ended here, and goes on only if somebody does something
    ON_ITS_WAY = "on its way"
    UP = "up"


@dataclass(frozen=True)
class State:
    """`words` must match one line; its group `say` is what is told, else the whole line. `cause` is looked
    for in the lines above it, the nearest counts. `last`: only as the last line that has text. `lasting`: it
    counts even if something else is seen later. `blanks`: the console of a Linux that does nothing may turn
    black after a while; one of firmware does not."""

    name: str
    says: str
    meaning: Meaning
    words: re.Pattern[str]
    source: str
    cause: re.Pattern[str] | None = None
    last: bool = False
    lasting: bool = False
    blanks: bool = False


def _state(
    name: str, says: str, meaning: Meaning, words: str, source: str, cause: str = "", **more: bool
) -> State:
    return State(name, says, meaning, re.compile(words), source, re.compile(cause) if cause else None, **more)


STUCK, WAY, UP = Meaning.STUCK, Meaning.ON_ITS_WAY, Meaning.UP
_NO_ROOT = (
    r"ALERT!|does not exist|Gave up waiting|run-init: |No init found|[Ff]ailed to mount|UNEXPECTED INCON"
)
STATES: tuple[State, ...] = (
    _state(
        "kernel-panic",
        "a kernel panic",
        STUCK,
        r"(?P<say>Kernel panic - not syncing.*?)(?: \]---)?$",
        "Linux, kernel/panic.c",
        lasting=True,
        blanks=True,
    ),
    _state(
        "initramfs-shell",
        "the emergency shell of the initramfs",
        STUCK,
        r"^\(initramfs\)",
        "initramfs-tools, scripts/functions: panic()",
        _NO_ROOT,
        blanks=True,
    ),
    _state(
        "initramfs-shell",
        "the emergency shell of the initramfs",
        STUCK,
        r"^ALERT! .* does not exist",
        "initramfs-tools, scripts/local",
        blanks=True,
    ),
    _state(
        "initramfs-shell",
        "the emergency shell of the initramfs",
        STUCK,
        r"Entering emergency mode\. Exit the shell to continue|^dracut(:/)?[#>]",
        "dracut, modules.d/99base/dracut-lib.sh: emergency_shell()",
        r"Warning: .* does not exist|Could not boot|dracut-initqueue.*timeout",
        blanks=True,
    ),
    _state(
        "fsck",
        "a filesystem that needs a manual check",
        STUCK,
        r"UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY|fsck exited with status code [4-9]",
        "e2fsprogs, e2fsck/message.c; initramfs-tools, scripts/functions",
        blanks=True,
    ),
    _state(
        "emergency-shell",
        "the emergency or rescue shell",
        STUCK,
        r"You are in (emergency|rescue) mode|^Give root password for maintenance|"
        r"^Press Enter for maintenance|^Cannot open access to console, the root account is locked",
        "systemd, units/emergency.service and rescue.service; util-linux and sysvinit, sulogin.c",
        r"\[FAILED\]|\[DEPEND\]|Timed out waiting for device|Failed to (mount|start)",
        blanks=True,
    ),
    _state(
        "no-boot-device",
        "firmware that found nothing to boot",
        STUCK,
        r"^No bootable device|No bootable option or device was found|^No more network devices",
        "SeaBIOS, src/boot.c; EDK II, BdsDxe; iPXE, usr/autoboot.c",
        r"Boot failed|BdsDxe: failed to (load|start)|Nothing to boot",
    ),
    _state(
        "uefi-shell",
        "the UEFI shell: the firmware found nothing else to boot",
        STUCK,
        r"^Shell>|^UEFI Interactive Shell v",
        "EDK II, ShellPkg",
        r"BdsDxe: failed to (load|start)",
    ),
    _state(
        "grub-rescue",
        "GRUB's rescue shell",
        STUCK,
        r"^grub rescue>",
        "GRUB, grub-core/kern/rescue_reader.c",
        r"^\s*error: ",
    ),
    _state(
        "grub-shell",
        "GRUB's shell in place of its menu",
        STUCK,
        r"^grub>",
        "GRUB, grub-core/normal/main.c",
        r"^\s*error: ",
        last=True,
    ),
    _state(
        "no-loader",
        "a boot sector that found no system",
        STUCK,
        r"^(BOOTMGR|NTLDR) is (missing|compressed)|^Missing operating system|^Error loading operating system|"
        r"^A disk read error occurred|^Invalid partition table|^Operating System not found",
        "the boot sectors of Windows' MBR and NTFS, Microsoft's documentation of startup errors",
    ),
    _state(
        "login",
        "a login prompt",
        UP,
        r"^(?P<host>[A-Za-z0-9._-]{1,64}) login:$",
        "util-linux, agetty",
        last=True,
        blanks=True,
    ),
    _state("grub-menu", "GRUB's menu", WAY, r"^GNU GRUB +version", "GRUB, grub-core/normal/main.c"),
    _state(
        "booting",
        "a kernel that is starting",
        WAY,
        r"^\[ +\d+\.\d{6}\] |^\[  OK  \] |^Loading Linux |^Loading initial ramdisk|^Begin: Running /scripts",
        "Linux, kernel/printk; systemd, src/core/show-status.c; grub-mkconfig; initramfs-tools",
    ),
)
BY_NAME = {state.name: state for state in STATES}


@dataclass(frozen=True)
class Recognised:
    state: State
    words: str


def recognise(lines: Sequence[str]) -> Recognised | None:
    """The state whose words stand lowest: what came later counts. Messages of a kernel count only where there
    is nothing else: they go on while an emergency shell waits."""
    plain = [_plain(line) for line in lines]
    end = max((place for place, line in enumerate(plain) if line), default=-1)
    found: list[tuple[bool, int, State]] = []
    for state in STATES:
        places = [end] if state.last and end >= 0 else range(end, -1, -1)
        for place in places:
            if state.words.search(plain[place]):
                found.append((state.name != "booting", place, state))
                break
    if not found:
        return None
    _, place, state = max(found, key=lambda item: item[:2])
    return Recognised(state, _words(plain, place, state))


def _plain(line: str) -> str:
    return line.replace(UNKNOWN, " ").strip()


def _words(lines: Sequence[str], place: int, state: State) -> str:
    match = state.words.search(lines[place])
    said = [match["say"] if match and "say" in state.words.groupindex else lines[place]]
    if state.cause is not None:
        above = (line for line in reversed(lines[:place]) if state.cause.search(line))
        said = [*(line for line in [next(above, "")] if line), *said]
    return safe("; ".join(said))[:LONGEST]


# ---------------------------------------------------------------- a serial line

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>78cDEHM])")
_KEPT = 8192  # characters of a serial line's end: a screen or two


class SerialText:
    """The end of what a serial line said, as lines."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, data: bytes) -> tuple[str, ...]:
        """The lines at the end, with these bytes behind them."""
        self._text = (self._text + data.decode("utf-8", "replace"))[-_KEPT:]
        plain = _ESCAPES.sub("", self._text).replace("\r", "\n")
        return tuple(plain.split("\n"))
