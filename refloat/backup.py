"""Backup and restore of everything that the hub remembers, in one file.

A backup is a gzip-compressed tar of the hub's folder: its two databases as SQLite's online backup has them,
the other files as they are, and at the end `manifest.json` with the SHA-256 of each. The key that seals
secrets is never in it.

A restore verifies all of it before anything is written. What it says of jobs is as old as the backup: of each
job that was not at its end then, the operator has to say what became of it, so that no restored hub does
again what was done since.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from refloat import __version__
from refloat.access import Audit
from refloat.clock import now
from refloat.config import Config
from refloat.durable import remove_durably, sync_directory, write_durably
from refloat.errors import Refused
from refloat.hub import RESTORING, only_hub
from refloat.jobs.engine import forget
from refloat.jobs.states import RELEASES
from refloat.model import FINAL, JobState
from refloat.store import KEY_FILE
from refloat.store.migrate import scripts
from refloat.store.place import JOBS_FILE, STORE_FILE
from refloat.store.seal import Keys
from refloat.store.store import Store

FORMAT = 1
MANIFEST = "manifest.json"
RESUME = "resume"
ENDS = {"committed": JobState.COMMITTED, "rolled_back": JobState.ROLLED_BACK}
_DATABASES = (STORE_FILE, JOBS_FILE)
_LONGEST_MANIFEST = 64 * 2**20
_READ = 2**20
_NOT_KEPT = frozenset({KEY_FILE, "hub.lock", RESTORING})


@dataclass(frozen=True)
class Manifest:
    """`members`: SHA-256 by name. `unfinished`: the state of each job that was not at its end, by its id."""

    at: str
    version: str
    revision: str
    members: dict[str, str]
    unfinished: dict[str, str]
    format: int = FORMAT


# ---------------------------------------------------------------- backup


def back_up(config: Config, file: Path) -> Manifest:
    """Beside a running hub or a stopped one. `file` appears whole or not at all, for its owner alone.

    Raises Refused (postgresql, nothing_to_back_up, file_exists)."""
    _require_sqlite(config, "pg_dump, and a copy of the folder")
    if not (config.data_dir / STORE_FILE).exists():
        raise Refused(
            f"{config.data_dir} has no store of a hub", code="nothing_to_back_up", hint="see `data_dir`"
        )
    if file.exists():
        raise Refused(f"{file} is there already", code="file_exists", hint="name a file that is not there")
    draft = file.with_name(f"{file.name}.new")
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".refloat-backup-") as scratch:
        copies = {name: Path(scratch) / name for name in _DATABASES if (config.data_dir / name).exists()}
        for name, copy in copies.items():
            _copy_database(config.data_dir / name, copy)
        revision, unfinished = _summary(copies[STORE_FILE])
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            with tarfile.open(fileobj=out, mode="w:gz", compresslevel=3) as tar:
                files = {**_files(config.data_dir), **copies}
                members = {name: digest for name in sorted(files) if (digest := _put(tar, name, files[name]))}
                manifest = Manifest(now(), __version__, revision, members, unfinished)
                _put_manifest(tar, manifest)
            out.flush()
            os.fsync(out.fileno())
    os.link(draft, file)  # never over one that has appeared meanwhile
    draft.unlink()
    sync_directory(file.parent)
    return manifest


def _require_sqlite(config: Config, instead: str) -> None:
    if config.store:
        raise Refused(
            "the store is in PostgreSQL",
            code="postgresql",
            hint=f"use {instead} {config.data_dir}, with the hub stopped: docs/backup.md",
        )


def _copy_database(source: Path, copy: Path) -> None:
    """Of one instant, whatever is written meanwhile."""
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30)) as old,
        closing(sqlite3.connect(copy)) as new,
    ):
        old.backup(new)
        new.execute("PRAGMA journal_mode=DELETE")


def _summary(store: Path) -> tuple[str, dict[str, str]]:
    with closing(sqlite3.connect(store)) as connection:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        jobs = connection.execute("SELECT id, state FROM jobs ORDER BY created").fetchall()
    return revision, {job: state for job, state in jobs if JobState(state) not in FINAL}


def _files(folder: Path) -> dict[str, Path]:
    """Plain files but the databases, what is only for now, and the key."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        passing = name in _NOT_KEPT or name.startswith(_DATABASES) or name.endswith(".new")
        if not passing and path.is_file() and not path.is_symlink():
            found[name] = path
    return found


def _put(tar: tarfile.TarFile, name: str, file: Path) -> str:
    """Its SHA-256; "" for a file that has gone meanwhile."""
    try:
        with file.open("rb") as content:
            info = tarfile.TarInfo(name)
            info.size, info.mode = os.fstat(content.fileno()).st_size, 0o600
            reader = _Hashing(content)
            tar.addfile(info, cast(IO[bytes], reader))
            return reader.digest.hexdigest()
    except FileNotFoundError:
        return ""


class _Hashing:
    def __init__(self, content: IO[bytes]) -> None:
        self._content, self.digest = content, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._content.read(size)
        self.digest.update(data)
        return data


def _put_manifest(tar: tarfile.TarFile, manifest: Manifest) -> None:
    content = json.dumps(vars(manifest), indent=1).encode()
    info = tarfile.TarInfo(MANIFEST)
    info.size, info.mode = len(content), 0o600
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        tar.addfile(info, file)


# ---------------------------------------------------------------- restore


