"""ntfs-3g's own attributes of files (protection, hidden, ...) in the appliance.

libguestfs' FUSE shows none that is not listed and sets none with a zero byte in it; and while it runs, no
other call is possible. So a small program in the appliance does it: it takes each order as a file in a
directory beside the guest's volumes, which is in the appliance's memory.
"""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from refloat.guest.tree import NTFS_ACL, NTFS_ATTRIBUTES, GuestFileError, Meta, Tree

PLACE = "/.refloat"
_ROOT = "/sysroot"  # where the appliance has what FUSE shows
_OWN = (NTFS_ACL, NTFS_ATTRIBUTES)
_WAIT = 60.0
_ANSWER_LIMIT = 256 * 1024
# An answer is whole when it gets its name. The program ends when its own file is removed.
_PROGRAM = """
cd /
while [ -e PLACE/program ]; do
    for order in PLACE/order-*; do
        [ -e "$order" ] || continue
        answer=PLACE/answer-${order##*-}
        { sh "$order" 2>&1; echo "status $?"; } >"$answer.new"
        rm "$order"
        mv "$answer.new" "$answer"
    done
    sleep 0.02
done
"""


def program(root: str = _ROOT) -> bytes:
    return _PROGRAM.replace("PLACE", f"{root}{PLACE}").encode()


def start(g: Any) -> None:
    """To be called before FUSE runs. Raises RuntimeError."""
    g.mkmountpoint(PLACE)
    g.debug("sh", [f"mount -t tmpfs none {_ROOT}{PLACE}"])
    g.write(f"{PLACE}/program", program())
    g.debug("sh", [f"setsid sh {_ROOT}{PLACE}/program </dev/null >/dev/null 2>&1 &"])


class ApplianceTree(Tree):
    """A Windows guest's tree as the appliance shows it; `inside` is where the appliance itself has it."""

    def __init__(self, root: Path, inside: str = _ROOT) -> None:
        super().__init__(root)
        self._inside = inside
        self._orders = root / PLACE.lstrip("/")
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        (self._orders / "program").unlink(missing_ok=True)
        super().close()

    def meta(self, path: str) -> Meta:
        known, real = super().meta(path), self.real(path)
        if not real.startswith("/C/"):
            return known
        own = tuple((name, self._read(real, name)) for name in _OWN)
        return replace(known, xattrs=(*known.xattrs, *own))

    def _set_xattr(self, fd: int, path: str, name: str, value: bytes) -> None:
        if name in _OWN:
            self._order(
                ["setfattr", "-h", "-n", name, "-v", f"0x{value.hex()}", f"{self._inside}{path}"], path
            )
        else:
            super()._set_xattr(fd, path, name, value)

    def _read(self, path: str, name: str) -> bytes:
        argv = ["getfattr", "-h", "--absolute-names", "-e", "hex", "-n", name, f"{self._inside}{path}"]
        found = re.search(rf"^{re.escape(name)}=0x([0-9a-f]*)$", self._order(argv, path), re.MULTILINE)
        if found is None:
            raise GuestFileError(f"the protection of the guest's {path} cannot be read")
        return bytes.fromhex(found[1])

    def _order(self, argv: list[str], path: str) -> str:
        """What the program in the appliance says. Raises GuestFileError where it fails, or is silent."""
        self._number += 1
        order, answer = (self._orders / f"{kind}-{self._number}" for kind in ("order", "answer"))
        draft = self._orders / "draft"
        draft.write_text(shlex.join(argv))
        draft.rename(order)
        deadline = time.monotonic() + _WAIT
        while not answer.exists():
            if time.monotonic() > deadline:
                raise GuestFileError(f"the appliance does not say anything of the guest's {path}")
            time.sleep(0.02)
        with answer.open("rb") as handle:
            text = handle.read(_ANSWER_LIMIT).decode(errors="replace")
        answer.unlink()
        said, _, status = text.rstrip().rpartition("status ")
        if status != "0":
            raise GuestFileError(f"the protection of the guest's {path} is out of reach: {said.strip()}")
        return said
