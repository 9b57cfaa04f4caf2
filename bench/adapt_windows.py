"""Adapting a phony Windows Server 2022: Refloat against virt-v2v-in-place, on copies, in one run.

Neither result can be booted: there is no Windows on the disk, but what the tools look at. What is compared is
what they cost, and that both have done their offline part.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.adapt import PEER_PACKAGES, acceleration, appliance, changed_bytes
from bench.cost import Cost, measure
from bench.phony_windows import build, service_start
from refloat.command import run
from tests.windows import driverset
from tests.windows.disks import MIB, program

AIM = 100  # times less CPU than the peer
# What the peer runs at the guest's first boot. Debian has no package of it: the stand-ins are never run here.
_PEER_TOOLS = ("rhsrvany.exe", "pvvxsvc.exe", "pnp_wait.exe")
_DRIVER_SIZE = 100_000  # bytes of a program in the set, about as virtio-win's


@dataclass
class Row:
    """`changed`: bytes of the disk's blocks of 4 KiB that are other than the original's. `boot_driver`:
    whether viostor starts at boot by the registry of the result."""

    tool: str
    cost: Cost
    changed: int = 0
    boot_driver: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    options = parser.parse_args()
    peer = shutil.which("virt-v2v-in-place") or "/usr/libexec/virt-v2v-in-place"
    if not Path(peer).exists() or not shutil.which("nbdkit") or not shutil.which("guestfish"):
        sys.exit(f"virt-v2v-in-place is not ready: apt-get install {PEER_PACKAGES}")
    with tempfile.TemporaryDirectory(prefix="refloat-bench-") as name:
        rows = _rows(peer, Path(name))
    print(json.dumps(_data(rows), indent=2) if options.json else _table(rows))


def _rows(peer: str, directory: Path) -> list[Row]:
    original = directory / "original.raw"
    build(original)
    drivers = driverset.write_folder(
        directory / "virtio-win", driverset.files(["2k19", "2k22"], size=_DRIVER_SIZE)
    )
    ours, theirs = (_copy(original, directory / f"{tool}.raw") for tool in ("refloat", "virt-v2v"))
    environment = {
        **appliance(directory / "appliance"),
        "VIRTIO_WIN": str(drivers),
        "VIRT_TOOLS_DATA_DIR": str(_tools(directory / "tools")),
    }
    once = [sys.executable, "-m", "bench.adapt_windows_once", str(ours), str(drivers)]
    rows = [
        Row("refloat", measure(once, {})),
        Row("virt-v2v-in-place", measure([peer, "-i", "libvirtxml", str(_domain(theirs))], environment)),
    ]
    for row, disk in zip(rows, (ours, theirs), strict=True):
        row.changed = changed_bytes(original, disk)
        row.boot_driver = service_start(disk, "viostor") == 0
    return rows


def _copy(original: Path, copy: Path) -> Path:
    run(["cp", "--sparse=always", str(original), str(copy)])
    return copy


def _tools(directory: Path) -> Path:
    directory.mkdir()
    for name in _PEER_TOOLS:
        (directory / name).write_bytes(program("x86"))
    return directory


def _domain(disk: Path) -> Path:
    file = disk.with_suffix(".xml")
    file.write_text(
        "<domain type='qemu'><name>win2022</name><memory>2097152</memory><vcpu>2</vcpu>"
        "<os><type arch='x86_64'>hvm</type></os><devices>"
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>"
        "<target dev='sda' bus='sata'/></disk></devices></domain>"
    )
    return file


def _data(rows: list[Row]) -> Mapping[str, object]:
    return {
        "guest": "a phony Windows Server 2022, BIOS",
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "acceleration": acceleration(),
        "rows": [asdict(row) for row in rows],
        "cpu_ratio": _ratio(rows, "cpu"),
        "wall_ratio": _ratio(rows, "wall"),
        "aim": AIM,
    }


def _ratio(rows: list[Row], what: str) -> float | None:
    """How many times less; None unless both came to their end: a peer that failed early is no figure."""
    ours, theirs = rows[0].cost, rows[1].cost
    if ours.status or theirs.status:
        return None
    return round(float(getattr(theirs, what)) / float(getattr(ours, what)), 1)


def _table(rows: list[Row]) -> str:
    data = _data(rows)
    head = ("CPU s", "wall s", "peak MiB", "written MiB", "changed MiB", "exit", "boot driver")
    lines = ["{guest}; {date}, {cores} cores, {acceleration}".format_map(data), _line("", head)]
    for row in rows:
        cost = row.cost
        sizes = (cost.memory, cost.written, row.changed)
        cells = (f"{cost.cpu:.2f}", f"{cost.wall:.2f}", *(f"{size / MIB:.1f}" for size in sizes))
        lines.append(_line(row.tool, (*cells, str(cost.status), "yes" if row.boot_driver else "no")))
    if data["cpu_ratio"]:
        lines.append(f"CPU: {data['cpu_ratio']} times less, wall: {data['wall_ratio']} (aim: {AIM})")
    else:
        lines.append("no ratio: one did not succeed")
    return "\n".join(lines)


def _line(name: str, cells: tuple[str, ...]) -> str:
    return f"{name:<18}" + "".join(f"{cell:>13}" for cell in cells)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
