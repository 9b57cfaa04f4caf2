"""Serves a snapshot's disks over NBD with the program that the operator names: nbdkit with VMware's VDDK,
which is not free to distribute. See docs/vsphere.md.

The password goes to it in a file of mode 0600 that is removed as soon as all programs have read it; the
programs end with the hub, however that ends.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from refloat.command import CommandFailed, Service
from refloat.errors import Failed, RefloatError, Refused
from refloat.sources.vsphere_hardware import VmDisk
from refloat.sources.vsphere_session import thumbprint
from refloat.sources.vsphere_settings import VsphereSettings
from refloat.sync.nbd import connected, unix_uri

_STARTS_WITHIN = 60.0  # seconds
_ENDS_WITHIN = 10.0
_TAIL = 800


@dataclass(frozen=True)
class _Reader:
    service: Service
    uri: str
    label: str


@contextmanager
def readers(
    settings: VsphereSettings, certificate: bytes, vm: str, snapshot: str, disks: Sequence[VmDisk]
) -> Iterator[dict[int, str]]:
    """NBD URIs by the disk's key. `vm` and `snapshot` are managed object ids. Errors while they are in use
    get what the programs said."""
    if not settings.reader:
        raise Refused(
            f"{settings.name} names no program that reads its disks",
            code="no_reader",
            hint="add `reader` to the site: docs/vsphere.md has the command for nbdkit and VDDK",
        )
    directory = _directory(settings.name, vm)
    words = {
        "server": settings.server,
        "port": str(settings.port),
        "user": settings.user,
        "password_file": str(directory / "password"),
        "thumbprint": _colons(thumbprint(certificate, 40)),
        "thumbprint_sha256": _colons(thumbprint(certificate, 64)),
        "vm": vm,
        "snapshot": snapshot,
    }
    password = settings.password.read()
    started: list[_Reader] = []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        _write_secret(directory / "password", password)
        for disk in disks:
            started.append(_start(settings, directory, disk, words))
            stack.callback(_stop, started[-1].service)
        try:
            for disk, reader in zip(disks, started, strict=True):
                _wait(reader, directory / f"{disk.key}.sock")
            (directory / "password").unlink()
            yield {disk.key: reader.uri for disk, reader in zip(disks, started, strict=True)}
        except RefloatError as error:
            _explain(error, started, password)
            raise


def _directory(site: str, vm: str) -> Path:
    """Always the same for a VM, so that what a killed run left goes; two sites may give one id to two VMs.
    Short: a socket's path has at most 107 bytes."""
    base = Path("/run") if os.geteuid() == 0 else Path(tempfile.gettempdir())
    directory = base / f"refloat-vddk-{os.getuid()}" / f"{vm}-{zlib.crc32(site.encode()):08x}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    if directory.parent.stat().st_uid != os.geteuid() or directory.parent.is_symlink():
        raise Failed(f"{directory.parent} belongs to somebody else", code="socket_dir", hint="remove it")
    directory.mkdir(mode=0o700)
    return directory


def _write_secret(file: Path, text: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)


def _start(settings: VsphereSettings, directory: Path, disk: VmDisk, words: Mapping[str, str]) -> _Reader:
    socket_path = directory / f"{disk.key}.sock"
    values = {**words, "disk": disk.path, "socket": str(socket_path)}
    argv = [word.format(**values) for word in settings.reader]
    if shutil.which(argv[0]) is None:
        raise Refused(
            f"program not found: {argv[0]}",
            code="program_missing",
            hint="install it, or mend `reader` of the site: docs/vsphere.md",
        )
    return _Reader(Service(argv), unix_uri(str(socket_path), ""), disk.label)


def _wait(reader: _Reader, socket_path: Path) -> None:
    """Until it serves the disk: a program that listens may still find that it cannot open it."""
    reader.service.wait_until(lambda: _listens(socket_path), _STARTS_WITHIN)
    with connected(reader.uri):
        pass


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(str(path))
        except OSError:
            return False
    return True


def _explain(error: RefloatError, readers: Sequence[_Reader], password: str) -> None:
    """What the programs said, in the error; never the password, whoever says it."""
    said = [f"{one.label}: {tail}" for one in readers if (tail := one.service.errors()[-_TAIL:].strip())]
    message = error.message
    if said and not isinstance(error, CommandFailed):  # which says it itself
        message = f"{message}; the reader says: {'; '.join(said)}"
    error.message = message.replace(password, "***")
    error.hint = error.hint.replace(password, "***")
    error.args = (error.message,)


def _stop(service: Service) -> None:
    """It has nothing to save."""
    try:
        service.stop(_ENDS_WITHIN)
    except Failed:
        return  # killed


def _colons(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()
