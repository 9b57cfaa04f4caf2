from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.errors import RefloatError
from refloat.lab.lab import down, up
from refloat.lab.layout import Lab
from tests.system.rig import Rig


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What commits the lab's target comes last: the others need it replicating."""
    items.sort(key=lambda item: item.path == Path(__file__).with_name("test_failover.py"))


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
