"""One simulator for the tests of a module; each test finds it as new."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vcsim.build import missing
from tests.vcsim.rig import VcSim


@pytest.fixture(scope="module")
def simulator() -> Iterator[VcSim]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    made = VcSim()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def vcsim(simulator: VcSim) -> VcSim:
    simulator.reset()
    simulator.calls()
    return simulator
