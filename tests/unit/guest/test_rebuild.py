"""The guest's own tool: where it runs, what it cannot do there, and what is taken from it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.command import run
from refloat.guest.families import needed_modules
from refloat.guest.linux import cpio
from refloat.guest.linux.compression import BrokenInitramfs
from refloat.guest.linux.modules import KernelModules
from refloat.guest.linux.rebuild import COMMANDS, Limits, RebuildFailed, accept, rebuild
from refloat.guest.linux.tools import TOOLS
from refloat.guest.mounts import clear
from refloat.guest.tree import Tree
from refloat.model import DiskBus, NicModel
from tests.unit.guest.guests import KERNEL, MODULES, file, main_archive, make_guest, module_path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

NEEDED = needed_modules(DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
PATIENT = Limits(seconds=60)


# ---------------------------------------------------------------- what comes out


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[KernelModules]:
    with Tree(make_guest(tmp_path / "guest")) as tree:
        yield KernelModules(tree, KERNEL)


def with_drivers() -> bytes:
    base = f"usr/lib/modules/{KERNEL}"
    return main_archive() + cpio.write([file(f"{base}/{module_path(name)}", b"module") for name in MODULES])


def test_an_initramfs_with_all_drivers_is_accepted(modules: KernelModules) -> None:
    accept(with_drivers(), modules, NEEDED)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"#!/bin/sh\necho I am no archive\n", "no archive"),
        (b"", "empty"),
        (main_archive(), "lacks .*virtio_blk"),
        (with_drivers()[:-700], "."),
        (with_drivers().replace(b"kmod\0", b"none\0"), "no program"),
    ],
)
def test_anything_else_is_refused(modules: KernelModules, content: bytes, why: str) -> None:
    with pytest.raises(BrokenInitramfs, match=why):
        accept(content, modules, NEEDED)


# ---------------------------------------------------------------- where the tool runs


def test_every_tool_has_its_command() -> None:
    assert set(COMMANDS) == set(TOOLS)
    for command in COMMANDS.values():
        assert command.count("{out}") == command.count("{version}") == 1


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A guest with this machine's programs, which the tests' tool is written for."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    root = tmp_path / "guest"
    for name in (
        "var/tmp",
        "tmp",
        "run",
        "proc",
        "dev",
        "etc",
        "usr/sbin",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
    ):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("sh", "cat", "touch", "ls", "mknod", "sleep", "mount", "head", "id", "ln", "env"):
        copy(Path("/usr/bin") / name, root)
    return root


def copy(program: Path, root: Path) -> None:
    """A program with the libraries that it names."""
    shutil.copy(program.resolve(), root / "usr/bin" / program.name)
    for word in run(["ldd", str(program)]).text.split():
        if word.startswith("/") and Path(word).exists():
            target = root / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copy(Path(word).resolve(), target)


def built(guest: Path, script: str, tmp_path: Path, limits: Limits = PATIENT) -> bytes:
    """What mkinitramfs, which is `script`, makes: $2 is where the result goes, $3 the version."""
    tool = guest / "usr/sbin/mkinitramfs"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    try:
        return rebuild(guest, "initramfs-tools", KERNEL, work, limits)
    finally:
        left = os.path.ismount(work), list(work.iterdir())
        clear(work)
        assert left == (False, [])


def test_what_the_tool_writes_is_taken(guest: Path, tmp_path: Path) -> None:
    assert built(guest, 'echo "$1 $3" > "$2"', tmp_path) == f"-o {KERNEL}\n".encode()


def test_what_a_killed_run_left_mounted_goes_first(guest: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for _ in range(2):
        run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(work)])
        (work / "out").mkdir()
    assert built(guest, "echo yes > $2", tmp_path) == b"yes\n"


HARMLESS = {
    "the guest is not written": "touch /etc/x && exit 0; echo no > $2",
    "nor below a mount point": "touch /boot/x && exit 0; echo no > $2",
    "nor remounted": "mount -o remount,rw / && exit 0; echo no > $2",
    "no device is made": "mknod /tmp/sda b 8 0 && exit 0; echo no > $2",
    "no device of this machine is there": "for one in /dev/sd* /dev/loop* /dev/vd* /dev/mem; do"
    " test -e $one && exit 0; done; echo no > $2",
    "no other process is seen": "test -e /proc/100000 -o $$ -gt 50 && exit 0; echo no > $2",
    "no network": "while read -r name rest; do case $name in lo:|Inter-*|face*) ;; *) exit 0;; esac; done"
    " < /proc/net/dev; echo no > $2",
    "no capability": "while read -r name value; do case $name in Cap???:) test $value = 0000000000000000 ||"
    " exit 0;; esac; done < /proc/self/status; echo no > $2",
    "no setting of the kernel": "(echo x > /proc/sys/kernel/hostname) && exit 0; echo no > $2",
    "nothing of this machine's environment": 'test -n "$REFLOAT_SECRET" && exit 0; echo no > $2',
}


@pytest.mark.parametrize("what", HARMLESS)
def test_the_tool_can_do_no_harm(
    guest: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (guest / "boot").mkdir()
    monkeypatch.setenv("REFLOAT_SECRET", "x")
    assert built(guest, HARMLESS[what], tmp_path) == b"no\n"
    assert not (guest / "etc/x").exists() and not (guest / "boot/x").exists()


HOSTILE = {
    "too much": ("cat /dev/zero > $2", "."),
    "too much, and it says that all is well": ("cat /dev/zero > $2; exit 0", "."),
    "too much to say": ("cat /dev/zero; exit 1", "status 1"),
    "a failure": ("echo 'no such module' >&2; exit 3", "status 3.*no such module"),
    "nothing": ("exit 0", "made no initramfs"),
    "an empty file": (": > $2", "made no initramfs"),
    "a symlink": ("ln -s /etc/passwd $2", "made no initramfs"),
    "no end": ("sleep 1000", "did not end within 2 s"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_output_is_refused(guest: Path, tmp_path: Path, what: str) -> None:
    script, why = HOSTILE[what]
    seconds = 2 if what == "no end" else 60
    limits = Limits(seconds=seconds, output=1024 * 1024)
    if why == ".":  # what fits is taken: it is for accept() to say that it is no archive
        with contextlib.suppress(RebuildFailed):
            assert len(built(guest, script, tmp_path, limits)) <= limits.output
        return
    with pytest.raises(RebuildFailed, match=why):
        built(guest, script, tmp_path, limits)


@pytest.mark.parametrize("place", ["run", "tmp", "var", "dev"])
def test_a_symlink_where_something_would_be_mounted(guest: Path, tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(guest / place)
    (guest / place).symlink_to(elsewhere)
    with pytest.raises(RebuildFailed, match="no directory"):
        rebuild(guest, "initramfs-tools", KERNEL, tmp_path / "work")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("version", ["", "-x", "../6.1", "6.1 --x", "6.1\n"])
def test_a_version_that_is_none(guest: Path, tmp_path: Path, version: str) -> None:
    with pytest.raises(RebuildFailed, match="no version"):
        rebuild(guest, "dracut", version, tmp_path / "work")


def test_a_guest_without_the_tool(guest: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(RebuildFailed, match="dracut"):
        rebuild(guest, "dracut", KERNEL, tmp_path / "work")
    assert stat.S_ISDIR((tmp_path / "work").stat().st_mode)
