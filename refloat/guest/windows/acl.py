"""What new files in a Windows guest are protected with: SYSTEM and the administrators, nobody else.

ntfs-3g gives every new file to everyone, with full control; what runs as SYSTEM would then be anybody's to
change. A file that is replaced keeps its own protection (tree.py). Source of the format: MS-DTYP, 2.4.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from refloat.errors import Failed
from refloat.guest.journal import Conflict
from refloat.guest.tree import NTFS_ACL, Tree
from refloat.guest.windows.paths import spelled
from refloat.model import Change, ChangeKind

_SELF_RELATIVE, _PROTECTED, _HAS_DACL = 0x8000, 0x1000, 0x0004
_FULL_CONTROL = 0x001F01FF
_INHERITED_BY_ALL = 0x03  # by files and by directories
_NT_AUTHORITY = 5
_SYSTEM = (18,)
_ADMINISTRATORS = (32, 544)


def _sid(parts: tuple[int, ...]) -> bytes:
    head = struct.pack(">BBHI", 1, len(parts), 0, _NT_AUTHORITY)
    return head + struct.pack(f"<{len(parts)}I", *parts)


def _entry(sid: bytes, flags: int) -> bytes:
    """One that allows."""
    return struct.pack("<BBHI", 0, flags, 8 + len(sid), _FULL_CONTROL) + sid


def descriptor(directory: bool) -> bytes:
    """Full control for SYSTEM and the administrators, the owners; what the directory above says is not
    inherited, and what a directory holds inherits this."""
    flags = _INHERITED_BY_ALL if directory else 0
    entries = b"".join(_entry(_sid(who), flags) for who in (_SYSTEM, _ADMINISTRATORS))
    acl = struct.pack("<BBHHH", 2, 0, 8 + len(entries), 2, 0) + entries
    owner, group = _sid(_ADMINISTRATORS), _sid(_SYSTEM)
    at_owner = 20 + len(acl)
    control = _SELF_RELATIVE | _PROTECTED | _HAS_DACL
    head = struct.pack("<BBHIIII", 1, 0, control, at_owner, at_owner + len(owner), 0, 20)
    return head + acl + owner + group


@dataclass(frozen=True)
class StrictAcl:
    """Labels for the journal. Raises Conflict for a name that Windows would take for another that is there:
    both would be in the directory, and Windows sees one."""

    tree: Tree

    def of(self, path: str, kind: int) -> tuple[tuple[str, bytes], ...]:
        known = spelled(self.tree, path)
        if known != path:
            raise Conflict(
                f"the guest already has {known}, which Windows takes for {path}",
                hint="this is a defect in Refloat; nothing was written there",
            )
        if not path.startswith("/C/"):
            return ()  # vfat knows no owners
        return ((NTFS_ACL, descriptor(stat.S_ISDIR(kind))),)


def prove(tree: Tree, changes: Iterable[Change]) -> None:
    """Raises Failed (guest_acl) unless what was made is protected as it must be, and says which is not."""
    made = [one for one in changes if one.before is None and one.path.startswith("/C/")]
    wrong = [one.path for one in made if _protection(tree, one.path) != _wanted(one)]
    if wrong:
        raise Failed(
            f"these files are not protected as they must be: {', '.join(wrong)}",
            code="guest_acl",
            hint="roll back, or run undo: with them any user of the guest could become its administrator",
        )


def _wanted(change: Change) -> bytes:
    return descriptor(change.kind is ChangeKind.DIRECTORY)


def _protection(tree: Tree, path: str) -> bytes | None:
    if tree.stat(path, follow=False) is None:
        return None
    return dict(tree.meta(path).xattrs).get(NTFS_ACL)
