"""Driver files in the controller, kept by the hash of their list: what was pushed once is not pushed again.

They arrive as a plain zip; the folder gets its name only when every file of the choice, and none besides,
is in it with its size and checksum, and durable.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Sequence

from refloat.controller.paths import Paths
from refloat.durable import sync_directory
from refloat.errors import Failed, Refused
from refloat.model import DriverFile

RESERVE = 64 << 20  # bytes that the controller's own disk keeps free
_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}(?:/[A-Za-z0-9_-][A-Za-z0-9._+-]{0,99}){0,3}")
_ARCHIVE = re.compile(r"[0-9a-f]{64}")


def list_hash(files: Sequence[DriverFile]) -> str:
    """Names a choice: equal for the same files with the same content, in any order."""
    lines = sorted(f"{file.sha256} {file.size} {file.path}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def kept(paths: Paths, files: Sequence[DriverFile]) -> str:
    """The folder that holds these files, or "". Refused (no_space) where they would find no room."""
    folder = os.path.join(paths.drivers, list_hash(files))
    if os.path.isdir(folder):
        return folder
    needed = 2 * sum(file.size for file in files) + RESERVE  # the archive and what is unpacked from it
    if paths.free() < needed:
        raise Refused(
            f"the controller's own disk has {paths.free() >> 20} MiB free, drivers need {needed >> 20} MiB",
            code="no_space",
            hint="give the controller's own disk more room",
        )
    return ""


def unpack(paths: Paths, files: Sequence[DriverFile], archive: str) -> str:
    """The folder with these files, out of the pushed archive with this hash. Folders of other choices go:
    the target's one guest needs them no more. Raises Failed (drivers_damaged)."""
    if not _ARCHIVE.fullmatch(archive):
        raise Refused(f"{archive!r} is no hash of an archive", code="bad_request")
    file = os.path.join(paths.drivers, f"{archive}.zip")
    folder = os.path.join(paths.drivers, list_hash(files))
    draft = f"{folder}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _write_all(file, files, draft)
        os.rename(draft, folder)
        sync_directory(paths.drivers)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.unlink(file)
    for name in os.listdir(paths.drivers):
        other = os.path.join(paths.drivers, name)
        if os.path.isdir(other) and other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def _write_all(archive: str, files: Sequence[DriverFile], draft: str) -> None:
    try:
        with zipfile.ZipFile(archive) as packed:
            if sorted(packed.namelist()) != sorted(file.path for file in files):
                raise _damaged("it holds other files than were chosen")
            for file in files:
                _write(draft, file, _content(packed, file))
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _damaged(str(error)) from error


def _content(packed: zipfile.ZipFile, file: DriverFile) -> bytes:
    if not _PATH.fullmatch(file.path):
        raise _damaged(f"{file.path!r} is no name of a driver's file")
    with packed.open(file.path) as stream:
        content = stream.read(file.size + 1)
    if len(content) != file.size or hashlib.sha256(content).hexdigest() != file.sha256:
        raise _damaged(f"{file.path} is not what was chosen")
    return content


def _write(draft: str, file: DriverFile, content: bytes) -> None:
    path = os.path.join(draft, file.path)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "xb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    sync_directory(os.path.dirname(path))


def _damaged(why: str) -> Failed:
    return Failed(
        f"the drivers did not arrive in the controller as they were chosen: {why}",
        code="drivers_damaged",
        hint="start again; look at the controller's own disk if it happens again",
    )
