"""GRUB 2: its generated configuration, its environment block and what the next one is generated from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from refloat.guest.linux.boot import arguments
from refloat.guest.linux.boot.arguments import CommandLine, Wanted
from refloat.guest.linux.edits import Edit, Rewritten
from refloat.guest.linux.storage import DeviceNames

GRUB_CFG = "/boot/grub/grub.cfg"
GRUB_DEFAULTS = "/etc/default/grub"
ENVIRONMENT_SIZE = 1024

# The lexer of GRUB's shell: a word ends at a blank or one of {}|&;<> outside of quotes. Every part is
# possessive: no text makes it try twice.
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\f\v]++|\\\r?\n)
      | (?P<comment>\#[^\n]*+)
      | (?P<word>(?:[^{}|&$;<>\s'"\\]++ | \\(?!\r?\n). | '[^']*+' | "(?:[^"\\]++|\\.)*+"
                 | \$\{\w*+\} | \$)++)
      | (?P<end>.)""",
    re.DOTALL | re.VERBOSE,
)
_KEYWORDS = frozenset({"if", "elif", "then", "else", "while", "until", "do", "!"})
_LINUX = frozenset(
    {"linux", "linux16", "linuxefi", "linux32", "module", "module2", "multiboot", "multiboot2"}
)
_INITRD = frozenset({"initrd", "initrd16", "initrdefi", "module", "module2"})
# RHEL 8's grub.cfg gives these where the environment block has none.
_VARIABLES = frozenset({"kernelopts", "default_kernelopts", "tuned_params", "extra_cmdline"})

# A value in one pair of quotes or in none; else ("a"$b) the rest of the line, to which nothing is added.
_ASSIGNMENT = r"""^[ \t]*(?:export[ \t]+)?(?P<key>%s)\+?=(?:(?:
    "(?P<double>(?:[^"\\]++|\\.)*+)" | '(?P<single>[^']*+)' | (?P<bare>[^\s;\#"']*+)
  )(?=[\s;\#]|\Z) | (?P<rest>[^\n]*+))"""
