"""The cache of built images: entries are directories named by what made them, complete or absent.

An entry appears by one rename, so a reader never sees half of it, and nothing depends on it being
there: whoever needs an entry says how it is built.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[str], None]

_PART = ".part"


def cache_root() -> Path:
    """Where the images lie: ~/.cache/refloat/images, or below $XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "refloat" / "images"


def content_key(*parts: str | bytes) -> str:
    """Twelve hex digits over all the parts.

    Each part is hashed with its length, because ("ab", "c") and ("a", "bc") are two recipes.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()[:12]


@contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """Holds `lock` for this process; the kernel drops it when the process dies, however it dies."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(name: str, key: str, build: Callable[[Path], None], root: Path | None = None) -> Path:
    """The directory NAME-KEY, built by `build(directory)` if it is not there yet.

    Two callers at once: one builds, the other waits and gets the result. What a killed build left
    behind is removed by the next one, which is safe only under the lock.
    """
    where = root or cache_root()
    wanted = where / f"{name}-{key}"
    if wanted.is_dir():
        return wanted
    where.mkdir(parents=True, exist_ok=True)
    with _exclusive(where / f".{name}.lock"):
        if wanted.is_dir():
            return wanted
        _drop_leftovers(where, name)
        # A name of its own: what survives of a killed build must not write into this one.
        part = Path(tempfile.mkdtemp(prefix=f"{name}-{key}.", suffix=_PART, dir=where))
        try:
            build(part)
            part.chmod(0o755)
            os.rename(part, wanted)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return wanted


def prune(name: str, keep: str, root: Path | None = None) -> None:
    """Removes the entries of `name` that were made by other recipes than `keep`.

    Never done while building: a lab made from an older entry may still use it.
    """
    where = root or cache_root()
    if not where.is_dir():
        return
    with _exclusive(where / f".{name}.lock"):
        _drop_leftovers(where, name)
        for path in _entries(where, name):
            if path.name != f"{name}-{keep}":
                shutil.rmtree(path, ignore_errors=True)


def _drop_leftovers(where: Path, name: str) -> None:
    for path in _entries(where, name, r"\.\w+" + re.escape(_PART)):
        shutil.rmtree(path, ignore_errors=True)


def _entries(where: Path, name: str, suffix: str = "") -> list[Path]:
    """Entries of exactly this name: source-packages-KEY is none of source's."""
    pattern = re.compile(rf"{re.escape(name)}-\w{{12}}{suffix}")
    return [path for path in where.iterdir() if path.is_dir() and pattern.fullmatch(path.name)]
