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
from refloat.guest.linux.rebuild import MAKERS, Limits, RebuildFailed, accept, limits_here, rebuild, told
from refloat.guest.linux.tools import TOOLS
from refloat.guest.mounts import clear, table
from refloat.guest.tree import Tree
from refloat.model import DiskBus, NicModel
from tests.unit.guest.guests import KERNEL, MODULES, file, main_archive, make_guest, module_path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

NEEDED = needed_modules(DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
PATIENT = Limits(seconds=60)
PROGRAMS = ("sh", "cat", "touch", "ls", "mknod", "sleep", "mount", "head", "id", "ln", "env", "cp", "mkdir")


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


def test_every_tool_is_told_the_result_and_the_kernel() -> None:
    assert set(MAKERS) <= set(TOOLS)
    for maker in MAKERS.values():
        assert maker.argv.count("{out}") == maker.argv.count("{version}") == 1


def test_what_is_said_of_it() -> None:
    words = told("dracut", "6.1.0", Limits(seconds=60, output=2**20, scratch=2**21, memory=2**22))
    assert "dracut --no-hostonly --kver 6.1.0, the guest's own" in words
    assert "without capabilities, network and devices, its system read-only" in words
    assert "60 s, 4 MiB of memory for each process, 2 MiB to work in and 1 MiB of output" in words


def test_limits_fit_this_machine() -> None:
    assert limits_here(5).output == 5
    assert limits_here(2**40).output == Limits().output
    assert 0 < limits_here(5).scratch <= Limits().scratch


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
    for name in PROGRAMS:
        copy(Path("/usr/bin") / name, root)
    (root / "etc/initramfs-tools/conf.d").mkdir(parents=True)
    (root / "etc/initramfs-tools/initramfs.conf").write_text("MODULES=dep\n")
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
    """What mkinitramfs, which is `script`, makes: $4 is where the result goes, $5 the version."""
    tool = guest / "usr/sbin/mkinitramfs"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    try:
        return rebuild(guest, "initramfs-tools", KERNEL, work, limits)
    finally:
        left = [mount.place for mount in table() if mount.is_within(str(work))]
        clear(work)
        assert left == [] and [path for path in work.rglob("*") if not path.is_dir()] == []


def test_what_the_tool_writes_is_taken(guest: Path, tmp_path: Path) -> None:
    said = built(guest, 'echo "$1 $2 $3 $5" > "$4"', tmp_path).decode()
    assert said == f"-d /var/tmp/conf -o {KERNEL}\n"


def test_mkinitramfs_does_not_look_for_hardware(guest: Path, tmp_path: Path) -> None:
    assert built(guest, "cat $2/initramfs.conf $2/conf.d/zz-refloat > $4", tmp_path) == (
        b"MODULES=dep\nMODULES=most\n"
    )
    assert [path.name for path in (guest / "etc/initramfs-tools").rglob("*")] == ["conf.d", "initramfs.conf"]


def test_a_guest_that_is_mounted_without_programs(guest: Path, tmp_path: Path) -> None:
    """As Refloat mounts one, /boot and all: the tool's view of it is another, and noexec holds for others."""
    (guest / "boot").mkdir()
    run(["mount", "--bind", str(guest), str(guest)])
    # Where its parent is shared, as under systemd, what is mounted below would appear twice else.
    run(["mount", "--make-private", str(guest)])
    try:
        run(["mount", "-o", "remount,bind,nosuid,nodev,noexec", str(guest)])
        run(["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", str(guest / "boot")])
        (guest / "boot/here").write_text("yes")
        assert built(guest, "touch /boot/x && exit 0; cat /boot/here > $4", tmp_path) == b"yes"
        with pytest.raises(PermissionError):
            run([str(guest / "usr/bin/id")])
    finally:
        clear(guest)


def test_what_a_killed_run_left_mounted_goes_first(guest: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for _ in range(2):
        for name in ("root", "made"):
            (work / name).mkdir(parents=True, exist_ok=True)
            run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(work / name)])
            (work / name / "out").mkdir()
    assert built(guest, "echo yes > $4", tmp_path) == b"yes\n"


HARMLESS = {
    "the guest is not written": "touch /etc/x && exit 0; echo no > $4",
    "nor below a mount point": "touch /boot/x && exit 0; echo no > $4",
    "nor remounted": "mount -o remount,rw / && exit 0; echo no > $4",
    "no device is made": "mknod /tmp/sda b 8 0 && exit 0; echo no > $4",
    "no device of this machine is there": "for one in /dev/sd* /dev/loop* /dev/vd* /dev/mem; do"
    " test -e $one && exit 0; done; echo no > $4",
    "no other process is seen": "test -e /proc/100000 -o $$ -gt 50 && exit 0; echo no > $4",
    "no network": "while read -r name rest; do case $name in lo:|Inter-*|face*) ;; *) exit 0;; esac; done"
    " < /proc/net/dev; echo no > $4",
    "no capability": "while read -r name value; do case $name in Cap???:) test $value = 0000000000000000 ||"
    " exit 0;; esac; done < /proc/self/status; echo no > $4",
    "no setting of the kernel": "(echo x > /proc/sys/kernel/hostname) && exit 0; echo no > $4",
    "nothing of this machine's environment": 'test -n "$REFLOAT_SECRET" && exit 0; echo no > $4',
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
    "too much": ("cat /dev/zero > $4", "."),
    "too much, and it says that all is well": ("cat /dev/zero > $4; exit 0", "."),
    "too much to say": ("cat /dev/zero; exit 1", "status 1"),
    "a failure": ("echo 'no such module' >&2; exit 3", "status 3.*no such module"),
    "nothing": ("exit 0", "made no initramfs"),
    "an empty file": (": > $4", "made no initramfs"),
    "a symlink": ("ln -s /etc/passwd $4", "made no initramfs"),
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
