"""Adapting the lab's guest image: Refloat (direct mount) against virt-v2v-in-place, on copies, in one run."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from refloat.command import run
from refloat.lab.images import source_image
from refloat.lab.layout import MIB
from tests.system.machine import boots_to

LOGIN = b"lab-web login:"
ALERT = b"ALERT!"
# libguestfs builds its appliance from this machine's packages, its kernel included.
PEER_PACKAGES = "virt-v2v nbdkit libguestfs-tools linux-image-amd64"


@dataclass
class Figures:
    """`cpu` and `wall` in seconds, `memory` (largest single process) and `written` in bytes."""

    tool: str
    cpu: float
    wall: float
    memory: int
    written: int
    status: int
    boots: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    parser.add_argument("--no-boot", action="store_true", help="do not boot the results")
    options = parser.parse_args()
    peer = shutil.which("virt-v2v-in-place") or "/usr/libexec/virt-v2v-in-place"
    if not Path(peer).exists() or not shutil.which("nbdkit"):
        sys.exit(f"virt-v2v-in-place is not ready: apt-get install {PEER_PACKAGES}")
    images = source_image(lambda line: print(line, file=sys.stderr))
    with tempfile.TemporaryDirectory(prefix="refloat-bench-") as name:
        ours = _copy(images.system, images.data, Path(name) / "refloat")
        theirs = _copy(images.system, images.data, Path(name) / "virt-v2v")
        rows = [
            _measure("refloat", [sys.executable, "-m", "bench.adapt_once", *map(str, ours)], {}),
            _measure("virt-v2v-in-place", [peer, "-i", "libvirtxml", str(_domain(theirs))], _appliance()),
        ]
        if not options.no_boot:
            for row, disks in zip(rows, (ours, theirs), strict=True):
                row.boots = _boots(disks, Path(name))
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else _table(rows))


def _copy(system: Path, data: Path, directory: Path) -> tuple[Path, Path]:
    directory.mkdir()
    copies = (directory / "sda.raw", directory / "sdb.raw")
    for source, copy in zip((system, data), copies, strict=True):
        run(["cp", "--sparse=always", str(source), str(copy)])
    return copies


def _domain(disks: tuple[Path, Path]) -> Path:
    """The peer is told both disks, as Refloat is: the guest's fstab names the second one."""
    rows = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>"
        f"<target dev='{disk.stem}' bus='scsi'/></disk>"
        for disk in disks
    )
    file = disks[0].parent / "guest.xml"
    file.write_text(
        "<domain type='qemu'><name>lab-web</name><memory>786432</memory><vcpu>2</vcpu>"
        f"<os><type arch='x86_64'>hvm</type></os><devices>{rows}</devices></domain>"
    )
    return file


def _appliance() -> dict[str, str]:
    usable = {"vmx", "svm"} & set(Path("/proc/cpuinfo").read_text().split())
    return {
        "LIBGUESTFS_BACKEND": "direct",
        **({} if usable else {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}),
    }


def _measure(tool: str, argv: list[str], environment: dict[str, str]) -> Figures:
    started = time.monotonic()
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, env={**os.environ, **environment}
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    return Figures(
        tool=tool,
        cpu=usage.ru_utime + usage.ru_stime,
        wall=wall,
        memory=usage.ru_maxrss * 1024,
        written=usage.ru_oublock * 512,
        status=os.waitstatus_to_exitcode(status),
        boots=False,
    )


def _boots(disks: tuple[Path, Path], directory: Path) -> bool:
    try:
        return boots_to(disks[0], directory, good=LOGIN, bad=ALERT, more=disks[1:]) == LOGIN
    except AssertionError as error:
        print(error, file=sys.stderr)
        return False


def _table(rows: list[Figures]) -> str:
    lines = [f"{'':<20}{'CPU s':>9}{'wall s':>9}{'MiB':>7}{'written MiB':>13}{'exit':>6}{'boots':>7}"]
    for row in rows:
        lines.append(
            f"{row.tool:<20}{row.cpu:>9.2f}{row.wall:>9.2f}{row.memory / MIB:>7.0f}"
            f"{row.written / MIB:>13.1f}{row.status:>6}{'yes' if row.boots else 'no':>7}"
        )
    lines.append(f"CPU ratio: {rows[1].cpu / rows[0].cpu:.0f} times less")
    return "\n".join(lines)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
