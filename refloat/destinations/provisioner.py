"""What Refloat asks of a destination to make a controller VM with its replica volumes, and to remove it.

Nothing is handed to the VM that a recovered guest could apply to itself later: no key pair, no password, no
user data. What is the controller's own lies in the seed, on its own disk: see controller/seed.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from refloat.model import ReplicaDisk, WantedController

Say = Callable[[str], None]  # told what is about to be done


class Provisioner(Protocol):
    """All verbs are idempotent and ask the platform what is there. Each may be repeated after a kill in its
    middle; nothing is made twice, and nothing that does not carry the wish's id is touched."""

    def check(self, wanted: WantedController) -> None:
        """Raises Refused where the platform could not make this. Changes nothing."""
        ...

    def make(self, wanted: WantedController, seed: bytes, say: Say) -> tuple[ReplicaDisk, ...]:
        """The controller VM, off, with its own disk (which has the seed on it) and one empty volume for each
        wanted disk, attached in that order; returns the serials that they show. A VM that is whole is left
        as it is. An empty seed: the template has keys of its own."""
        ...

    def address(self, wanted: WantedController) -> str:
        """Where the VM, which runs, is reached in its network. Raises Failed where it gets no address."""
        ...

    def left(self, wanted: WantedController) -> tuple[str, ...]:
        """What exists of it now, in words."""
        ...

    def remove(self, wanted: WantedController) -> None:
        """Stops the VM and deletes it with its volumes; done when nothing is left. Raises Refused, with
        nothing changed, for a VM that is no controller any more."""
        ...
