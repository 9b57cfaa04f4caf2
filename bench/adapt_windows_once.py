"""One adaptation of a Windows disk, as a process of its own so that the system accounts for all of it: the
drivers are chosen from the set, too."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from refloat import drivers
from refloat.guest.adapt import adapt
from refloat.guest.inspect import inspect
from refloat.model import (
    AdaptRequest,
    DiskBus,
    NetworkMode,
    NicModel,
    PlannedDisk,
    PlannedNic,
    Secrets,
    WindowsRequest,
)

# Not from refloat.adapt: with it comes the hub, whose database is not part of an adaptation.
CHANNEL = "org.refloat.report.0"
MAC = "00:50:56:aa:bb:cc"


def main() -> None:
    disk, driver_set = map(Path, sys.argv[1:])
    devices = {"sda": str(disk)}
    facts = inspect(devices, ["sda"], DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    assert facts.windows is not None
    version, architecture = facts.windows.version, facts.windows.architecture
    choice = drivers.choose(driver_set, version, architecture)
    with tempfile.TemporaryDirectory(prefix="refloat-adapt-") as name:
        drivers.extract(driver_set, choice, version, Path(name) / "drivers")
        request = AdaptRequest(
            job="bench",
            disks=(PlannedDisk("sda", "sda", "rf-sda", disk.stat().st_size),),
            disk_bus=DiskBus.VIRTIO_BLK,
            nic_model=NicModel.VIRTIO,
            nics=(PlannedNic(MAC, MAC, "bench", NetworkMode.RESTORE, facts.nics[0], "bench"),),
            secrets=Secrets("t" * 48, "n" * 32),
            channel=CHANNEL,
            report_deadline=1800,
            windows=WindowsRequest(choice, str(Path(name) / "drivers")),
        )
        run_dir = Path(name) / "run"
        run_dir.mkdir()
        adaptation = adapt(request, devices, facts, run_dir, lambda step, figures: None)
    values = sum(len(change.values) for change in adaptation.changes)
    print(f"{facts.os_name}: {len(adaptation.changes)} changes, {values} registry values")


main()
