"""Where each boot loader keeps kernel arguments: names change, nothing else does."""

from __future__ import annotations

import string
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.guest.linux.boot import arguments, formats, grub
from refloat.guest.linux.boot.arguments import CommandLine, Wanted
from refloat.guest.linux.boot.loaders import PLACES, Format
from refloat.guest.linux.edits import Rewritten
from refloat.guest.linux.storage import DeviceNames
from refloat.model import DiskBus
from tests.unit.guest.guests import ORDER, ROOT_UUID, SWAP_UUID, filesystems

NAMES = DeviceNames(ORDER, filesystems())
PLAIN, CONSOLE = Wanted(NAMES), Wanted(NAMES, console=True)
FORMATS = tuple(dict.fromkeys(place.format for place in PLACES))
ROOT, SWAP = f"UUID={ROOT_UUID}", f"UUID={SWAP_UUID}"


def rewritten(
    text: str, lines: Callable[[str], tuple[CommandLine, ...]], wanted: Wanted = PLAIN
) -> Rewritten:
    return arguments.rewrite(text, "f", lines(text), wanted)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("root=/dev/sda1 ro", f"root={ROOT} ro"),
        ('ro "root=/dev/sda1"', f'ro "root={ROOT}"'),
        ("cryptdevice=/dev/sda1:root:x", f"cryptdevice={ROOT}:root:x"),
        ("cryptroot=/dev/sda1", f"cryptroot={ROOT}"),
        ("mount.usr=/dev/vda1", f"mount.usr={ROOT}"),
        ("resume=/dev/sda5 root=x", f"resume={SWAP} root=x"),
        ("rd.lvm.lv=vg/root rd.md.uuid=1:2 rd.luks.uuid=luks-3 root=/dev/mapper/vg-root", None),
        ("root=LABEL=/ rootflags=subvol=@ BOOT_IMAGE=/dev/sda1", None),
        ("nroot=/dev/mapper/x real=/dev/sr0", None),
        ("root=PARTUUID=1-02", None),
    ],
)
def test_arguments(old: str, new: str | None) -> None:
    done = rewritten(old, formats.plain_lines)
    assert (done.text, done.problems, done.warnings) == (new or old, (), ())


@pytest.mark.parametrize(
    ("text", "problems", "warnings"),
    [
        ("root=/dev/sdq1", 1, 0),
        ("resume=/dev/sdq1", 0, 1),
        ("rootflags=device=/dev/sda1,device=/dev/sdb1", 1, 0),
        ("md=0,/dev/sda1,/dev/sdb1", 1, 0),
        ("x=root=/dev/sda1", 0, 1),
        ("# root=/dev/sdq1", 0, 0),
    ],
)
def test_names_that_cannot_be_mapped(text: str, problems: int, warnings: int) -> None:
    done = rewritten(text, formats.plain_lines)
    assert (done.text, len(done.problems), len(done.warnings)) == (text, problems, warnings)


S, T = arguments.SERIAL, arguments.SCREEN


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("root=x ro", f"root=x ro {S} {T}"),
        ("root=x ro ", f"root=x ro {S} {T} "),
        # The last one is /dev/console: it stays what it was.
        ("root=x console=tty0", f"root=x {S} console=tty0"),
        ("root=x console=tty1 console=hvc0 ro", f"root=x {S} console=tty1 console=hvc0 ro"),
        ('root=x "console=tty0" ro', f'root=x {S} "console=tty0" ro'),
        ("root=x console=ttyS0", "root=x console=ttyS0"),
        ("root=x console=tty0 console=ttyS0,9600n8", "root=x console=tty0 console=ttyS0,9600n8"),
        ("noroot netconsole=x", "noroot netconsole=x"),
    ],
)
def test_console(old: str, new: str) -> None:
    done = rewritten(old, formats.plain_lines, CONSOLE)
    assert done.text == new
    assert rewritten(done.text, formats.plain_lines, CONSOLE).edits == ()


# ---------------------------------------------------------------- GRUB 2

_ARGUMENTS = st.lists(
    st.sampled_from(
        ["root=/dev/sda1", "resume=/dev/sda5", "ro", "nroot=/dev/sr0", "'a b'", '"x=;y"', "${v}"]
    ),
    max_size=6,
)
_BLANK = st.sampled_from([" ", "\t", "  ", " \\\n "])


