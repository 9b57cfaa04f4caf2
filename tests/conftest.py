"""Marks by folder, so that `script/test --fast` knows what takes long or needs more than Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import cluster  # noqa: F401 (a fixture)

# No time limit for a single example: the machine may be busy. Where time matters, a test measures it.
settings.register_profile("refloat", deadline=None)
settings.load_profile("refloat")

HERE = Path(__file__).parent
MARKS = {
    HERE / "contract": pytest.mark.libvirt,
    HERE / "browser": pytest.mark.slow,
    HERE / "crash": pytest.mark.slow,
    HERE / "truth": pytest.mark.slow,
    HERE / "faults": pytest.mark.slow,
    HERE / "vcsim": pytest.mark.slow,
    HERE / "unit" / "sync": pytest.mark.slow,
    HERE / "unit" / "simulated": pytest.mark.slow,
    HERE / "system": pytest.mark.system,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for folder, mark in MARKS.items():
            if folder in item.path.parents:
                item.add_marker(mark)