def restore(config: Config, file: Path, said: Mapping[str, str], by: str) -> Manifest:
    """Into the empty `data_dir`, where its key may be. `said` of each unfinished job: `resume`, or its end.

    Raises Refused (bad_backup, newer_backup, not_empty, seal_key, unfinished_jobs, postgresql) or Busy:
    nothing was written. Interrupted, it is done again from the begin; no hub starts on a half of it.
    """
    _require_sqlite(config, "pg_restore, and the copy of the folder")
    manifest = verified(file)
    _require_said(manifest, said)
    _require_empty(config.data_dir)
    if Keys(config.seal_key).read() is None:
        raise Refused(
            f"{config.seal_key} is not there: no backup has the key that seals secrets",
            code="seal_key",
            hint="put your copy of it there first; if it is lost for good: refloat secret new-key",
        )
    lock = only_hub(config.data_dir)
    try:
        write_durably(config.data_dir / RESTORING, f"{file}\n".encode())
        _clear(config.data_dir)
        _extract(file, manifest, config.data_dir)
        _settle(config, manifest, said, by)
        remove_durably(str(config.data_dir / RESTORING))
    finally:
        lock.close()
    return manifest


def verified(file: Path) -> Manifest:
    """Reads all of it. Raises Refused (bad_backup, newer_backup)."""
    found: dict[str, str] = {}
    manifest: Manifest | None = None
    with _opened(file) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and _is_plain(member.name) else None
            if manifest or content is None:
                raise _bad(file, f"{member.name[:100]!r} has no place in it")
            if member.name == MANIFEST:
                manifest = _manifest(file, content.read(_LONGEST_MANIFEST))
            elif member.name in found:
                raise _bad(file, f"{member.name} is in it twice")
            else:
                found[member.name] = _digest(content)
    if manifest is None or found != manifest.members or STORE_FILE not in found:
        raise _bad(file, "it is not whole, or was changed")
    return manifest


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, "r:gz") as tar:
            yield tar
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        raise _bad(file, str(error) or type(error).__name__) from None


def _is_plain(name: str) -> bool:
    """Below the folder, and nothing that a restore itself puts there."""
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and str(path) == name and name not in _NOT_KEPT


def _manifest(file: Path, content: bytes) -> Manifest:
    try:
        data: dict[str, Any] = json.loads(content)
        known = Manifest(**data)
        texts = [known.at, known.version, known.revision, *known.members.values(), *known.unfinished.values()]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
    except (ValueError, TypeError, AttributeError):
        raise _bad(file, "its manifest cannot be read") from None
    if known.format != FORMAT or known.revision not in {one.revision for one in scripts().walk_revisions()}:
        raise Refused(
            f"{file} is of Refloat {known.version[:20]}, which this one ({__version__}) does not know",
            code="newer_backup",
            hint="nothing was changed; restore it with that version or a later one",
        )
    return known


def _digest(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while data := content.read(_READ):
        digest.update(data)
    return digest.hexdigest()


def _require_said(manifest: Manifest, said: Mapping[str, str]) -> None:
    unknown = sorted(set(said) - set(manifest.unfinished))
    missing = [f"{job} ({state})" for job, state in manifest.unfinished.items() if job not in said]
    if unknown:
        raise Refused(
            f"the backup has no unfinished job {', '.join(unknown)}", code="bad_input", hint="leave it out"
        )
    if missing:
        raise Refused(
            f"at {manifest.at} these jobs were not at their end: {', '.join(missing)}",
            code="unfinished_jobs",
            hint="look at the platforms what became of each, then say --ended JOB=committed, "
            "--ended JOB=rolled_back, or --resume JOB where nothing has happened since",
        )


def _require_empty(folder: Path) -> None:
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there - {KEY_FILE, "hub.lock"} and RESTORING not in there:
        raise Refused(
            f"{folder} is not empty",
            code="not_empty",
            hint="nothing was changed; stop the hub and move the folder away, but for its key",
        )


def _clear(folder: Path) -> None:
    """What an interrupted restore left."""
    for path in folder.iterdir():
        if path.name in _NOT_KEPT:
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _extract(file: Path, manifest: Manifest, folder: Path) -> None:
    with _opened(file) as tar:
        for member in tar:
            if member.name == MANIFEST:
                break
            content, path = tar.extractfile(member), folder / member.name
            assert content is not None  # verified
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                shutil.copyfileobj(content, out, _READ)
                out.flush()
                os.fsync(out.fileno())
            with path.open("rb") as written:
                if _digest(written) != manifest.members.get(member.name):
                    raise _bad(file, f"{member.name} has changed since it was verified")
    for path in (folder, *(one for one in folder.rglob("*") if one.is_dir())):
        sync_directory(path)


def _settle(config: Config, manifest: Manifest, said: Mapping[str, str], by: str) -> None:
    """The jobs are as the operator says, and the audit log knows of it."""
    store = Store.open(config.data_dir / STORE_FILE, Keys(config.seal_key))
    try:
        ended = {job: ENDS[what] for job, what in said.items() if what in ENDS}
        for job, state in ended.items():
            store.set_state(job, state, release=RELEASES[state])
        forget(config.data_dir / JOBS_FILE, list(ended))
        Audit(store.engine).record(by, "restore", manifest.at, version=manifest.version, jobs=dict(said))
    finally:
        store.engine.dispose()


def _bad(file: Path, why: str) -> Refused:
    hint = "nothing was changed; take another backup"
    return Refused(f"{file} cannot be restored: {why}", code="bad_backup", hint=hint)
