"""`refloat guest --rebuild` on a real image, with a tool in the guest that really runs, confined."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from refloat.errors import Refused
from refloat.guest import mounts
from refloat.guest.host import KERNEL, KernelHost
from refloat.guest.linux import fallback
from refloat.policy import Policy, Rebuild
from refloat.standalone import tool
from refloat.standalone.appliance import ApplianceHost
from refloat.standalone.evidence import Evidence
from refloat.standalone.images import Image, look
from tests.unit.guest.guests import KERNEL as VERSION
from tests.unit.guest.guests import ROOT_UUID, SWAP_UUID, make_guest
from tests.unit.guest.test_disk import _ext4, _run
from tests.unit.guest.test_fallback import INITRD, SIGNED, with_drivers
from tests.unit.guest.test_rebuild import PROGRAMS, copy
from tests.unit.standalone.test_tool import WISHES, digests, files, quiet

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/fuse").exists() or shutil.which("bwrap") is None,
    reason="needs root, FUSE and bubblewrap",
)
MIB = 1024 * 1024
ALLOWED = replace(WISHES, policy=Policy(rebuild=Rebuild.ALLOWED))
READY = "/usr/share/initramfs"
TOOL = f"""\
#!/bin/sh
{{}}
cat {READY} > "$4"
"""


def guest_tree(root: Path, script: str) -> Path:
    make_guest(root)
    for name in ("proc", "dev", "tmp", "run", "var/tmp", "usr/sbin", "usr/share", "usr/lib64"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("sbin", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in PROGRAMS:
        copy(Path("/usr/bin") / name, root)
    (root / "etc/initramfs-tools").mkdir(exist_ok=True)
    (root / READY.lstrip("/")).write_bytes(with_drivers())
    (root / INITRD.lstrip("/")).write_bytes(SIGNED)
    maker = root / "usr/sbin/mkinitramfs"
    maker.write_text(TOOL.format(script))
    maker.chmod(0o755)
    return root


def image_of(root: Path, path: Path) -> Image:
    table = "label: dos\nlabel-id: 0x5ea0f10a\n2048,163840,L,*\n167936,8192,S\n"
    with path.open("wb") as handle:
        handle.truncate(96 * MIB)
    _run("sfdisk", "-q", str(path), text=table)
    _ext4(path, 80, ROOT_UUID, root)
    swap = path.with_suffix(".swap")
    swap.write_bytes(bytes(4 * MIB))
    _run("mkswap", "-q", "-U", SWAP_UUID, str(swap))
    with path.open("r+b") as handle:
        handle.seek(167936 * 512)
        handle.write(swap.read_bytes())
    return look(path)


Make = Callable[[str], tuple[Image, ...]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A guest whose tool runs this first. The disks are small: so is what has to be free on them."""
    monkeypatch.setattr(fallback, "_LEAST", 4 * MIB)
    monkeypatch.setattr(fallback, "_APPENDED", 4 * MIB)

    def made(script: str) -> tuple[Image, ...]:
        root = guest_tree(tmp_path / "guest", script)
        fstab = root / "etc/fstab"
        fstab.write_text(f"UUID={ROOT_UUID} / ext4 defaults 0 1\n")
        return (image_of(root, tmp_path / "system.raw"),)

    yield made
    mounts.clear(tmp_path)


class Appliance(KernelHost):
    """As ApplianceHost in this one thing."""

    runs_guest_code = ApplianceHost.runs_guest_code


@pytest.mark.parametrize("do", ["plan", "adapt"])
def test_unless_it_is_allowed_nothing_is_changed(make: Make, tmp_path: Path, do: str) -> None:
    images = make("exit 1")
    before = digests(images)
    for wishes, host, words in (
        (WISHES, KERNEL, "nobody allowed that"),
        (ALLOWED, Appliance(), "the appliance runs no program of a guest"),
    ):
        with pytest.raises(Refused, match=words):
            if do == "plan":
                tool.plan(images, wishes, host, quiet)
            else:
                tool.adapt(images, wishes, Evidence(tmp_path / "evidence"), host, quiet)
    assert digests(images) == before
    assert not Evidence(tmp_path / "evidence").begun


