"""The operator's driver set: a virtio-win ISO, or a folder with its files.

It is read where the hub runs. What is chosen for a guest goes to the controller as a folder of plain files,
with the checksums that the choice has recorded. A set may be hostile: names, sizes, counts and depths are
bounded, and symlinks are left out.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refloat.errors import Refused
from refloat.guest.windows import drivers
from refloat.guest.windows.versions import Version, row_of
from refloat.model import DriverChoice, DriverFile

FILES = 50_000  # entries of a set; virtio-win has four thousand
DEPTH = 12
_NAME = 255  # bytes
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class DriverSet:
    """An opened set: `files` are its regular files, path below it -> size in bytes. `sha256` is the ISO's;
    for a folder that of the list of its files with their sizes."""

    source: str
    sha256: str
    files: Mapping[str, int]
    read: drivers.Read


@contextmanager
def opened(path: Path) -> Iterator[DriverSet]:
    """The set at `path`. Raises Refused (drivers_source) for what is neither a folder nor an ISO."""
    if path.is_dir():
        yield _folder(path)
    elif path.is_file():
        with _iso(path) as one:
            yield one
    else:
        raise Refused(
            f"there is no driver set at {path}",
            code="drivers_source",
            hint="download virtio-win.iso from the virtio-win project and set `drivers` to it",
        )


def choose(path: Path, version: str, architecture: str) -> DriverChoice:
    """What the set at `path` has for a guest: `version` and `architecture` as in WindowsFacts.

    Raises Refused: drivers_missing, drivers_damaged or drivers_ambiguous with what to do.
    """
    with opened(path) as one:
        return _choice(one, row_of(version), architecture)[0]


def contents(path: Path, choice: DriverChoice, version: str) -> dict[str, bytes]:
    """The chosen files: path in the choice -> content. Raises Refused (drivers_changed) if the set is another
    by now than when the drivers were chosen."""
    with opened(path) as one:
        now, found = _choice(one, row_of(version), choice.architecture)
    if now.files != choice.files:
        raise Refused(
            f"the driver set {path} was changed since the drivers were chosen",
            code="drivers_changed",
            hint="start again: the drivers are then chosen from the new set",
        )
    return found


def extract(path: Path, choice: DriverChoice, version: str, directory: Path) -> None:
    """Writes the chosen files below `directory`, which is made. Raises as contents() does, before that."""
    for file, content in contents(path, choice, version).items():
        target = directory / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _choice(one: DriverSet, version: Version, architecture: str) -> tuple[DriverChoice, dict[str, bytes]]:
    chosen = drivers.choose(one.source, one.files, one.read, version, architecture)
    found = {path: one.read(inside, drivers.FILE_LIMIT) for path, inside in chosen.paths.items()}
    files = tuple(
        DriverFile(path, len(content), hashlib.sha256(content).hexdigest()) for path, content in found.items()
    )
    choice = DriverChoice(
        source=one.source,
        sha256=one.sha256,
        folder=chosen.folder,
        architecture=architecture,
        files=files,
        versions=dict(chosen.versions),
        warnings=chosen.warnings,
    )
    return choice, found


# ---------------------------------------------------------------- a folder


def _folder(root: Path) -> DriverSet:
    """Every path is resolved from the folder's own descriptor, component by component, without symlinks."""
    files: dict[str, int] = {}
    _list_folder(root, "", files, 0)
    listed = "".join(f"{size} {path}\n" for path, size in sorted(files.items()))
    digest = hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
    return DriverSet(str(root), digest, files, lambda path, limit: _read_below(root, path, limit))


def _list_folder(root: Path, inside: str, files: dict[str, int], depth: int) -> None:
    _check_bounds(str(root), len(files), depth)
    try:
        with os.scandir(root / inside) as entries:
            for entry in entries:
                path = f"{inside}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    _list_folder(root, path, files, depth + 1)
                elif entry.is_file(follow_symlinks=False):
                    files[path] = entry.stat(follow_symlinks=False).st_size
                    _check_bounds(str(root), len(files), depth)
    except OSError as error:
        raise _unreadable(str(root), error.strerror or str(error)) from error


def _read_below(root: Path, path: str, limit: int) -> bytes:
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *folders, name = path.split("/")
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = below
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        with open(fd, "rb") as handle:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _unreadable(str(root), f"{path} is not a regular file")
            return _bounded(handle.read(limit + 1), path, limit)
    except OSError as error:
        raise _unreadable(str(root), f"{path}: {error.strerror}") from error
    finally:
        os.close(directory)


# ---------------------------------------------------------------- an ISO