@given(
    _ARGUMENTS, st.sampled_from(["linux", "linux16", "linuxefi"]), _BLANK, st.sampled_from(["\n", "; ", " ;"])
)
def test_grub_arguments(words: list[str], keyword: str, blank: str, end: str) -> None:
    def line(words: list[str]) -> str:
        return f"{{\t{keyword}{blank}/boot/vmlinuz-1 " + blank.join(words) + f"{end}initrd /initrd\n}}"

    wanted = [word.replace("/dev/sda1", ROOT).replace("/dev/sda5", SWAP) for word in words]
    done = grub.rewrite_grub_cfg(line(words), NAMES)
    assert done.text == line(wanted)
    assert len(done.edits) == sum(one != two for one, two in zip(words, wanted, strict=True))


@pytest.mark.parametrize(
    "line",
    ["echo root=/dev/sda1", "# linux /v root=/dev/sda1", "set root='hd0,msdos1'",
     "echo 'a; linux /v root=/dev/sda1'", 'search --set=root "x', "set x=\"linux /v root=/dev/sda1\"",
     "initrd /i root=/dev/sda1", "'"],
)  # fmt: skip
def test_grub_lines_that_start_nothing_stay(line: str) -> None:
    done = grub.rewrite_grub_cfg(line, NAMES)
    assert (done.text, done.problems, done.warnings) == (line, (), ())


def test_edits_name_their_lines() -> None:
    text = "\n\nlinux /v \\\n root=/dev/sda1\ninitrd /i\nlinux /w root=/dev/sdq1\ninitrd /i"
    done = grub.rewrite_grub_cfg(text, NAMES)
    assert [(edit.line, edit.old, edit.new) for edit in done.edits] == [(4, "root=/dev/sda1", f"root={ROOT}")]
    assert done.problems[0].startswith("/boot/grub/grub.cfg:6: root=/dev/sdq1: ")


def test_kernel_without_initramfs_gets_a_name_that_it_understands() -> None:
    root, *others = filesystems()
    names = DeviceNames(ORDER, (replace(root, names=("PARTUUID=1234-01",)), *others))
    text = "if x; then linux /v root=/dev/sda1; else linux /v root=/dev/sda1; initrd /i; fi"
    done = grub.rewrite_grub_cfg(text, names)
    assert done.text == text.replace("/dev/sda1", "PARTUUID=1234-01", 1).replace("/dev/sda1", ROOT)
    assert grub.rewrite_grub_cfg(text, NAMES).problems


def test_xen_starts_its_kernel_as_a_module() -> None:
    text = "multiboot2 /xen.gz\nmodule2 /vmlinuz x root=/dev/sda1\nmodule2 /initrd\n"
    assert grub.rewrite_grub_cfg(text, NAMES).text == text.replace("/dev/sda1", ROOT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("GRUB_DISABLE_LINUX_UUID=true", "GRUB_DISABLE_LINUX_UUID=false"),
        ("GRUB_DISABLE_UUID='true'", "GRUB_DISABLE_UUID='false'"),
        ('  GRUB_DISABLE_LINUX_UUID="true" # why', '  GRUB_DISABLE_LINUX_UUID="false" # why'),
        ("#GRUB_DISABLE_LINUX_UUID=true", None),
        ('GRUB_CMDLINE_LINUX="root=/dev/sda1"', f'GRUB_CMDLINE_LINUX="root={ROOT}"'),
        ("GRUB_CMDLINE_LINUX=root=/dev/sda1", f"GRUB_CMDLINE_LINUX=root={ROOT}"),
        ('GRUB_CMDLINE_LINUX="a"\'root=/dev/sda1\'', f'GRUB_CMDLINE_LINUX="a"\'root={ROOT}\''),
        ('GRUB_CMDLINE_LINUX="quiet \\\n root=/dev/sda1"', f'GRUB_CMDLINE_LINUX="quiet \\\n root={ROOT}"'),
        ("GRUB_CMDLINE_LINUX_DEFAULT='quiet resume=/dev/sda5'",
         f"GRUB_CMDLINE_LINUX_DEFAULT='quiet resume={SWAP}'"),
        ("GRUB_TITLE=root=/dev/sda1", None),
    ],
)  # fmt: skip
def test_grub_defaults(old: str, new: str | None) -> None:
    assert grub.rewrite_grub_defaults(old, NAMES).text == (new or old)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('GRUB_CMDLINE_LINUX=""', f'GRUB_CMDLINE_LINUX="{S} {T}"'),
        ("GRUB_CMDLINE_LINUX=", f'GRUB_CMDLINE_LINUX="{S} {T}"'),
        ("GRUB_CMDLINE_LINUX=quiet # x", f'GRUB_CMDLINE_LINUX="quiet {S} {T}" # x'),
        ("GRUB_CMDLINE_LINUX=console=tty0", f'GRUB_CMDLINE_LINUX="{S} console=tty0"'),
        ("GRUB_CMDLINE_LINUX=root=/dev/sda1", f'GRUB_CMDLINE_LINUX="root={ROOT} {S} {T}"'),
        ('GRUB_CMDLINE_LINUX="a"\nGRUB_CMDLINE_LINUX_DEFAULT="console=tty1"',
         f'GRUB_CMDLINE_LINUX="a"\nGRUB_CMDLINE_LINUX_DEFAULT="{S} console=tty1"'),
        ('GRUB_CMDLINE_LINUX=""\nGRUB_CMDLINE_LINUX_DEFAULT="console=ttyS0"', None),
        ('GRUB_CMDLINE_LINUX="a"$b', None),
        ("GRUB_TIMEOUT=1", f'GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX="{S} {T}"\n'),
        ("", None),
    ],
)  # fmt: skip
def test_console_in_grub_defaults(old: str, new: str | None) -> None:
    wanted = old if new is None else new
    done = grub.rewrite_defaults(old, grub.GRUB_DEFAULTS, CONSOLE)
    assert done.text == wanted
    assert grub.rewrite_defaults(wanted, grub.GRUB_DEFAULTS, CONSOLE).edits == ()


