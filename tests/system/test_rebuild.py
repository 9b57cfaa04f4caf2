"""A real guest whose initramfs cannot be extended: refused, or made anew by its own tool, and booted."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from refloat.command import run
from refloat.guest.adapt import same_system
from refloat.guest.host import KERNEL
from tests.guests.adaptation import DISK, Order, adapted, look
from tests.guests.build import built
from tests.guests.matrix import MATRIX
from tests.system.test_guests import _boot, _check_adaptation, _check_report

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: guests are built and mounted"),
    pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="runs with script/test --all"),
]
CASES = {case.name: case for case in MATRIX}
# As a signature behind the archive: a kernel boots with it, and would look at nothing that comes after it.
SIGNATURE = b"SIGNATURE " + b"x" * 256


@pytest.mark.parametrize("name", ["debian12-ext4-ifupdown", "debian12-xfs-dracut-networkmanager"])
def test_guest_boots_with_what_its_own_tool_made(name: str, tmp_path: Path) -> None:
    case, disk = CASES[name], tmp_path / "system.raw"
    guest = built(case)
    run(["cp", "--sparse=always", str(guest.disk), str(disk)])
    paths = signed(disk, tmp_path)
    order = Order({nic.name: nic.mac for nic in case.nics}, {}, rebuild=True)
    done = adapted(order, str(disk), tmp_path / "run")
    _check_adaptation(case, done)
    assert [kernel.initramfs for kernel in done.facts.kernels if kernel.cannot_extend] == paths
    reasons = [change.reason for change in done.changes if change.path in paths]
    assert all("made anew" in one and "without capabilities" in one for one in reasons) and reasons
    booted = _boot(case, guest, disk, tmp_path)
    _check_report(case, booted.report)
    assert not booted.rejected


def test_without_the_wish_it_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    """The negative control, by the command."""
    case, disk = CASES["debian12-ext4-ifupdown"], tmp_path / "system.raw"
    run(["cp", "--sparse=always", str(built(case).disk), str(disk)])
    signed(disk, tmp_path)
    before = _digest(disk)
    argv = [sys.executable, "-m", "refloat", "guest", "adapt", "--trusted", "--evidence", str(tmp_path / "e")]
    done = run([*argv, str(disk)], check=False)
    assert done.returncode == 3, done.stderr
    assert b"[rebuild_not_allowed]" in done.stderr and b"--rebuild" in done.stderr
    assert _digest(disk) == before


def signed(disk: Path, directory: Path) -> list[str]:
    """Makes every initramfs one to which nothing can be appended; the guest's paths of them."""
    devices = {DISK: str(disk)}
    facts = look(devices, {})
    where = directory / "sign"
    with (
        KERNEL.opened(devices) as volumes,
        KERNEL.mounted_system(same_system(volumes, facts), where, writable=True),
    ):
        for kernel in facts.kernels:
            with (where / kernel.initramfs.lstrip("/")).open("ab") as handle:
                handle.write(SIGNATURE)
    return [kernel.initramfs for kernel in facts.kernels]


def _digest(disk: Path) -> str:
    with disk.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