@contextmanager
def _iso(path: Path) -> Iterator[DriverSet]:
    import pycdlib  # here, not above: the command line must answer --help quickly

    _check_whole(path)
    iso = pycdlib.PyCdlib()
    try:
        iso.open(str(path))
    except Exception as error:  # whatever its parser stumbles over: the file is then no ISO for us
        raise _unreadable(
            str(path), f"it is no ISO 9660 image that can be read: {error}", unpack=True
        ) from error
    try:
        files = _list_iso(iso, str(path))
        records = {name: record for name, (record, _) in files.items()}
        sizes = {name: size for name, (_, size) in files.items()}
        yield DriverSet(
            str(path),
            _sha256(path),
            sizes,
            lambda name, limit: _read_iso(iso, records[name], sizes[name], name, limit),
        )
    finally:
        with suppress(pycdlib.pycdlibexception.PyCdlibException):
            iso.close()


def _check_whole(path: Path) -> None:
    """Whether the file is as long as its volume descriptor says: files beyond its end would be read short.
    ECMA-119, 8.4.8: the number of logical blocks, of 2,048 bytes here as everywhere."""
    with path.open("rb") as handle:
        handle.seek(16 * 2048)
        descriptor = handle.read(2048)
    blocks = int.from_bytes(descriptor[80:84], "little")
    if descriptor[1:6] == b"CD001" and blocks * 2048 > path.stat().st_size:
        raise _unreadable(str(path), "it is cut off: its download was not complete")


def _list_iso(iso: Any, source: str) -> dict[str, tuple[dict[str, str], int]]:
    """The regular files: path -> (how the library names it, size). Rock Ridge's names where there are such,
    else Joliet's, else UDF's, else the plain ones, which may be cut to 8.3 letters."""
    kind = next(
        kind
        for kind, there in (
            ("rr_path", iso.has_rock_ridge()),
            ("joliet_path", iso.has_joliet()),
            ("udf_path", iso.has_udf()),
            ("iso_path", True),
        )
        if there
    )
    files: dict[str, tuple[dict[str, str], int]] = {}
    pending = [("/", 0)]
    try:
        while pending:
            folder, depth = pending.pop()
            _check_bounds(source, len(files) + len(pending), depth)
            for record in iso.list_children(**{kind: folder}):
                name = None if record is None else _name_of(record, kind)
                if name is None:
                    continue
                full = f"{folder.rstrip('/')}/{name}"
                if record.is_dir():
                    pending.append((full, depth + 1))
                elif record.is_file() and not _is_symlink(record, kind):
                    plain = _without_version(full) if kind == "iso_path" else full
                    files[plain.lstrip("/")] = ({kind: full}, int(record.get_data_length()))
    except Refused:
        raise
    except Exception as error:
        raise _unreadable(source, f"its folders cannot be read: {error}", unpack=True) from error
    return files


def _name_of(record: Any, kind: str) -> str | None:
    """The name of an entry; None for "." and ".." and for what no path may hold."""
    if kind == "rr_path":
        raw = record.rock_ridge.name() if record.rock_ridge else b""
    else:
        raw = record.file_identifier()
    encoding = {"joliet_path": "utf-16-be"}.get(kind, "utf-8")
    try:
        name = str(raw.decode(encoding))
    except UnicodeDecodeError:
        return None
    if name in ("", ".", "..", "\0", "\1") or len(name) > _NAME or any(bad in name for bad in "/\\\0"):
        return None
    return name


def _is_symlink(record: Any, kind: str) -> bool:
    return kind == "rr_path" and bool(record.rock_ridge.is_symlink())


def _without_version(path: str) -> str:
    """ "VIOSTOR.INF;1" is "VIOSTOR.INF"."""
    return path.partition(";")[0].rstrip(".")


def _read_iso(iso: Any, record: dict[str, str], size: int, name: str, limit: int) -> bytes:
    _bounded(b"", name, limit, size)
    content = io.BytesIO()
    try:
        iso.get_file_from_iso_fp(content, **record)
    except Exception as error:
        raise _unreadable(name, f"it cannot be read out of the ISO: {error}", unpack=True) from error
    return _bounded(content.getvalue(), name, limit)


# ---------------------------------------------------------------- small things


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _bounded(content: bytes, path: str, limit: int, size: int = 0) -> bytes:
    if max(len(content), size) > limit:
        raise Refused(
            f"{path} of the driver set has more than {limit} bytes",
            code="drivers_damaged",
            hint="use a driver set as virtio-win publishes it",
        )
    return content


def _check_bounds(source: str, count: int, depth: int) -> None:
    if count > FILES or depth > DEPTH:
        raise Refused(
            f"{source} has more than {FILES} files, or folders more than {DEPTH} deep: no driver set has",
            code="drivers_source",
            hint="set `drivers` to a virtio-win ISO, or to the folder that has its files",
        )


def _unreadable(source: str, why: str, *, unpack: bool = False) -> Refused:
    hint = "compare its checksum with the publisher's"
    if unpack:
        hint += "; or unpack it into a folder (bsdtar -xf) and set `drivers` to that"
    return Refused(f"the driver set {source} cannot be read: {why}", code="drivers_source", hint=hint)
