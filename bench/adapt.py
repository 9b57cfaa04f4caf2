"""Adapting the lab's guest image, or a guest of the tests' matrix: Refloat (direct mount) against
virt-v2v-in-place, on copies, in one run."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.cost import Cost, measure
from refloat.command import run
from refloat.lab import recipes
from refloat.lab.images import InjectedFile, personalise, root_partition, source_image
from refloat.lab.layout import MIB
from tests.guests.build import built
from tests.guests.matrix import MATRIX
from tests.system.machine import boots_to

LOGIN = b"lab-web login:"
ALERT = b"does not exist.  Dropping to a shell!"
AIM = 300  # times less CPU than the peer
# libguestfs builds its appliance from this machine's packages, its kernel included.
PEER_PACKAGES = "virt-v2v nbdkit libguestfs-tools linux-image-amd64"
_BLOCK = 4096

Disks = tuple[Path, ...]
# The guests that this machine's kernel can mount by itself.
GUESTS = {case.name: case for case in MATRIX if not case.in_controller}


@dataclass
class Row:
    """`changed`: bytes of the disks' blocks of 4 KiB that are other than the original's. `console`: the line
    that decided, when the result was booted from virtio-blk; empty: neither; None: not booted."""

    tool: str
    cost: Cost | None = None
    changed: int = 0
    console: str | None = None

    @property
    def boots(self) -> bool | None:
        return None if self.console is None else LOGIN.decode() in self.console


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    parser.add_argument("--no-boot", action="store_true", help="do not boot the results")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--by-uuid", action="store_true", help="an easier guest: it finds its disks by UUID")
    which.add_argument("--guest", choices=GUESTS, help="one of the tests' matrix, which are not booted here")
    options = parser.parse_args()
    peer = shutil.which("virt-v2v-in-place") or "/usr/libexec/virt-v2v-in-place"
    if not Path(peer).exists() or not shutil.which("nbdkit") or not shutil.which("guestfish"):
        sys.exit(f"virt-v2v-in-place is not ready: apt-get install {PEER_PACKAGES}")
    with tempfile.TemporaryDirectory(prefix="refloat-bench-") as name:
        original = _copy(_disks(options.guest), Path(name) / "original")
        if options.by_uuid:
            _find_disks_by_uuid(original[0])
        rows = _rows(original, peer, Path(name), boot=not (options.no_boot or options.guest))
    guest = options.guest or "the lab's guest" + (", its disks by UUID" if options.by_uuid else "")
    print(json.dumps(_data(rows, guest), indent=2) if options.json else _table(rows, guest))


def _disks(guest: str | None) -> Disks:
    if guest:
        return (built(GUESTS[guest]).disk,)
    images = source_image(_say)
    return (images.system, images.data)


def _rows(original: Disks, peer: str, directory: Path, boot: bool) -> list[Row]:
    ours, theirs = (_copy(original, directory / tool) for tool in ("refloat", "virt-v2v"))
    environment = appliance(directory / "appliance")
    rows = [
        Row("refloat", measure([sys.executable, "-m", "bench.adapt_once", *map(str, ours)], {})),
        Row("virt-v2v-in-place", measure([peer, "-i", "libvirtxml", str(_domain(theirs))], environment)),
        Row("not adapted"),
    ]
    for row, disks in zip(rows, (ours, theirs, original), strict=True):
        _say(f"looking at the result: {row.tool}")
        row.changed = sum(map(changed_bytes, original, disks)) if row.cost else 0
        row.console = _boot(disks, directory) if boot else None
    return rows


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _copy(original: Disks, directory: Path) -> Disks:
    directory.mkdir()
    copies = tuple(directory / f"sd{letter}.raw" for letter, _ in zip("ab", original, strict=False))
    for source, copy in zip(original, copies, strict=True):
        run(["cp", "--sparse=always", str(source), str(copy)])
    return copies


def _find_disks_by_uuid(system: Path) -> None:
    """The easier guest: no name of a disk in fstab or on the kernel's command line has to be mended."""
    root, data = f"UUID={recipes.SOURCE.fs_uuid}", f"UUID={recipes.DATA_UUID}"
    edits = {
        "/etc/fstab": {"/dev/sda1": root, "/dev/sdb1": data},
        "/etc/default/grub": {"GRUB_DISABLE_LINUX_UUID=true": "GRUB_DISABLE_LINUX_UUID=false"},
        "/boot/grub/grub.cfg": {"root=/dev/sda1": f"root={root}"},
    }
    offset, _ = root_partition(system)
    files = {}
    for path, words in edits.items():
        text = run(["debugfs", "-R", f"cat {path}", f"{system}?offset={offset}"]).stdout.decode()
        for old, new in words.items():
            if old not in text:
                sys.exit(f"the lab's guest has changed: no {old} in {path}")
            text = text.replace(old, new)
        files[path] = InjectedFile(text.encode())
    personalise(system, files)


