"""A Windows guest's way through inspection and adaptation: what is done with its volumes, and when.

Looking needs no writing, so a guest is looked at on a read-only mount even by an adaptation, and is refused
there; only then is a volume repaired, where the operator allows it, and mounted for writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from refloat.errors import Refused
from refloat.guest.disk import Found
from refloat.guest.host import Host
from refloat.guest.journal import Journal
from refloat.guest.linux.edits import Progress
from refloat.guest.tree import Tree
from refloat.guest.windows import acl, adapt
from refloat.guest.windows.earlier import as_before
from refloat.guest.windows.inspect import examine
from refloat.guest.windows.ntfs import ntfs_state
from refloat.guest.windows.volumes import check_closed
from refloat.model import AdaptRequest, DiskBus, GuestFacts, Hibernation, NicModel


def look(
    found: Sequence[Found],
    order: Sequence[str],
    mountpoint: Path,
    hardware: tuple[DiskBus, NicModel],
    host: Host,
) -> GuestFacts:
    """The facts about a Windows whose volumes have their places. Nothing is written."""
    volume = next(one for one in found if one.filesystem.mountpoint == "/C")
    state = ntfs_state(partial(host.read, volume))
    with host.mounted_system(found, mountpoint) as tree:
        return as_before(tree, examine(tree, found, order, *hardware, state))


def check_allowed(request: AdaptRequest, facts: GuestFacts) -> None:
    """Raises Refused (guest_hibernated) for a Windows that kept a session, unless it may be thrown away."""
    windows, wanted = facts.windows, request.windows
    if windows is None or wanted is None:
        raise Refused("the request has no drivers for this Windows", code="drivers_missing")
    if windows.hibernation is not Hibernation.NONE and not wanted.discard_hibernation:
        kind = "Fast Startup" if windows.hibernation is Hibernation.FAST_STARTUP else "hibernated"
        raise Refused(
            f"Windows was not shut down, it kept a session on its disk ({kind})",
            code="guest_hibernated",
            hint="shut it down fully (shutdown /s /f /t 0; switch Fast Startup off: powercfg /h off) and "
            "replicate again; or allow the session to be discarded, which loses what was open in it",
        )


def make_writable(
    found: Sequence[Found], request: AdaptRequest, facts: GuestFacts, mountpoint: Path, host: Host
) -> None:
    """Repairs what has to be, and may be. Raises Refused (guest_dirty, guest_hibernated, drivers_*)."""
    check_allowed(request, facts)
    adapt.check(request, facts)
    assert facts.windows is not None and request.windows is not None
    kept = facts.windows.hibernation is not Hibernation.NONE
    # A session that is thrown away takes the changes in the log with it.
    open_ones = check_closed(found, host, request.windows.repair_dirty or kept)
    for one in found:
        session = kept and one.filesystem.mountpoint == "/C"
        if session or one in open_ones:
            host.repair(one, mountpoint, session=session)


def change(
    tree: Tree, journal: Journal, request: AdaptRequest, facts: GuestFacts, progress: Progress
) -> None:
    adapt.change(tree, journal, request, facts, progress)
    acl.prove(tree, journal.changes())
