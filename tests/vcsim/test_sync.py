"""Whole syncs from the simulated vCenter into a replica, by the engine that libvirt's use as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.controller.client import ControllerClient
from refloat.errors import Failed, Refused
from refloat.model import ReplicaDisk, SyncPoint, Target
from refloat.sources.offline import stop_readers
from refloat.sync.engine import sync
from refloat.sync.verify import differing_disks
from tests.unit.sync.rig import NOWHERE, LocalLink
from tests.vcsim.rig import MIB, VcSim

BLOCK = 65536


class Replication:
    """A target whose controller is a directory of this machine."""

    def __init__(self, vcsim: VcSim, directory: Path) -> None:
        self.vcsim, self.directory = vcsim, directory
        self.source = vcsim.source()
        sizes = {key: file.stat().st_size for key, file in vcsim.files.items()}
        self.link = LocalLink(directory, {f"r{key}": size for key, size in sizes.items()})
        self.controller = ControllerClient(
            NOWHERE, lambda: ("127.0.0.1", 22), directory, self.link, str(self.link.root / "code")
        )
        disks = tuple(ReplicaDisk(key, f"r{key}") for key in sizes)
        self.target = Target("t", "here", vcsim.vm, "there", "controller", NOWHERE, disks, "default")
        self.last: SyncPoint | None = None

    def sync(self) -> SyncPoint:
        self.last = sync(
            source=self.source,
            controller=self.controller,
            target=self.target,
            state_dir=self.directory / "hub",
            last=self.last,
        )
        return self.last

    def is_identical(self) -> bool:
        names = {"2000": "vdb", "2001": "vdc"}
        return all(
            (self.link.root / "dev" / names[key]).read_bytes() == file.read_bytes()
            for key, file in self.vcsim.files.items()
        )


@pytest.fixture
def replication(vcsim: VcSim, tmp_path: Path) -> Iterator[Replication]:
    made = Replication(vcsim, tmp_path)
    try:
        yield made
    finally:
        made.controller.sync_close()
        stop_readers(tmp_path / "readers")


def test_twice_and_the_second_sends_only_what_changed(vcsim: VcSim, replication: Replication) -> None:
    vcsim.write("2000", MIB, 3 * BLOCK, 1)
    vcsim.write("2001", 5 * BLOCK, 100, 2)
    first = replication.sync()
    assert (first.how, first.transferred) == ("full", 4 * BLOCK)
    assert replication.is_identical()
    vcsim.write("2000", MIB + BLOCK + 17, 100, 3)
    vcsim.write("2000", 4 * MIB, BLOCK, 4)  # the odd end
    second = replication.sync()
    assert (second.how, second.transferred, second.reason) == ("changed", 2 * BLOCK, "")
    assert replication.is_identical()
    third = replication.sync()
    assert (third.how, third.transferred) == ("changed", 0)


def test_what_became_zero_is_zero_there(vcsim: VcSim, replication: Replication) -> None:
    vcsim.write("2000", 0, 2 * MIB, 1)
    replication.sync()
    vcsim.write("2000", MIB, MIB, 0)
    assert replication.sync().how == "changed"
    assert replication.is_identical()


def test_a_lost_record_leads_to_a_compare_that_sends_the_difference(
    vcsim: VcSim, replication: Replication
) -> None:
    vcsim.write("2000", 0, 3 * MIB, 1)
    replication.sync()
    vcsim.set(ResetTracking=True)
    vcsim.write("2000", 2 * MIB, BLOCK, 2)
    point = replication.sync()
    assert point.how == "compared" and "anew" in point.reason
    assert point.transferred == 4 * BLOCK  # one chunk
    assert replication.is_identical()
    assert replication.sync().how == "changed"


def test_what_an_operator_should_know_is_with_the_point(vcsim: VcSim, replication: Replication) -> None:
    vcsim.set(Tools="guestToolsNotRunning")
    assert "crash-consistent" in replication.sync().reason


def test_hashes_describe_the_replica(vcsim: VcSim, replication: Replication) -> None:
    """Later compares rely on them: after a sync by areas a compare finds nothing to send."""
    vcsim.write("2000", 0, 3 * MIB, 1)
    replication.sync()
    vcsim.write("2000", MIB + 5, 10, 2)
    replication.sync()
    vcsim.set(ResetTracking=True)
    point = replication.sync()
    assert (point.how, point.transferred) == ("compared", 0)
    with replication.source.read_changes(vcsim.vm, None, "refloat-verify") as changes:
        assert differing_disks(changes, replication.controller, replication.target) == ()


def test_a_reader_that_dies_in_the_middle(vcsim: VcSim, replication: Replication) -> None:
    """The replica still equals the last complete sync point, and the error says what happened."""
    vcsim.write("2000", 0, MIB, 1)
    replication.sync()
    before = (replication.link.root / "dev" / "vdb").read_bytes()
    vcsim.write("2000", 0, 4 * MIB, 2)
    faults = "--filter=error file $2 error-pread-rate=1 error=EIO"
    script = f'exec nbdkit --foreground --readonly --unix "$1" {faults}'
    stand_in = replication.source._settings.reader
    content = f"{vcsim.directory}/{{snapshot}}/_LocalDS_0__web_web-2000.vmdk"
    broken = ("sh", "-c", script, "sh", "{socket}", content)
    replication.source = vcsim.source(reader=broken)
    with pytest.raises(Failed) as caught:
        replication.sync()
    assert "reading the source" in caught.value.message and "the reader says" in caught.value.message
    assert (replication.link.root / "dev" / "vdb").read_bytes() == before
    replication.source = vcsim.source(reader=stand_in)
    assert replication.sync().how == "changed"
    assert replication.is_identical()


def test_a_disk_that_grew_is_refused_before_anything_is_touched(
    vcsim: VcSim, replication: Replication
) -> None:
    replication.sync()
    vcsim.calls()
    disks = [vcsim.disk("2000", unit=0, Capacity=8 * MIB), vcsim.disk("2001", unit=1)]
    vcsim.set(Disks=disks)
    with pytest.raises(Refused) as caught:
        replication.sync()
    assert caught.value.code == "disk_size"
    assert "CreateSnapshot_Task" not in vcsim.calls()
