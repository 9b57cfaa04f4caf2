"""Disk images of any format as raw files: by qemu-storage-daemon, which shows them through FUSE.

A look or a dry run happens on an overlay that is thrown away: the image itself is opened read-only then.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from refloat.command import CommandFailed, Service, run
from refloat.errors import Refused
from refloat.standalone.headers import extents

FORMATS = frozenset({"raw", "qcow2", "vmdk", "vhdx"})
_TIMEOUT = 60.0
_LET_GO = 5.0  # seconds in which an image that is in use may become free


@dataclass(frozen=True)
class Image:
    """One disk of a guest. `capacity` is what the guest sees, in bytes."""

    path: Path
    format: str
    capacity: int


def look(path: Path, image_format: str = "") -> Image:
    """What an image is. Raises Refused for what is no disk image, or leads to other files of this host."""
    try:
        status = path.stat()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", code="bad_image", hint="name the guest's disk images")
    if stat.S_ISBLK(status.st_mode):
        return Image(path, "raw", _device_size(path))
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"{path} is neither a file nor a block device", code="bad_image")
    if image_format != "raw":
        for extent in extents(path):  # before QEMU opens them
            _check_extent(path, path.parent / extent)
    argv = ["qemu-img", "info", "--output=json", "--force-share"]
    argv += ["-f", image_format] if image_format else []
    done = run([*argv, str(path.absolute())], timeout=_TIMEOUT, check=False)
    if done.returncode != 0:
        raise Refused(
            f"{path} cannot be read as a disk image: {done.stderr.decode(errors='replace').strip()}",
            code="bad_image",
            hint="if it is a raw disk, say --format raw",
        )
    facts = json.loads(done.stdout)
    _check(path, facts)
    return Image(path, facts["format"], int(facts["virtual-size"]))


def _check(path: Path, facts: dict[str, object]) -> None:
    """Images come from strangers: one that names other files could show files of this host to the guest."""
    if facts["format"] not in FORMATS:
        raise Refused(
            f"{path} is a {facts['format']} image; {', '.join(sorted(FORMATS))} can be adapted",
            code="bad_image",
            hint="convert it with `qemu-img convert -O qcow2`",
        )
    details = facts.get("format-specific")
    data = details.get("data", {}) if isinstance(details, dict) else {}
    for name in ("backing-filename", "full-backing-filename"):
        if facts.get(name):
            raise Refused(
                f"{path} is an overlay over {facts[name]}",
                code="bad_image",
                hint="flatten it with `qemu-img convert -O qcow2`: the whole disk must be in one image",
            )
    if isinstance(data, dict) and data.get("data-file"):
        raise Refused(f"{path} keeps its data in {data['data-file']}", code="bad_image")
    if isinstance(data, dict) and data.get("create-type") == "streamOptimized":
        raise Refused(
            f"{path} is a stream-optimized vmdk, which cannot be written",
            code="bad_image",
            hint="convert it with `qemu-img convert -O qcow2`",
        )
    for extent in data.get("extents", ()) if isinstance(data, dict) else ():
        _check_extent(path, Path(str(extent["filename"])))


def _check_extent(path: Path, extent: Path) -> None:
    """A vmdk's descriptor names the files with its content, which may be any of this host: taken are those
    that lie beside it under its own name (disk.vmdk: disk-flat.vmdk, disk-s001.vmdk)."""
    image, real = path.resolve(), extent.resolve()
    own = real == image or real.name.startswith(f"{image.stem}-")
    if real.parent != image.parent or not own or (real.exists() and not real.is_file()):
        raise Refused(
            f"{path} keeps its data in {extent}, which is no file of its own",
            code="bad_image",
            hint=f"its parts lie beside it and are called {image.stem}-...; or convert it with"
            " `qemu-img convert -O qcow2` where it comes from",
        )


def _device_size(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


# ---------------------------------------------------------------- as raw files


@contextmanager
def opened(images: Sequence[Image], work: Path, *, writable: bool) -> Iterator[dict[str, str]]:
    """Key (sda, sdb, ...) -> a raw file or device that shows the image of that place.

    Without `writable` it takes writes, too, and forgets them. Raises Refused where another process uses
    an image for writing.
    """
    with ExitStack() as stack:
        yield {
            disk_key(index): stack.enter_context(_raw(image, work / disk_key(index), writable))
            for index, image in enumerate(images)
        }


def disk_key(index: int) -> str:
    return f"sd{chr(ord('a') + index)}"


@contextmanager
def _raw(image: Image, work: Path, writable: bool) -> Iterator[str]:
    work.mkdir(parents=True, exist_ok=True)
    target = work / "disk"
    target.touch()
    if writable:
        file, image_format = image.path, image.format
    else:
        file, image_format = work / "overlay.qcow2", "qcow2"
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", image.format]
        run([*argv, "-b", str(image.path.absolute()), str(file)], timeout=_TIMEOUT)
    with _daemon(image, file, image_format, target):
        yield str(target)


@contextmanager
def _daemon(image: Image, file: Path, image_format: str, target: Path) -> Iterator[None]:
    driver = "host_device" if _is_device(file) else "file"
    blockdevs = [
        {"driver": driver, "node-name": "file", "filename": str(file.absolute())},
        {"driver": image_format, "node-name": "disk", "file": "file", "discard": "unmap"},
    ]
    export = {
        "type": "fuse", "id": "export", "node-name": "disk", "mountpoint": str(target.absolute()),
        "writable": True, "growable": False,
    }  # fmt: skip
    nodes = [word for blockdev in blockdevs for word in ("--blockdev", json.dumps(blockdev))]
    service = _started(["qemu-storage-daemon", *nodes, "--export", json.dumps(export)], image, target)
    try:
        yield
    finally:
        service.stop()


def _started(argv: Sequence[str], image: Image, target: Path) -> Service:
    """The daemon, once it shows the image. One of a run that was killed may still be on its way out."""
    deadline = time.monotonic() + _LET_GO
    while True:
        service = Service(argv)
        try:
            service.wait_until(lambda: target.stat().st_size == image.capacity, _TIMEOUT)
            return service
        except CommandFailed as error:
            service.stop()
            if b"lock" not in error.stderr:
                raise
            if time.monotonic() > deadline:
                raise Refused(
                    f"{image.path} is in use by another process",
                    code="image_in_use",
                    hint="shut the VM down that runs from it",
                ) from error
            time.sleep(0.2)
        except BaseException:
            service.stop()
            raise


def _is_device(path: Path) -> bool:
    return stat.S_ISBLK(path.stat().st_mode)
