"""One adaptation by direct mount, as a process of its own so that the system accounts for all of it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from refloat.adapt import CHANNEL
from refloat.guest.adapt import adapt
from refloat.guest.inspect import inspect
from refloat.model import AdaptRequest, DiskBus, NetworkMode, NicModel, PlannedDisk, PlannedNic, Secrets

# The source's adapters, in the order of the interfaces in the guest's files.
MACS = ("00:50:56:aa:bb:cc", "00:50:56:aa:bb:cd")


def main() -> None:
    files = [Path(argument) for argument in sys.argv[1:]]
    devices = {file.stem: str(file) for file in files}
    facts = inspect(devices, list(devices), DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    request = AdaptRequest(
        job="bench",
        disks=tuple(PlannedDisk(f.stem, f.stem, f"rf-{f.stem}", f.stat().st_size) for f in files),
        disk_bus=DiskBus.VIRTIO_BLK,
        nic_model=NicModel.VIRTIO,
        nics=tuple(
            PlannedNic(mac, mac, "bench", NetworkMode.RESTORE, nic, "bench")
            for mac, nic in zip(MACS, facts.nics, strict=False)
        ),
        secrets=Secrets("t" * 48, "n" * 32),
        channel=CHANNEL,
        report_deadline=60,
    )
    with tempfile.TemporaryDirectory(prefix="refloat-adapt-") as name:
        adaptation = adapt(request, devices, facts, Path(name), lambda step, figures: None)
    print(f"{len(adaptation.changes)} changes, modules added: {', '.join(adaptation.caps.modules_added)}")


main()
