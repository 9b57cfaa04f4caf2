"""`refloat guest` on real disk images, mounted by this machine's kernel."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from refloat.command import CommandFailed
from refloat.errors import Refused
from refloat.guest import mounts
from refloat.guest.host import KERNEL
from refloat.model import DiskBus
from refloat.standalone import images as image_files
from refloat.standalone import tool
from refloat.standalone.evidence import Evidence, State
from refloat.standalone.images import Image, look
from refloat.standalone.tool import Adapter, Wishes
from tests.unit.guest.guests import MAC, snapshot
from tests.unit.guest.test_disk import START
from tests.unit.guest.test_disk import disks as disks

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/fuse").exists() or not shutil.which("qemu-storage-daemon"),
    reason="needs root, FUSE and qemu-storage-daemon",
)
WISHES = Wishes(adapters=(Adapter(MAC, MAC, "ens192"),))


def quiet(step: str, figures: dict[str, object]) -> None: ...


@pytest.fixture(params=["raw", "qcow2"])
def images(
    request: pytest.FixtureRequest, disks: dict[str, str], tmp_path: Path
) -> Iterator[tuple[Image, ...]]:
    paths = []
    for key, raw in disks.items():
        paths.append(tmp_path / f"{key}.{request.param}")
        subprocess.run(["qemu-img", "convert", "-O", request.param, raw, str(paths[-1])], check=True)
    yield tuple(look(path) for path in paths)
    mounts.clear(tmp_path)  # what was killed


def digests(images: tuple[Image, ...]) -> list[str]:
    return [hashlib.sha256(image.path.read_bytes()).hexdigest() for image in images]


def files(image: Image, tmp_path: Path) -> dict[str, tuple[str, int, bytes]]:
    """What the guest has on its root filesystem."""
    raw, where = tmp_path / "copy.raw", tmp_path / "copy"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image.path), str(raw)], check=True)
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", f"loop,offset={START}", str(raw), str(where)], check=True)
    try:
        return snapshot(where)
    finally:
        subprocess.run(["umount", str(where)], check=True)


def touch(image: Image, tmp_path: Path) -> None:
    """As a guest that runs for a moment."""
    raw, where = tmp_path / "run.raw", tmp_path / "mounted"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image.path), str(raw)], check=True)
    where.mkdir()
    subprocess.run(["mount", "-o", f"loop,offset={START}", str(raw), str(where)], check=True)
    (where / "var-log").write_text("booted")
    subprocess.run(["umount", str(where)], check=True)
    subprocess.run(["qemu-img", "convert", "-O", image.format, str(raw), str(image.path)], check=True)


def test_looking_and_planning_change_nothing(images: tuple[Image, ...]) -> None:
    before = digests(images)
    facts = tool.inspect(images, WISHES, KERNEL)
    assert facts.hostname and not facts.problems
    plan = tool.plan(images, WISHES, KERNEL, quiet)
    assert any(change.path == "/etc/fstab" and "UUID=" in change.diff for change in plan.changes)
    assert digests(images) == before


def test_the_plan_is_what_is_done_and_undo_takes_it_back(images: tuple[Image, ...], tmp_path: Path) -> None:
    before = files(images[0], tmp_path)
    plan = tool.plan(images, WISHES, KERNEL, quiet)
    evidence = Evidence(tmp_path / "evidence")
    done = tool.adapt(images, WISHES, evidence, KERNEL, quiet)
    assert [change.path for change in done.changes] == [change.path for change in plan.changes]
    assert files(images[0], tmp_path) != before
    restored = tool.undo(images, evidence, {}, KERNEL)
    assert set(restored) <= {change.path for change in done.changes}
    assert files(images[0], tmp_path) == before
    assert tool.undo(images, evidence, {}, KERNEL) == ()


def test_undo_of_a_guest_that_has_run_is_refused(images: tuple[Image, ...], tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    tool.adapt(images, WISHES, evidence, KERNEL, quiet)
    touch(images[0], tmp_path)
    adapted = files(images[0], tmp_path)
    with pytest.raises(Refused, match="has run since it was adapted"):
        tool.undo(images, evidence, {}, KERNEL)
    assert files(images[0], tmp_path) == adapted


_KILLED = """
import os, signal, sys
from refloat.cli.main import app
from refloat.guest.tree import Tree
writes = 0
def mortal(original):
    def one(self, *arguments):
        global writes
        writes += 1
        if writes == int(sys.argv[1]):
            os.kill(os.getpid(), signal.{signal})
        original(self, *arguments)
    return one
for name in ("replace_file", "remove_file"):
    setattr(Tree, name, mortal(getattr(Tree, name)))
