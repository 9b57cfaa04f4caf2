"""The cache of built images: entries are directories named by what made them, complete or absent.

An entry appears by one rename, so a reader never sees half of it, and nothing depends on it being
there: whoever needs an entry says how it is built. No VM's disk is backed by one: labs copy.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Progress = Callable[[str], None]

# An entry's time stamp says when it was last asked for. Other checkouts' recipes may share the cache, so
# an entry that the present recipes do not name is not superfluous for that.
UNUSED = 30 * 24 * 3600.0  # seconds

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
    if _is_there(wanted):
        return wanted
    where.mkdir(parents=True, exist_ok=True)
    with _exclusive(where / f".{name}.lock"):
        if _is_there(wanted):
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


def prune(unused: float = UNUSED, root: Path | None = None) -> None:
    """Removes the entries that nobody asked for in the last `unused` seconds, whatever made them.

    So images that a change of the recipes superseded go, and none that somebody is copying.
    """
    where = root or cache_root()
    if not where.is_dir():
        return
    limit = time.time() - unused
    for path in where.iterdir():
        with suppress(FileNotFoundError):  # another's prune came first
            if path.is_dir() and path.stat().st_mtime < limit:
                shutil.rmtree(path, ignore_errors=True)


def _is_there(path: Path) -> bool:
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _drop_leftovers(where: Path, name: str) -> None:
    """Parts of exactly this name: source-packages-KEY is none of source's."""
    pattern = re.compile(rf"{re.escape(name)}-\w{{12}}\.\w+{re.escape(_PART)}")
    for path in where.iterdir():
        if path.is_dir() and pattern.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
