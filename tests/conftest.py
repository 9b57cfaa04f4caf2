"""Marks by folder, so that `script/test --fast` knows what takes long or needs more than Python."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
MARKS = {
    HERE / "contract": pytest.mark.libvirt,
    HERE / "crash": pytest.mark.slow,
    HERE / "unit" / "sync": pytest.mark.slow,
    HERE / "system": pytest.mark.system,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for folder, mark in MARKS.items():
            if folder in item.path.parents:
                item.add_marker(mark)