app(sys.argv[2:], prog_name="refloat")
"""


def ended(
    command: str, images: tuple[Image, ...], evidence: Evidence, at: int, *options: str, by: str = "SIGKILL"
) -> int:
    """`refloat guest` ended by a signal before its write to the guest with this number."""
    words = ["guest", command, "--trusted", "--evidence", str(evidence.directory), *options]
    argv = [sys.executable, "-c", _KILLED.replace("{signal}", by), str(at), *words]
    paths = [str(image.path) for image in images]
    status = subprocess.run([*argv, *paths], capture_output=True, check=False).returncode
    inodes = {f":{image.path.stat().st_ino} " for image in images}
    deadline = time.monotonic() + 20
    # Who showed the images to it ends after it.
    while any(inode in line for line in Path("/proc/locks").read_text().splitlines() for inode in inodes):
        assert time.monotonic() < deadline
    return status


ADAPTER = ("--adapter", f"{MAC},ens192")  # as in WISHES


@pytest.mark.parametrize(("name", "at"), [("SIGKILL", 2), ("SIGKILL", 5), ("SIGINT", 4)])
def test_an_adaptation_that_was_ended_in_the_middle(
    images: tuple[Image, ...], tmp_path: Path, name: str, at: int
) -> None:
    before, evidence = files(images[0], tmp_path), Evidence(tmp_path / "evidence")
    assert ended("adapt", images, evidence, at, *ADAPTER, by=name) != 0
    record = evidence.load()
    assert record is not None and record.state is State.ADAPTING
    assert tool.undo(images, evidence, {}, KERNEL)
    assert files(images[0], tmp_path) == before


def test_an_adaptation_that_was_ended_goes_on_at_the_next_call(
    images: tuple[Image, ...], tmp_path: Path
) -> None:
    whole = tool.plan(images, WISHES, KERNEL, quiet)
    evidence = Evidence(tmp_path / "evidence")
    for at in (4, 3):
        assert ended("adapt", images, evidence, at, *ADAPTER) == -signal.SIGKILL
    done = tool.adapt(images, WISHES, evidence, KERNEL, quiet)
    assert [change.path for change in done.changes] == [change.path for change in whole.changes]
    with pytest.raises(Refused, match="evidence of a guest that was adapted"):
        tool.adapt(images, WISHES, evidence, KERNEL, quiet)


def test_what_was_begun_is_not_finished_otherwise(images: tuple[Image, ...], tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    assert ended("adapt", images, evidence, 4, *ADAPTER) == -signal.SIGKILL
    half = files(images[0], tmp_path)
    other = replace(WISHES, bus=DiskBus.SATA, serial_console=True)
    with pytest.raises(Refused, match="begun with another --bus, --serial-console"):
        tool.adapt(images, other, evidence, KERNEL, quiet)
    with pytest.raises(Refused, match="begun with another --adapter or --network"):
        tool.adapt(images, replace(WISHES, adapters=()), evidence, KERNEL, quiet)
    assert files(images[0], tmp_path) == half


def test_wishes_may_change_until_something_is_written(images: tuple[Image, ...], tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    assert ended("adapt", images, evidence, 1, *ADAPTER) == -signal.SIGKILL
    (evidence.run_dir / "journal.jsonl").unlink()  # as if it had ended a moment before
    tool.adapt(images, replace(WISHES, serial_console=True), evidence, KERNEL, quiet)
    record = evidence.load()
    assert record is not None and record.request.serial_console


def test_a_guest_that_ran_half_adapted_is_left_alone(images: tuple[Image, ...], tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    assert ended("adapt", images, evidence, 4, *ADAPTER) == -signal.SIGKILL
    touch(images[0], tmp_path)
    half = files(images[0], tmp_path)
    for attempt in (
        lambda: tool.adapt(images, WISHES, evidence, KERNEL, quiet),
        lambda: tool.undo(images, evidence, {}, KERNEL),
    ):
        with pytest.raises(Refused, match="has run since it was half adapted"):
            attempt()
    assert files(images[0], tmp_path) == half


def test_an_undo_that_was_ended_is_repeated(images: tuple[Image, ...], tmp_path: Path) -> None:
    before, evidence = files(images[0], tmp_path), Evidence(tmp_path / "evidence")
    tool.adapt(images, WISHES, evidence, KERNEL, quiet)
    for at in (4, 2):
        assert ended("undo", images, evidence, at) == -signal.SIGKILL
    with pytest.raises(Refused, match="evidence of a guest that was half undone"):
        tool.adapt(images, WISHES, evidence, KERNEL, quiet)
    assert tool.undo(images, evidence, {}, KERNEL)
    assert files(images[0], tmp_path) == before
    with pytest.raises(Refused, match="evidence of a guest that was undone"):
        tool.adapt((), WISHES, evidence, KERNEL, quiet)


def test_a_guest_that_ran_half_undone_is_left_alone(images: tuple[Image, ...], tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    tool.adapt(images, WISHES, evidence, KERNEL, quiet)
    assert ended("undo", images, evidence, 4) == -signal.SIGKILL
    touch(images[0], tmp_path)
    with pytest.raises(Refused, match="has run since it was half undone"):
        tool.undo(images, evidence, {}, KERNEL)


def test_secrets_stand_in_their_own_file_alone(images: tuple[Image, ...], tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    tool.adapt(images, WISHES, evidence, KERNEL, quiet)
    record = evidence.load()
    assert record is not None and record.request.secrets.token
    shown = (evidence.directory / "evidence.json").read_text() + (
        evidence.run_dir / "journal.jsonl"
    ).read_text()
    assert record.request.secrets.token not in shown
    assert (evidence.directory / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_other_images_than_the_evidences_are_refused(images: tuple[Image, ...], tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    tool.adapt(images, WISHES, evidence, KERNEL, quiet)
    before = digests(images)
    with pytest.raises(Refused, match="not the images that the evidence is about"):
        tool.undo(images[:1], evidence, {}, KERNEL)
    assert digests(images) == before
    with pytest.raises(Refused, match="there is no evidence"):
        tool.undo(images, Evidence(tmp_path / "none"), {}, KERNEL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(Refused, match="holds no evidence of Refloat"):
        tool.adapt(images, WISHES, Evidence(tmp_path / "mine"), KERNEL, quiet)


def test_images_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    def make(*argv: str) -> None:
        subprocess.run(["qemu-img", "create", "-q", *argv], check=True)

    base = tmp_path / "base.raw"
    base.write_bytes(bytes(1 << 20))
    make("-f", "qcow2", "-b", str(base), "-F", "raw", str(tmp_path / "overlay.qcow2"))
    make("-f", "qcow2", "-o", f"data_file={tmp_path / 'd'}", str(tmp_path / "split.qcow2"), "1M")
    make("-f", "vmdk", "-o", "subformat=streamOptimized", str(tmp_path / "ova.vmdk"), "1M")
    make("-f", "vdi", str(tmp_path / "x.vdi"), "1M")
    for name, words in {
        "overlay.qcow2": "overlay over",
        "split.qcow2": "keeps its data in",
        "ova.vmdk": "stream-optimized",
        "x.vdi": "is a vdi image",
        "missing": "No such file",
        ".": "neither a file nor a block device",
    }.items():
        with pytest.raises(Refused, match=words):
            look(tmp_path / name)


@pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="needs QEMU")
def test_an_image_that_a_vm_uses_is_refused(images: tuple[Image, ...], tmp_path: Path) -> None:
    argv = ["qemu-system-x86_64", "-S", "-M", "q35", "-nodefaults", "-display", "none", "-accel", "tcg"]
    drive = f"file={images[0].path},format={images[0].format},if=virtio"
    vm = subprocess.Popen([*argv, "-drive", drive])
    try:
        inode = f":{images[0].path.stat().st_ino} "
        # One lock for what it does, and one for each thing that it lets nobody else do.
        while Path("/proc/locks").read_text().count(inode) < 2:
            assert vm.poll() is None
        with pytest.raises(Refused, match="in use by another process"):
            tool.adapt(images, WISHES, Evidence(tmp_path / "evidence"), KERNEL, quiet)
    finally:
        vm.kill()
        vm.wait()


def descriptor(extent: str) -> str:
    return (
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="monolithicFlat"\nRW 2048 FLAT "{extent}" 0\n'
    )


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU follows what an image names: it must not even see it."""

    def run(argv: list[str], **_: object) -> None:
        raise AssertionError(argv)

    monkeypatch.setattr(image_files, "run", run)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("extent", ["{host}", "../host.img", "disk-link.vmdk", "nbd://host/x", "disk-pipe"])
