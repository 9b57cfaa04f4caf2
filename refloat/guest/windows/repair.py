"""Making an NTFS volume writable that Windows left open, where the operator allows it.

What its log or its hibernated session holds is lost then, and Windows is told to check the volume at its
next start. Nothing of this is in the change journal: a snapshot takes it back, `undo` does not.
"""

from __future__ import annotations

from pathlib import Path

from refloat.command import Completed, run
from refloat.errors import Failed
from refloat.guest.disk import as_node
from refloat.guest.probe import Found

_TIMEOUT = 600.0
DISCARD_OPTIONS = "rw,nosuid,nodev,noexec,noatime,norecover,remove_hiberfile"


def repair(found: Found, mountpoint: Path, *, session: bool) -> None:
    """Empties the log of the volume; with `session` its hibernated session is thrown away, too.

    Raises Failed (guest_repair).
    """
    with as_node(found) as node:
        if session:
            # Empties the log, says that it failed, as the session is still there, and lets that be removed.
            run(["ntfsfix", node], timeout=_TIMEOUT, check=False)
            mountpoint.mkdir(parents=True, exist_ok=True)
            _run(found, ["mount", "-w", "-t", "ntfs-3g", "-o", DISCARD_OPTIONS, node, str(mountpoint)])
            _run(found, ["umount", str(mountpoint)])
        _run(found, ["ntfsfix", node])


def _run(found: Found, argv: list[str]) -> None:
    done = run(argv, timeout=_TIMEOUT, check=False)
    if done.returncode != 0:
        raise repair_failed(found, _said(done))


def repair_failed(found: Found, reason: str) -> Failed:
    return Failed(
        f"{found.describe()} could not be repaired: {reason}",
        code="guest_repair",
        hint="let Windows check it (chkdsk /f) and shut it down fully, then replicate again",
    )


def _said(done: Completed) -> str:
    return " ".join((done.stderr or done.stdout).decode(errors="replace").split())
