from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.errors import RefloatError
from refloat.lab.lab import down, up
from refloat.lab.layout import Lab
from tests.system.rig import Rig

# What needs the lab, in this order: its VMs take time from all others, and the last test commits its target.
IN_THE_LAB = [
    "test_lifecycle.py",
    "test_truth_real.py",
    "test_crash_real.py",
    "test_model_real.py",
    "test_failover.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    order = {here / name: number for number, name in enumerate(IN_THE_LAB, start=1)}
    items.sort(key=lambda item: order.get(item.path, 0))


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """The tests' own lab, beside any other. REFLOAT_KEEP_LAB=1 leaves it for a look afterwards."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the lab mounts disk images")
    lab = Lab("refloat-test", Path("/var/lib/refloat-test"), "127.0.0.1:8419")
    try:
        down(lab, print)
    except RefloatError as error:
        pytest.skip(f"needs libvirt: {error}")
    try:
        up(lab, print)
        yield Rig(lab)
    finally:
        if not os.environ.get("REFLOAT_KEEP_LAB"):
            down(lab, print)