def _domain(disks: Disks) -> Path:
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


def appliance(cache: Path) -> dict[str, str]:
    """The environment for the peer, its appliance built beforehand: that is made once for a machine."""
    _say("building the peer's appliance, which is not counted")
    cache.mkdir()
    environment = {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_CACHEDIR": str(cache),
        **({} if acceleration() == "kvm" else {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}),
    }
    run(["guestfish", "-a", "/dev/null", "run"], env=environment, timeout=600)
    return environment


def acceleration() -> str:
    """What the peer's appliance runs on. A /dev/kvm on a CPU that cannot virtualise proves nothing."""
    usable = {"vmx", "svm"} & set(Path("/proc/cpuinfo").read_text().split())
    return "kvm" if usable and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


def changed_bytes(original: Path, copy: Path) -> int:
    """Bytes in blocks that differ: what the result is, whoever wrote it and however often."""
    count = 0
    with original.open("rb") as before, copy.open("rb") as after:
        while old := before.read(MIB):
            new = after.read(MIB)
            if old != new:
                count += sum(old[at : at + _BLOCK] != new[at : at + _BLOCK] for at in range(0, MIB, _BLOCK))
    return count * _BLOCK


def _boot(disks: Disks, directory: Path) -> str:
    try:
        text = boots_to(disks[0], directory, good=LOGIN, bad=ALERT, more=disks[1:])
    except AssertionError as error:
        _say(str(error))
        return ""
    shown = (directory / "console.log").read_bytes().splitlines()
    return next(line for line in shown if text in line).decode("ascii", "replace").strip()


def _data(rows: list[Row], guest: str) -> dict[str, object]:
    return {
        "guest": guest,
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "acceleration": acceleration(),
        "rows": [{**asdict(row), "boots": row.boots} for row in rows],
        "cpu_ratio": _ratio(rows),
        "aim": AIM,
    }


def _ratio(rows: list[Row]) -> float | None:
    """How many times less CPU; None unless both came to their end: a peer that failed early is no figure."""
    ours, theirs = rows[0].cost, rows[1].cost
    if not ours or not theirs or ours.status or theirs.status:
        return None
    return round(theirs.cpu / ours.cpu, 1)


def _table(rows: list[Row], guest: str) -> str:
    data = _data(rows, guest)
    head = ("CPU s", "wall s", "peak MiB", "written MiB", "changed MiB", "exit", "boots")
    lines = ["{guest}; {date}, {cores} cores, {acceleration}".format_map(data), _line("", head)]
    for row in rows:
        boots = "-" if row.boots is None else "yes" if row.boots else "no"
        figures = _figures(row.cost, row.changed) if row.cost else ("-",) * 6
        lines.append(_line(row.tool, (*figures, boots)))
    lines += [f"{row.tool}, its console: {row.console or 'neither'}" for row in rows if row.boots is not None]
    ratio = data["cpu_ratio"]
    lines.append(f"CPU: {ratio} times less (aim: {AIM})" if ratio else "CPU: no ratio, one did not succeed")
    return "\n".join(lines)


def _figures(cost: Cost, changed: int) -> tuple[str, ...]:
    sizes = (f"{cost.memory / MIB:.0f}", f"{cost.written / MIB:.1f}", f"{changed / MIB:.1f}")
    return (f"{cost.cpu:.2f}", f"{cost.wall:.2f}", *sizes, str(cost.status))


def _line(name: str, cells: tuple[str, ...]) -> str:
    return f"{name:<18}" + "".join(f"{cell:>12}" for cell in cells)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