def test_the_plan_runs_it_and_changes_nothing(make: Make) -> None:
    images = make("")
    before = digests(images)
    plan = tool.plan(images, ALLOWED, KERNEL, quiet)
    (entry,) = [one for one in plan.changes if one.path == INITRD]
    assert f"mkinitramfs {VERSION} (MODULES=most), the guest's own, run without" in entry.reason
    assert entry.after.size == len(with_drivers())
    assert digests(images) == before


def test_made_anew_and_taken_back(make: Make, tmp_path: Path) -> None:
    images, evidence = make("touch /etc/harm /boot/harm"), Evidence(tmp_path / "evidence")
    before = files(images[0], tmp_path)
    tool.adapt(images, ALLOWED, evidence, KERNEL, quiet)
    after = files(images[0], tmp_path)
    assert after[INITRD][2] == with_drivers()
    assert "/etc/harm" not in after and "/boot/harm" not in after
    assert INITRD in tool.undo(images, evidence, {}, KERNEL)
    assert files(images[0], tmp_path) == before


def test_a_tool_that_fails_changes_no_file(make: Make, tmp_path: Path) -> None:
    images, evidence = make("echo 'this guest is ill' >&2; exit 3"), Evidence(tmp_path / "evidence")
    before = files(images[0], tmp_path)
    with pytest.raises(Refused, match=r"status 3.*this guest is ill"):
        tool.adapt(images, ALLOWED, evidence, KERNEL, quiet)
    assert files(images[0], tmp_path) == before
    assert not evidence.begun
    assert [mount for mount in mounts.table() if mount.is_within(str(tmp_path))] == []


_PATCHED = f"""
import sys
from refloat.cli.main import app
from refloat.guest.linux import fallback
fallback._LEAST = fallback._APPENDED = {4 * MIB}
app(sys.argv[1:], prog_name="refloat")
"""


def test_killed_while_the_tool_runs(make: Make, tmp_path: Path) -> None:
    """What it left mounted goes at the next call, and the tool's processes have gone with it."""
    images, evidence = make("while :; do :; done"), Evidence(tmp_path / "evidence")
    before = files(images[0], tmp_path)
    words = ["guest", "adapt", "--trusted", "--rebuild", "--evidence", str(evidence.directory)]
    argv = [sys.executable, "-c", _PATCHED, *words, "--adapter", f"{WISHES.adapters[0].mac},ens192"]
    with subprocess.Popen([*argv, str(images[0].path)], stderr=subprocess.DEVNULL) as running:
        _wait_for(lambda: bool(_running("mkinitramfs", running.pid)), running)
        pids = _running("mkinitramfs", running.pid)
        running.send_signal(signal.SIGKILL)
    _wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert [one for one in mounts.table() if one.is_within(str(evidence.run_dir / "rebuild"))]
    assert tool.undo(images, evidence, {}, KERNEL) == (), "nothing was changed yet"
    assert [one for one in mounts.table() if one.is_within(str(tmp_path))] == []
    assert files(images[0], tmp_path) == before


def _running(name: str, ancestor: int) -> list[str]:
    """The processes below that one which run a guest's script of that name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            named = any(word.endswith(f"/{name}".encode()) for word in words[:2])
            if named and ancestor in _ancestors(path.parent.name):
                found.append(path.parent.name)
    return found


def _ancestors(pid: str) -> Iterator[int]:
    while int(pid) > 1:
        pid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        yield int(pid)


def _wait_for(seen: Callable[[], bool], running: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline
        assert running is None or running.poll() is None, "it ended by itself"
        time.sleep(0.02)