def test_a_vmdk_that_names_a_file_of_this_host_is_refused(tmp_path: Path, extent: str) -> None:
    host, there = tmp_path / "host.img", tmp_path / "in"
    host.write_bytes(bytes(1024 * 1024))
    there.mkdir()
    (there / "disk-link.vmdk").symlink_to(host)
    os.mkfifo(there / "disk-pipe")
    text = descriptor(extent.format(host=host))
    for content in (text, text.split("\n", 1)[1], text.replace("FLAT ", "FLAT\n")):
        (there / "disk.vmdk").write_text(content)
        with pytest.raises(Refused, match="is no file of its own"):
            look(there / "disk.vmdk")


@pytest.mark.usefixtures("nothing_runs")
def test_a_header_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    qcow2 = b"QFI\xfb" + struct.pack(">I", 3) + bytes(64) + struct.pack(">Q", 4) + bytes(432)
    vmdk = b"KDMV" + struct.pack("<II", 1, 3) + bytes(8) + descriptor("/etc/passwd").encode()
    for content in (qcow2, vmdk):
        (tmp_path / "image").write_bytes(content)
        with pytest.raises(Refused, match="keeps its data in another file"):
            look(tmp_path / "image")


def test_an_error_of_another_program_is_told_as_it_is(images: tuple[Image, ...], tmp_path: Path) -> None:
    with (
        pytest.raises(CommandFailed, match="mount ended with status 32"),
        image_files.opened(images, tmp_path / "work", writable=True),
    ):
        raise CommandFailed(["mount"], 32, b"cannot mount block device: lock")


@pytest.mark.parametrize("kind", ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse"])
def test_a_vmdk_with_its_own_files_is_taken(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = ["qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={kind}"]
    subprocess.run([*create, str(tmp_path / "disk.vmdk"), "4M"], check=True)
    assert look(tmp_path / "disk.vmdk").capacity == 4 * 1024 * 1024
    monkeypatch.chdir(tmp_path)
    assert look(Path("disk.vmdk")).format == "vmdk"
