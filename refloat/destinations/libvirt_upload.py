"""New volumes with content, through libvirt's storage API alone: the pool may be on another host."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import libvirt

from refloat.errors import Refused
from refloat.libvirt_connection import libvirt_errors

_CHUNK = 1 << 20  # libvirt splits it as its protocol needs
_QCOW2 = b"QFI\xfb"


def raw_size(image: Path) -> int:
    """Bytes of a raw disk image on this host. Raises Refused for anything else."""
    try:
        with image.open("rb") as handle:
            start = handle.read(512)
        size = image.stat().st_size
    except OSError as error:
        raise Refused(
            f"the controller's image {image} cannot be read: {error.strerror}",
            code="no_image",
            hint="`refloat lab image FILE` makes one",
        ) from error
    if start[:4] == _QCOW2 or start[510:512] != b"\x55\xaa" or size % 512:
        raise Refused(
            f"{image} is no raw disk image",
            code="bad_image",
            hint="`refloat lab image FILE` makes one; qemu-img convert -O raw turns another format into it",
        )
    return size


def volume_xml(name: str, capacity: int) -> str:
    """A raw volume that takes space only where it is written. `capacity` in bytes."""
    volume = ET.Element("volume")
    ET.SubElement(volume, "name").text = name
    ET.SubElement(volume, "capacity", unit="bytes").text = str(capacity)
    ET.SubElement(volume, "allocation", unit="bytes").text = "0"
    ET.SubElement(ET.SubElement(volume, "target"), "format", type="raw")
    return ET.tostring(volume, encoding="unicode")


def upload_image(connection: libvirt.virConnect, volume: libvirt.virStorageVol, image: Path) -> None:
    """The whole image into the volume; holes of the file are sent as holes."""
    size = image.stat().st_size
    sparse = libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM
    with image.open("rb") as handle, _stream(connection, f"upload {image}") as stream:
        volume.upload(stream, 0, size, sparse)
        at = 0
        for start, end in _data(handle.fileno(), size):
            if start > at:
                stream.sendHole(start - at)
            _send(stream, handle.fileno(), start, end)
            at = end
        if size > at:
            stream.sendHole(size - at)


def upload_at(
    connection: libvirt.virConnect, volume: libvirt.virStorageVol, offset: int, content: bytes
) -> None:
    """Writes `content` at `offset` of a raw volume."""
    with _stream(connection, f"write to {volume.name()}") as stream:
        volume.upload(stream, offset, len(content))
        view = content
        while view:
            view = view[stream.send(view) :]


@contextmanager
def _stream(connection: libvirt.virConnect, what: str) -> Iterator[libvirt.virStream]:
    """Finished when the block ends well: only then is everything written. Else aborted."""
    with libvirt_errors(what):
        stream = connection.newStream()
        try:
            yield stream
            stream.finish()
        except BaseException:
            with suppress(libvirt.libvirtError):
                stream.abort()
            raise


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges of the file that are no holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, at


def _send(stream: libvirt.virStream, fd: int, start: int, end: int) -> None:
    while start < end:
        chunk = os.pread(fd, min(_CHUNK, end - start), start)
        sent = 0
        while sent < len(chunk):
            sent += stream.send(chunk[sent:])
        start += len(chunk)