def environment(*lines: str) -> str:
    body = "# GRUB Environment Block\n" + "".join(f"{line}\n" for line in lines)
    return body + "#" * (1024 - len(body.encode()))


@given(st.text(string.ascii_letters + string.digits + " =.#äß", max_size=60), st.booleans())
def test_environment_block_keeps_its_size(value: str, console: bool) -> None:
    text = environment(f"saved_entry={value}", f"kernelopts=root=/dev/sda1 {value}", "x=#")
    done = grub.rewrite_environment(text, "grubenv", CONSOLE if console else PLAIN)
    assert len(done.text.encode()) == 1024
    body, padding = done.text.rsplit("\n", 1)
    assert not padding.strip("#")
    assert body.replace(ROOT, "/dev/sda1").replace(f" {S} {T}", "").split() == text.rsplit("\n", 1)[0].split()


@pytest.mark.parametrize(
    "text",
    [
        environment("kernelopts=root=/dev/sda1 " + "x" * 960),
        environment("kernelopts=root=/dev/sda1")[:-1],
        environment("kernelopts=root=/dev/sda1") + "#",
        environment("kernelopts=root=/dev/sda1")[:-1] + "x",
    ],
)
def test_environment_block_that_would_break_is_refused(text: str) -> None:
    done = grub.rewrite_environment(text, "grubenv", PLAIN)
    assert (done.text, done.edits) == (text, ())
    assert "no room" in done.problems[0] or "bytes" in done.problems[0]


# ---------------------------------------------------------------- the others


def test_entry_with_an_efi_program_needs_no_initrd() -> None:
    assert rewritten("efi /x\noptions root=/dev/sda1", formats.entry_lines).text.endswith(ROOT)
    assert rewritten("linux /x\noptions root=/dev/sda1", formats.entry_lines).problems


def test_templates_of_debians_menu_lst() -> None:
    text = "## default\n# kopt=root=/dev/sda1 ro\n# defoptions=quiet resume=/dev/sda5\n# groot=(hd0,0)\n"
    wanted = text.replace("/dev/sda1", ROOT).replace("/dev/sda5", SWAP)
    assert rewritten(text, formats.legacy_lines).text == wanted


def test_legacy_kernel_options_and_missing_initrd() -> None:
    text = "title a\nkernel --no-mem-option /v root=/dev/sda1\ninitrd /i\ntitle b\nkernel /v root=/dev/sda1\n"
    done = rewritten(text, formats.legacy_lines)
    assert len(done.edits) == 1
    assert done.problems[0].startswith("f:5: ")


@pytest.mark.parametrize(
    "text",
    [
        "LABEL x\n  KERNEL /v\n  APPEND initrd=/i root=/dev/sda1\n",
        "label x\nlinux /v\nappend root=/dev/sda1\ninitrd /i",
        "APPEND root=/dev/sda1\nLABEL x\nLINUX /v\nINITRD /i\n",
    ],
)
def test_syslinux(text: str) -> None:
    assert rewritten(text, formats.syslinux_lines).text == text.replace("/dev/sda1", ROOT)
    assert formats.syslinux_starts(text) == 1


