"""One guest's adaptation with a full comparison of its tree. Also runs inside a controller (`inside` below),
so it needs nothing but the standard library, the engine and the model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from refloat.codec import decode, encode
from refloat.guest.adapt import adapt, same_system
from refloat.guest.host import KERNEL
from refloat.guest.inspect import inspect
from refloat.model import (
    AdaptRequest,
    Change,
    DiskBus,
    GuestFacts,
    NetworkMode,
    NicModel,
    PlannedDisk,
    PlannedNic,
    Secrets,
)
from tests.tree_compare import Snapshot, differences, snapshot

JOB = "guests"
SECRETS = Secrets("t0ken" * 6, "n0nce" * 6)
CHANNEL = "org.refloat.report"
DISK = "disk-a"


@dataclass(frozen=True)
class Adapted:
    """`differences` are what the journal does not account for: there must be none. `after` is what a second
    inspection still finds to do."""

    facts: GuestFacts
    changes: tuple[Change, ...]
    differences: tuple[str, ...]
    after: GuestFacts


@dataclass(frozen=True)
class Order:
    """`nics`: interface name at the source to MAC address; `keys` and `rebuild` as in AdaptRequest."""

    nics: dict[str, str]
    keys: dict[str, str]
    rebuild: bool = False


def adapted(order: Order, device: str, run_dir: Path) -> Adapted:
    """Inspects and adapts the guest on this raw image or device node, and compares the whole tree."""
    devices = {DISK: device}
    facts = look(devices, order.keys)
    assert facts.problems == (), facts.problems
    before = tree(devices, facts, order.keys, run_dir)
    done = adapt(request(order, facts), devices, facts, run_dir, lambda step, figures: None)
    found = differences(before, tree(devices, facts, order.keys, run_dir), done.changes)
    return Adapted(facts, done.changes, tuple(found), look(devices, order.keys))


def look(devices: Mapping[str, str], keys: Mapping[str, str]) -> GuestFacts:
    return inspect(devices, (DISK,), DiskBus.VIRTIO_BLK, NicModel.VIRTIO, keys)


def tree(devices: Mapping[str, str], facts: GuestFacts, keys: Mapping[str, str], run_dir: Path) -> Snapshot:
    """All of the guest's root system, mounted read-only."""
    where = run_dir / "look"
    with (
        KERNEL.opened(devices, keys) as volumes,
        KERNEL.mounted_system(same_system(volumes, facts), where),
    ):
        return snapshot(where)


def request(order: Order, facts: GuestFacts) -> AdaptRequest:
    configs = {config.name: config for config in facts.nics}
    return AdaptRequest(
        job=JOB,
        disks=(PlannedDisk(DISK, "sda", "s0", 1),),
        disk_bus=DiskBus.VIRTIO_BLK,
        nic_model=NicModel.VIRTIO,
        nics=tuple(
            PlannedNic(mac, mac, "production", NetworkMode.RESTORE, configs[name], "its own configuration")
            for name, mac in order.nics.items()
        ),
        secrets=SECRETS,
        channel=CHANNEL,
        report_deadline=600,
        luks_keys=order.keys,
        rebuild=order.rebuild,
    )


def inside() -> None:
    """In a controller: DEVICE and RUN_DIR as arguments, the order on standard input, the result on output."""
    order = decode(Order, json.load(sys.stdin))
    json.dump(encode(adapted(order, sys.argv[1], Path(sys.argv[2]))), sys.stdout)


if __name__ == "__main__":
    inside()
