"""What goes into a rendering of a guest's network files, and what comes out of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from refloat.model import NetworkMode, NicConfig

PLACEHOLDER = re.compile(r"@REFLOAT_NIC_(\d{1,3})@")


def placeholder(index: int) -> str:
    """What stands for the live name of the plan's NIC number `index`: only the first boot knows that."""
    return f"@REFLOAT_NIC_{index}@"


@dataclass(frozen=True)
class Rendered:
    """One adapter of the plan. `old_name` is its name in the guest's files (it may be a pattern where
    these say so: networkd's "Name=ens*"); `mac` the planned address, `source_mac` that at the source.

    `config` and `above` (the VLANs, bonds and bridges that stand on it) hold what readdress and dhcp are to
    give, under the old names; to restore, only the name counts.
    """

    index: int
    old_name: str
    config: NicConfig
    mode: NetworkMode
    mac: str = ""
    source_mac: str = ""
    above: tuple[NicConfig, ...] = ()

    @property
    def placeholder(self) -> str:
        return placeholder(self.index)


@dataclass(frozen=True)
class RenderedFile:
    """A file to change. `path` is the guest's file now ("" for a new one), `new_path` where the text goes:
    another path means that the old file goes away. `text` None: the file is removed.

    A new file gets `mode`; one that was there keeps its own. `new_path` and `text` may hold placeholders.
    Where they do not, the file can be written at once.
    """

    path: str
    new_path: str
    text: str | None
    mode: int = 0o644

    @property
    def waits(self) -> bool:
        """Whether only the first boot can write it."""
        return bool(PLACEHOLDER.search(self.new_path) or PLACEHOLDER.search(self.text or ""))


Files = Mapping[str, str]
Changed = dict[str, str | None]  # None: the file goes
