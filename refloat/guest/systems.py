"""What differs between the kinds of guests, beside how they are looked at and changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from refloat.guest import boundary
from refloat.guest.journal import Labels
from refloat.guest.linux import selinux
from refloat.guest.tree import Tree
from refloat.guest.windows.acl import StrictAcl
from refloat.guest.windows.boundary import WINDOWS as WINDOWS_BOUNDARY
from refloat.model import GuestFacts


@dataclass(frozen=True)
class System:
    """`boundary`: what may be changed; `labels`: what new files are protected with."""

    boundary: boundary.Boundary
    labels: Callable[[Tree], Labels]


LINUX = System(boundary.LINUX, selinux.labels)
WINDOWS = System(WINDOWS_BOUNDARY, StrictAcl)


def system_of(facts: GuestFacts) -> System:
    return WINDOWS if facts.windows else LINUX
