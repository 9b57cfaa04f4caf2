"""A hub in a process of its own over the CloudStack server of a test: `python -m
tests.crash.cloudstack_process DIR WHAT`.

It takes up what an earlier one left, does what is asked unless it is done, and ends when the job is at rest.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from refloat.errors import NotFound
from refloat.hub import Hub
from refloat.model import Mode, TargetState
from tests.crash.hub_process import decide, fail_over
from tests.unit.destinations.cloudstack_site import ONE, opened
from tests.unit.simulated.rig import until


def add(hub: Hub) -> None:
    if hub.target(ONE.name).state is not TargetState.READY:
        hub.add_target(ONE.name)
    until(lambda: not hub.target(ONE.name).holder, "the end of adding")
    target = hub.target(ONE.name)
    assert target.state is TargetState.READY and not target.message, target


def remove(hub: Hub) -> None:
    with suppress(NotFound):  # an earlier one has come to the end
        hub.remove_target(ONE.name)
    until(lambda: not hub.target(ONE.name).holder, "the end of removing")
    assert not hub.target(ONE.name).message, hub.target(ONE.name)


def main(directory: Path, what: str) -> None:
    hub, _ = opened(directory, deadline=60)
    if what in tuple(Mode):
        fail_over(hub, Mode(what))
    elif what in ("add", "remove"):
        {"add": add, "remove": remove}[what](hub)
    else:
        decide(hub, what)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
