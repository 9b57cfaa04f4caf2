"""How long a final sync takes, by its dirty bytes: `python -m bench.final_sync`.

A disk of 20 GiB has been synced once; then 64 MiB, 256 MiB and 1 GiB of it change, in runs of 1 MiB all
over it, and are synced: the real engine, the controller's real commands, qemu-nbd on both sides and a
forward between them in a process of its own, as ssh's is. `transfer` goes on until everything is durable in
the delta, and the hashes at the hub; `merge` is the controller's; `whole` has all else, too.

The peer in the same run is `nbdcopy` of the same bytes, from an image that holds nothing else, through the
same forward into the same kind of delta, flushed. It hashes nothing and needs not find out what is dirty.
Aim: 0.9 of its speed, and time that follows the dirty bytes. Medians of three, taken in turn.
Needs nbdcopy (Debian: libnbd-bin), qemu-utils and 12 GiB of disk.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from refloat.controller.client import ControllerClient
from refloat.controller.exports import start_export, stop_exports
from refloat.controller.paths import Paths
from refloat.controller.records import Export, SyncStatus
from refloat.model import ReplicaDisk, SyncPoint, Target
from refloat.sources.offline import start_reader, stop_readers
from refloat.sync.engine import Progress, sync
from refloat.sync.nbd import unix_uri
from tests.unit.sync.rig import MIB, NOWHERE, FileSource, SparseLink

CAPACITY = 20 * 1024 * MIB
DIRTY = (64, 256, 1024)  # MiB
ROUNDS = 3
SERIAL = "replica"


class Link(SparseLink):
    @contextmanager
    def forward(self, port: int) -> Iterator[str]:
        with forwarded(self.root / f"forward-{port}", port) as path:
            yield path


class Controller(ControllerClient):
    """Notes when the engine may begin to send, when it orders the merge, and when that is done."""

    opened = ordered = merged = 0.0

    def sync_open(self, point: str, direct: bool, sizes: Mapping[str, int]) -> tuple[Export, ...]:
        exports = super().sync_open(point, direct, sizes)
        self.opened = time.perf_counter()
        return exports

    def sync_complete(self, point: str, progress: Progress | None = None) -> SyncStatus:
        self.ordered = time.perf_counter()
        status = super().sync_complete(point, progress)
        self.merged = time.perf_counter()
        return status


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.source = FileSource(directory, {"sda": CAPACITY})
        self.link = Link(directory, {SERIAL: CAPACITY})
        self.controller = Controller(
            NOWHERE, lambda: ("127.0.0.1", 22), directory, self.link, str(self.link.root / "code")
        )
        disks = (ReplicaDisk("sda", SERIAL),)
        self.target = Target("t", "here", "vm", "there", "controller", NOWHERE, disks, "default")
        self.last: SyncPoint | None = None
        self.pattern = directory / "pattern"
        self.pattern.write_bytes(os.urandom(MIB))

    def sync(self) -> dict[str, float]:
        begun = time.perf_counter()
        self.last = sync(
            source=self.source,
            controller=self.controller,
            target=self.target,
            state_dir=self.directory / "hub",
            last=self.last,
        )
        made = self.controller
        return {
            "transfer": made.ordered - made.opened,
            "merge": made.merged - made.ordered,
            "whole": time.perf_counter() - begun,
        }

    def dirty(self, image: Path, count: int) -> None:
        """`count` MiB, a MiB at a time, evenly over the disk."""
        step = CAPACITY // count // MIB * MIB
        writes = [f"write -s {self.pattern} {index * step} {MIB}" for index in range(count)]
        words = [word for write in writes for word in ("-c", write)]
        _run("qemu-io", "-f", "qcow2", *words, str(image))
        _run("sync")

    def nbdcopy(self, image: Path) -> float:
        """Seconds, from one export to the other."""
        paths = Paths(root=str(self.directory / "peer"))
        base, delta = self.link.dev / "vdb", self.directory / "peer.qcow2"
        _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(delta))
        readers = self.directory / "peer-readers"
        readers.mkdir(exist_ok=True)
        port = self.link.port
        start_export(paths, SERIAL, port, str(delta), "qcow2")
        try:
            source = unix_uri(start_reader(readers, "sda", str(image), "qcow2", None), "sda")
            with forwarded(self.directory / "peer-forward", port) as path:
                begun = time.perf_counter()
                _run("nbdcopy", "--flush", "--destination-is-zero", source, unix_uri(path, SERIAL))
                return time.perf_counter() - begun
        finally:
            stop_readers(readers)
            stop_exports(paths)
            delta.unlink()


@contextmanager
def forwarded(path: Path, port: int) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "bench.forward", str(path), str(port)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it listens
        try:
            yield str(path)
        finally:
            process.terminate()
            path.unlink()


def measured(bench: Bench, count: int) -> dict[str, float]:
    rounds: dict[str, list[float]] = {}
    image = bench.directory / "same-bytes.qcow2"
    _run("qemu-img", "create", "-q", "-f", "qcow2", str(image), str(CAPACITY))
    bench.dirty(image, count)
    for _ in range(ROUNDS):
        bench.dirty(bench.source.files["sda"], count)
        for name, seconds in {**bench.sync(), "nbdcopy": bench.nbdcopy(image)}.items():
            rounds.setdefault(name, []).append(seconds)
        assert bench.last is not None and bench.last.transferred == count * MIB
    figures = {name: round(statistics.median(values), 2) for name, values in rounds.items()}
    image.unlink()
    return {**figures, "speed of nbdcopy": round(figures["nbdcopy"] / figures["transfer"], 2)}


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    if shutil.which("nbdcopy") is None:
        raise SystemExit("nbdcopy is missing: apt-get install libnbd-bin")
    with tempfile.TemporaryDirectory(prefix="refloat-bench-") as directory:
        bench = Bench(Path(directory))
        bench.sync()
        print(json.dumps({f"{count} MiB": measured(bench, count) for count in DIRTY}, indent=2))


if __name__ == "__main__":
    main()
