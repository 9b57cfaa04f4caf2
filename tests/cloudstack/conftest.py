"""The fixture `cloudstack`: a server of its own a test, which fails a test that used what CloudStack does
not know."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloudstack.server import CloudStack


@pytest.fixture
def cloudstack(tmp_path: Path) -> Iterator[CloudStack]:
    folder = tmp_path / "volumes"
    folder.mkdir()
    with CloudStack(folder) as server:
        yield server
    server.check()
