"""Files that are either the old content or the new, whatever is pulled when. Used on both sides."""

from __future__ import annotations

import os
from contextlib import suppress


def write_durably(path: str | os.PathLike[str], content: bytes | bytearray) -> None:
    """Replaces the file at once; when this returns the new content survives a power cut."""
    path = os.fspath(path)
    draft = f"{path}.new"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(draft, path)
    sync_directory(os.path.dirname(path))


def remove_durably(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
        sync_directory(os.path.dirname(path))


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Makes the names in this directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
