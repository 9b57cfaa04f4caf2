"""One phony disk of each kind, made once: tests take copies."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.windows import disks
from tests.windows.disks import Phony


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Phony], Path]:
    folder, made = tmp_path_factory.mktemp("phony"), dict[Phony, Path]()

    def original(one: Phony) -> Path:
        if one not in made:
            made[one] = disks.make(one, folder / f"{len(made)}-{one.name}.raw")
        return made[one]

    return original


@pytest.fixture
def disk_of(originals: Callable[[Phony], Path], tmp_path: Path) -> Iterator[Callable[[Phony], Path]]:
    """A copy of the guest's disk, to be changed. What is mounted below the test's folder in the end, as by a
    killed run, is unmounted."""

    def copy(one: Phony) -> Path:
        why = disks.can_be_made()
        if why:
            pytest.skip(why)
        return Path(shutil.copy(originals(one), tmp_path / f"{one.name}.raw"))

    yield copy
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if (where := line.split()[4]).startswith(f"{tmp_path}/"):
            disks.run("umount", where)
