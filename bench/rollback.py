"""How long a rollback of disks takes, by their size: `python -m bench.rollback`.

For disks of 1, 10 and 100 GiB: a replica volume with 256 MiB of data, a rollback point over it, 256 MiB
written by the recovered VM, then the revert, through the libvirt driver. The peer in the same run is a copy
of the volume by `qemu-img convert`, which is what platforms do whose snapshots are full copies (CloudStack
with qcow2). Both read or write only what is allocated: the volumes are sparse. Aim: flat, and under 2 s.
Needs root and libvirt.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from refloat.destinations.libvirt import LibvirtDestination
from refloat.destinations.libvirt_xml import DiskSpec, DomainSpec, DomainType
from tests.contract.destination_rigs import URI, libvirt_missing, libvirt_pool

GIB, DATA = 2**30, 256 * 2**20
SIZES = (1, 10, 100)
BEFORE, AFTER = "0x11", "0x77"  # the bytes that the disk has before the rollback point, and after


def main() -> None:
    if reason := libvirt_missing():
        raise SystemExit(reason)
    figures = {}
    with libvirt_pool() as (directory, pool):
        destination = LibvirtDestination(URI, {}, pool)
        for size in SIZES:
            figures[f"{size} GiB"] = measured(destination, directory, size)
    print(json.dumps(figures, indent=2))


def measured(destination: LibvirtDestination, directory: Path, size: int) -> dict[str, float]:
    vm = f"rf-bench-{uuid.uuid4().hex[:8]}"
    volume = directory / f"{vm}.raw"
    with volume.open("wb") as file:
        file.truncate(size * GIB)
    _io(volume, "raw", f"write -P {BEFORE} {size // 2}G {DATA}")
    disk = DiskSpec("replica", str(volume), "raw")
    spec = DomainSpec(vm, str(uuid.uuid4()), DomainType.QEMU, 1, 64 * 2**20, "controller", disks=(disk,))
    destination.create(spec)
    try:
        copy = _timed(lambda: _run("qemu-img", "convert", "-O", "raw", str(volume), str(volume) + ".copy"))
        Path(str(volume) + ".copy").unlink()
        destination.snapshot(vm, ["replica"], "bench")
        layer = destination.hardware(vm).disks[0].volume
        _io(Path(layer), "qcow2", f"write -P {AFTER} {size // 2}G {DATA}")
        revert = _timed(lambda: destination.revert(vm, "bench"))
        _io(volume, "raw", f"read -P {BEFORE} {size // 2}G {DATA}")
        return {"revert": round(revert, 3), "copy": round(copy, 3), "ratio": round(copy / revert, 1)}
    finally:
        destination.destroy(vm)


def _timed(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    subprocess.run(["sync"], check=True)
    return time.perf_counter() - begun


def _io(file: Path, kind: str, command: str) -> None:
    """Also checks: qemu-io says so, and ends with 1, where a pattern is not what is there."""
    _run("qemu-io", "-f", kind, "-c", command, str(file))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
