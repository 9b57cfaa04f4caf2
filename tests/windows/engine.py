"""A controller that is no machine: the real guest engine on the image of a phony Windows disk, and the real
keeping of drivers, where a hub would reach them by SSH."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refloat.controller.kept_drivers import kept, unpack
from refloat.controller.paths import Paths
from refloat.guest.adapt import adapt
from refloat.guest.inspect import inspect
from refloat.model import (
    Adaptation,
    AdaptRequest,
    DiskBus,
    DriverFile,
    GuestFacts,
    NicModel,
    PlannedDisk,
    SourceDisk,
    SourceNic,
)
from tests.unit.builders import SOURCE, replace
from tests.unit.fakes import FakeController, World
from tests.windows import disks, driverset
from tests.windows.host import MtoolsHost

HOST = MtoolsHost()


class EngineController(FakeController):
    """`image` is the replica of the guest's one disk."""

    def __init__(self, image: Path, directory: Path) -> None:
        super().__init__()
        self.disk = str(image)
        self.run_dir = directory / "run"
        self.paths = Paths(str(directory / "controller"))

    def inspect(
        self, disks: Sequence[PlannedDisk], bus: DiskBus, nic: NicModel, luks_keys: dict[str, str]
    ) -> GuestFacts:
        return inspect({"sda": self.disk}, [disk.key for disk in disks], bus, nic, luks_keys, HOST)

    def drivers(self, files: Sequence[DriverFile], contents: Callable[[], Mapping[str, bytes]]) -> str:
        found = kept(self.paths, files)
        if found:
            return found
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, content in contents().items():
                archive.writestr(path, content)
        name = hashlib.sha256(buffer.getvalue()).hexdigest()
        Path(self.paths.drivers, f"{name}.zip").write_bytes(buffer.getvalue())
        return unpack(self.paths, files, name)

    def adapt(
        self, request: AdaptRequest, facts: GuestFacts, progress: Callable[[dict[str, Any]], None]
    ) -> Adaptation:
        self.request = request
        self.run_dir.mkdir(exist_ok=True)
        say = lambda what, figures: progress({"phase": what, **figures})  # noqa: E731
        done = adapt(request, {"sda": self.disk}, facts, self.run_dir, say, HOST)
        self.adapted += 1
        return done


def with_phony_windows(world: World, one: disks.Phony, directory: Path) -> EngineController:
    """The world's guest is what is on a phony disk, and its controller has the real engine."""
    image = disks.make(one, directory / "system.raw")
    controller = EngineController(image, directory)
    world.controller = controller
    world.source.vm = replace(
        SOURCE,
        firmware=one.firmware,
        disks=(SourceDisk("sda", image.stat().st_size, DiskBus.PVSCSI),),
        nics=(SourceNic(disks.MAC, NicModel.VMXNET3, "user"),),
    )
    world.drivers = driverset.write_folder(directory / "virtio-win", driverset.files())
    return controller


def staged_secrets(one: disks.Phony, image: Path) -> dict[str, str]:
    """Token and nonce as the guest will find them on its own disk."""
    offset, size = disks.place_of(one, one.system)
    with disks.mounted(image, offset, size, "ro") as root:
        lines = (root / "Windows/Refloat/secrets.txt").read_text("ascii").splitlines()
    return dict(line.partition("=")[::2] for line in lines)