def test_syslinux_without_initramfs() -> None:
    assert rewritten("LABEL x\nLINUX /v\nAPPEND root=/dev/sda1\n", formats.syslinux_lines).problems
    assert formats.syslinux_starts("DEFAULT menu.c32\nLABEL x\nKERNEL chain.c32\n") == 0


def test_root_of_update_extlinux_may_be_quoted() -> None:
    text = 'root="/dev/sda1"\ndefault_kernel_opts="x resume=/dev/sda5"\n'
    done = formats.rewrite_update_extlinux(text, "f", PLAIN)
    assert done.text == text.replace("/dev/sda1", ROOT).replace("/dev/sda5", SWAP)


def test_device_map_leaves_what_it_does_not_know() -> None:
    text = "(hd0) /dev/sda\n(hd1)\t/dev/disk/by-id/x\n(fd0) /dev/fd0\n"
    done = formats.rewrite_device_map(text, "f", DiskBus.VIRTIO_BLK)
    assert done.text == text.replace("/dev/sda", "/dev/vda")
    assert len(done.warnings) == 1


# ---------------------------------------------------------------- properties of all formats

_LINE = st.builds(
    lambda start, rest: start + rest,
    st.sampled_from(
        ["linux /v ", "options ", "kernel /v ", "APPEND ", "GRUB_CMDLINE_LINUX=",
         'GRUB_CMDLINE_LINUX="', "kernelopts=", "menuentry {", "root=", "initrd ",
         "title ", "label x", "# kopt=", 'set kernelopts="', "", "RESUME="]
    ),
    st.text(string.printable, max_size=30),
)  # fmt: skip
_ANY = st.lists(_LINE, max_size=8).map("\n".join)


@pytest.mark.parametrize("form", FORMATS)
@given(_ANY)
def test_texts_without_device_names_stay(form: Format, text: str) -> None:
    if "/dev/" in text or "UUID=" in text:
        return
    done = form.rewrite(text, "/etc/default/grub", PLAIN)
    assert (done.text, done.edits, done.problems) == (text, (), ())
    form.starts(text)


@pytest.mark.parametrize("form", FORMATS)
@given(
    _ANY, st.sampled_from([" root=/dev/sda1 ", " resume=/dev/sda5\n", "root=/dev/sdq9"]), st.integers(0, 200)
)
def test_only_names_change(form: Format, text: str, name: str, where: int) -> None:
    text = (text[:where] + name + text[where:]).replace("UUID", "")
    done = form.rewrite(text, "/etc/default/grub", PLAIN)
    back = done.text.replace(ROOT, "/dev/sda1").replace(SWAP, "/dev/sda5")
    assert back == text
    assert not form.rewrite(done.text, "/etc/default/grub", PLAIN).edits


@pytest.mark.parametrize("form", FORMATS)
@given(_ANY)
def test_console_is_added_once(form: Format, text: str) -> None:
    done = form.rewrite(text, "/etc/default/grub", CONSOLE)
    if not done.problems:
        again = form.rewrite(done.text, "/etc/default/grub", CONSOLE)
        assert again.edits == ()


HOSTILE = (
    "GRUB_DISABLE_UUID=true\n", "linux /v root=/dev/sda1\n", "module /m\n", "kernel /v\n", '"', "'", "\\",
    '\\"', "'\\'", 'GRUB_CMDLINE_X="\\', "GRUB_CMDLINE_LINUX=", "${", "{", "a=", "console=", '"console=',
    "root=/dev/", "/dev/sda1,", "LABEL x\nAPPEND a\n", "(hd0) /dev/sda\n", "options ", "#", " ", "\n",
    "# kopt=", "--a ", "export ", "${a", "root=/dev/disk/by-id/",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_texts_take_no_time(piece: str) -> None:
    text = (piece * (60_000 // len(piece)))[:60_000]
    start = time.process_time()
    for form in FORMATS:
        for whole in (text, f'GRUB_CMDLINE_LINUX="linux root=/dev/{text}', f"linux /v {text}"):
            form.rewrite(whole, "/etc/default/grub", CONSOLE)
            form.starts(whole)
    formats.rewrite_device_map(text, "f", DiskBus.NVME)
    assert time.process_time() - start < 10
