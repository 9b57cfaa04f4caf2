"""A hub in a process of its own over the CloudStack server of a test: `python -m
tests.crash.cloudstack_process DIR WHAT`.

It takes up what an earlier one left, does what is asked unless it is done, and ends when the job is at rest.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from refloat.model import Mode
from tests.crash.hub_process import decide, fail_over
from tests.unit.destinations.cloudstack_site import opened


def main(directory: Path, what: str) -> None:
    hub, _ = opened(directory, deadline=60)
    if what == "planned":
        fail_over(hub, Mode(what))
    else:
        decide(hub, what)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
