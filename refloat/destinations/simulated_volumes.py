"""Volumes of a simulated platform: raw files, and layers over them that hold the blocks written since.

snapshot   BASE <- BASE.TAG.layer (attached)
revert     BASE (attached), layer deleted
merge      the layer's blocks into BASE, BASE (attached), layer deleted
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from refloat.durable import sync_directory
from refloat.errors import Failed, Refused

BLOCK = 64 * 1024
_LAYER = ".layer"


class VolumeStore:
    """Volumes are named by their path, as libvirt does. `directory` holds them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def create(self, name: str, size: int) -> str:
        path = self.directory / name
        with path.open("xb") as handle:
            handle.truncate(size)
        return str(path)

    def owns(self, volume: str) -> bool:
        return Path(volume).parent == self.directory

    def require(self, volume: str) -> None:
        if not self.owns(volume) or not Path(volume).exists():
            raise Refused(
                f"there is no volume {volume} on this platform",
                code="no_such_volume",
                hint=f"its volumes lie in {self.directory}",
            )

    def base(self, volume: str) -> str:
        """The volume itself, or the one below a layer."""
        return volume.removesuffix(_LAYER).rpartition(".")[0] if volume.endswith(_LAYER) else volume

    def tag(self, volume: str) -> str:
        """Whose rollback point this layer is; "" for a plain volume."""
        return volume.removesuffix(_LAYER).rpartition(".")[2] if volume.endswith(_LAYER) else ""

    def stamp(self, volume: str) -> str:
        """Changes with every write to the base volume, and with nothing else."""
        status = os.stat(self.base(volume))
        return f"{status.st_mtime_ns}:{status.st_size}"

    def written(self, volume: str) -> int:
        return sum(BLOCK for _ in Path(volume).iterdir()) if volume.endswith(_LAYER) else 0

    # ------------------------------------------------------------ layers

    def add_layer(self, volume: str, tag: str) -> str:
        layer = Path(f"{volume}.{tag}{_LAYER}")
        shutil.rmtree(layer, ignore_errors=True)  # of a killed run: nothing uses it
        layer.mkdir()
        sync_directory(self.directory)
        return str(layer)

    def merge(self, layer: str) -> None:
        """Safe to repeat: the layer goes only after the last block."""
        with Path(self.base(layer)).open("r+b") as handle:
            for block in sorted(Path(layer).iterdir()):
                handle.seek(int(block.name) * BLOCK)
                handle.write(block.read_bytes())
            handle.flush()
            os.fsync(handle.fileno())
        self._touch(self.base(layer))

    def delete(self, volume: str) -> None:
        if not self.owns(volume):
            raise Refused(f"{volume} is no volume of this platform", code="not_ours")
        path = Path(volume)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------ a guest's reads and writes

    def size(self, volume: str) -> int:
        return os.stat(self.base(volume)).st_size

    def read(self, volume: str, offset: int, length: int) -> bytes:
        with Path(self.base(volume)).open("rb") as handle:
            handle.seek(offset)
            data = bytearray(handle.read(length))
        if volume.endswith(_LAYER):
            for index in range(offset // BLOCK, (offset + len(data) + BLOCK - 1) // BLOCK):
                block = Path(volume) / str(index)
                if block.exists():
                    _overlap(data, offset, block.read_bytes(), index * BLOCK)
        return bytes(data)

    def write(self, volume: str, offset: int, data: bytes) -> None:
        """Raises Failed beyond the volume's end. In a layer each touched block is written whole."""
        if offset + len(data) > self.size(volume):
            raise Failed(f"a write beyond the end of {volume}", code="simulated")
        if not volume.endswith(_LAYER):
            with Path(volume).open("r+b") as handle:
                handle.seek(offset)
                handle.write(data)
            self._touch(volume)
            return
        for index in range(offset // BLOCK, (offset + len(data) - 1) // BLOCK + 1):
            content = bytearray(self.read(volume, index * BLOCK, BLOCK))
            _overlap(content, index * BLOCK, data, offset)
            temporary = Path(f"{volume}.new")
            temporary.write_bytes(content)
            temporary.rename(Path(volume) / str(index))

    def _touch(self, volume: str) -> None:
        """The kernel's clock for files ticks every few milliseconds: two writes could leave one stamp."""
        before = os.stat(volume).st_mtime_ns
        os.utime(volume, ns=(before, max(time.time_ns(), before + 1)))


def _overlap(data: bytearray, at: int, other: bytes, other_at: int) -> None:
    """Puts what `other` (which lies at `other_at`) has of the range of `data` (at `at`) into it."""
    start, end = max(at, other_at), min(at + len(data), other_at + len(other))
    if start < end:
        data[start - at : end - at] = other[start - other_at : end - other_at]
