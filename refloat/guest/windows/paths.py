"""Names on NTFS and vfat, which Windows finds in any case, as they are spelled on the guest's disk.

ntfs-3g tells the cases apart: what is made under another spelling would be a second file, of which Windows
sees one.
"""

from __future__ import annotations

from refloat.errors import Failed
from refloat.guest.tree import Tree

# Directories of Windows with the most names have some ten thousand (WinSxS); more are not looked through.
_NAMES = 200_000


class Ambiguous(Failed):
    """A directory holds two names that Windows takes for one."""

    default_code = "guest_file"


def find(tree: Tree, path: str) -> str | None:
    """The path as spelled on the disk; None where it is not there. Raises Ambiguous."""
    here = "/"
    for part in _parts(path):
        name = _spelled(tree, here, part)
        if name is None:
            return None
        here = f"{here.rstrip('/')}/{name}"
    return here


def spelled(tree: Tree, path: str) -> str:
    """The path with those of its parts as spelled on the disk that are there; the others as given."""
    here, known = "/", True
    for part in _parts(path):
        name = _spelled(tree, here, part) if known else None
        known = name is not None
        here = f"{here.rstrip('/')}/{name or part}"
    return here


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _spelled(tree: Tree, directory: str, name: str) -> str | None:
    if name in (".", "..") or "\0" in name:
        raise Ambiguous(f"{name!r} is no name of a file")
    names = tree.listdir(directory)
    if len(names) > _NAMES:
        raise Ambiguous(f"the guest's {directory} has {len(names)} names")
    # As Windows' own table for it: one character for one, never "ss" for "ß".
    same = [one for one in names if _upper(one) == _upper(name)]
    if len(same) > 1:
        raise Ambiguous(
            f"the guest's {directory} holds {' and '.join(same)}, which Windows takes for one",
            hint="remove one of them in the guest",
        )
    return same[0] if same else None


def _upper(name: str) -> str:
    return "".join(upper if len(upper := one.upper()) == 1 else one for one in name)