_SHELL = re.MULTILINE | re.DOTALL | re.VERBOSE
_DISABLE_UUID = re.compile(
    r"^[ \t]*(?:export[ \t]+)?(?P<key>GRUB_DISABLE_(?:LINUX_)?UUID)="
    r"(?P<quote>[\"']?)(?P<value>true)(?P=quote)"
    r"(?=[ \t]*(?:#.*)?$)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Command:
    """One command of a GRUB script: its words, each as start and end in the text."""

    name: str
    words: tuple[tuple[int, int], ...]


# ---------------------------------------------------------------- grub.cfg


def commands(text: str) -> Iterator[Command]:
    """The commands of a script, in their order, whatever blocks they stand in."""
    words: list[tuple[int, int]] = []
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "word":
            if words or match[0] not in _KEYWORDS:
                words.append(match.span())
        elif match.lastgroup == "end" and words:
            yield _command(text, words)
            words = []
    if words:
        yield _command(text, words)


def _command(text: str, words: list[tuple[int, int]]) -> Command:
    return Command(text[slice(*words[0])].strip("\"'"), tuple(words))


def command_lines(text: str) -> tuple[CommandLine, ...]:
    """The arguments of every kernel that a grub.cfg starts, and of the variables that stand for them."""
    found: list[CommandLine] = []
    waiting: int | None = None  # the place in `found` of a kernel whose initrd has not been met
    for command in commands(text):
        if waiting is not None and command.name in _INITRD:
            found[waiting] = replace(found[waiting], initrd=True)
        if command.name in _LINUX and len(command.words) > 1:
            end = command.words[-1][1]
            start = command.words[2][0] if len(command.words) > 2 else end
            found.append(CommandLine(start, end, initrd=False))
            waiting = len(found) - 1
        elif command.name == "menuentry":
            waiting = None
        elif command.name == "set" and len(command.words) == 2:
            found += _variable(text, *command.words[1])
    return tuple(found)


def _variable(text: str, start: int, end: int) -> Iterator[CommandLine]:
    key, separator, value = text[start:end].partition("=")
    if separator and key in _VARIABLES:
        quoted = len(value) > 1 and value[0] in "\"'" and value[-1] == value[0]
        inset = 1 if quoted else 0
        yield CommandLine(end - len(value) + inset, end - inset)


def starts(text: str) -> int:
    """The number of kernels that a grub.cfg starts by itself."""
    return sum(command.name in _LINUX - _INITRD for command in commands(text))


def reads_entries(text: str) -> bool:
    """Whether the menu's entries are files of their own (Boot Loader Specification)."""
    return any(command.name in ("blscfg", "bls_import") for command in commands(text))


def rewrite_grub_cfg(text: str, names: DeviceNames, path: str = GRUB_CFG) -> Rewritten:
    """Every menu entry, whatever kernel it starts; `search` and `set root` follow the firmware."""
    return arguments.rewrite(text, path, command_lines(text), Wanted(names))


# ---------------------------------------------------------------- the environment block


def environment_lines(text: str) -> tuple[CommandLine, ...]:
    """The variables of grubenv that hold kernel arguments."""
    pattern = rf"^(?:{'|'.join(sorted(_VARIABLES))})=(.*)$"
    return tuple(CommandLine(*match.span(1)) for match in re.finditer(pattern, text, re.MULTILINE))


def rewrite_environment(text: str, path: str, wanted: Wanted) -> Rewritten:
    """grubenv is a block of 1024 bytes, padded with #: GRUB writes into it in place, so it stays one."""
    done = arguments.rewrite(text, path, environment_lines(text), wanted)
    if not done.edits:
        return done
    body = done.text[: done.text.rfind("\n") + 1]
    padding = ENVIRONMENT_SIZE - len(body.encode("utf-8", "surrogateescape"))
    size = len(text.encode("utf-8", "surrogateescape"))
    if size != ENVIRONMENT_SIZE or padding < 0 or text.rpartition("\n")[2].strip("#"):
        what = f"{path}: the environment block has {size} bytes, and no room for names by UUID"
        return Rewritten(text, (), (*done.problems, what), done.warnings)
    return replace(done, text=body + "#" * padding)


# ---------------------------------------------------------------- what the next grub.cfg is made from


@dataclass(frozen=True)
class Assignment:
    """A variable of a shell file and where its value stands; `whole`: it can be added to."""

    key: str
    value: CommandLine
    whole: bool


def assignments(text: str, keys: str) -> tuple[Assignment, ...]:
    """The assignments to those variables whose name matches the pattern `keys`."""
    found = []
    for match in re.finditer(_ASSIGNMENT % keys, text, _SHELL):
        kind = next(name for name in ("double", "single", "bare", "rest") if match[name] is not None)
        line = CommandLine(*match.span(kind), bare=kind == "bare")
        found.append(Assignment(match["key"], line, whole=kind != "rest"))
    return tuple(found)


def default_lines(text: str) -> tuple[CommandLine, ...]:
    """The arguments in /etc/default/grub. One variable takes the console, if none has it: the one with
    another console, else the one that is for all entries."""
    found = assignments(text, r"GRUB_CMDLINE_\w+")
    lines = [one.value for one in found]
    if not arguments.has_console(text, lines):
        # Of several assignments the last one counts.
        linux = [one.value for one in found if one.whole and one.key == "GRUB_CMDLINE_LINUX"]
        usual = [one.value for one in found if one.whole and one.key == "GRUB_CMDLINE_LINUX_DEFAULT"]
        with_console = [line for line in (*linux, *usual) if arguments.first_console(text, line) is not None]
        for chosen in with_console[:1] or linux[-1:]:
            lines[lines.index(chosen)] = replace(chosen, template=True)
    return tuple(lines)


def rewrite_defaults(text: str, path: str, wanted: Wanted) -> Rewritten:
    """What the next update-grub generates from: UUIDs are asked for, and no argument names a bus."""
    done = arguments.rewrite(text, path, default_lines(text), wanted)
    new, edits = _asking_for_uuids(done.text)
    edits += done.edits
    variables = {one.key for one in assignments(text, "GRUB_CMDLINE_LINUX")}
    if wanted.console and text and not variables and not arguments.has_console(new, default_lines(new)):
        line = f'GRUB_CMDLINE_LINUX="{arguments.SERIAL} {arguments.SCREEN}"'
        new = f"{new}{'' if new.endswith(chr(10)) else chr(10)}{line}\n"
        edits.append(Edit(new.count("\n"), "", line))
    edits.sort(key=lambda edit: edit.line)
    return Rewritten(new, tuple(edits), done.problems, done.warnings)


def _asking_for_uuids(text: str) -> tuple[str, list[Edit]]:
    pieces, position, edits = [], 0, []
    number = arguments.line_number(text)
    for match in _DISABLE_UUID.finditer(text):
        pieces += [text[position : match.start("value")], "false"]
        position = match.end("value")
        edits.append(Edit(number(match.start("key")), f"{match['key']}=true", f"{match['key']}=false"))
    return "".join((*pieces, text[position:])), edits


def rewrite_grub_defaults(text: str, names: DeviceNames) -> Rewritten:
    return rewrite_defaults(text, GRUB_DEFAULTS, Wanted(names))


# ---------------------------------------------------------------- a variable that is a device


def rewrite_resume(text: str, names: DeviceNames, path: str) -> Rewritten:
    """initramfs-tools' conf.d/resume (RESUME=/dev/sda5): a missing device delays each boot by 30 s."""
    return rewrite_variable(text, "RESUME", names, path)


def rewrite_variable(text: str, key: str, names: DeviceNames, path: str) -> Rewritten:
    """A shell variable whose value is a device; one that cannot be mapped is left alone."""
    lines, edits, warnings = text.split("\n"), [], []
    for index, line in enumerate(lines):
        name, separator, value = line.strip().partition("=")
        value = value.strip("\"'")
        if name != key or not separator:
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
