from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.lab.lab import down, up
from refloat.lab.layout import Lab
from tests.system.libvirtd import Libvirtd
from tests.system.rig import Rig

_KEEP = bool(os.environ.get("REFLOAT_KEEP_LAB"))

# What needs the lab, in this order: its VMs take time from all others, and the last test commits its target.
IN_THE_LAB = [
    "test_lifecycle.py",
    "test_truth_real.py",
    "test_crash_real.py",
    "test_failover.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    order = {here / name: number for number, name in enumerate(IN_THE_LAB, start=1)}
    items.sort(key=lambda item: order.get(item.path, 0))


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[Libvirtd]:
    """Of the tests' own: what they do to it harms nobody else."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the lab mounts disk images")
    if shutil.which("libvirtd", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("needs libvirtd")
    daemon = Libvirtd(Path("/var/lib/refloat-test-libvirt"))
    daemon.start()
    yield daemon
    if not _KEEP:
        daemon.remove()


@pytest.fixture(scope="session")
def rig(libvirtd: Libvirtd) -> Iterator[Rig]:
    """The tests' own lab. REFLOAT_KEEP_LAB=1 leaves it and its libvirtd for a look afterwards."""
    lab = Lab("refloat-test", Path("/var/lib/refloat-test"), "127.0.0.1:8419", libvirtd.uri)
    down(lab, print)
    try:
        up(lab, print)
        yield Rig(lab)
    finally:
        libvirtd.start()  # where a test left it killed
        if not _KEEP:
            down(lab, print)
