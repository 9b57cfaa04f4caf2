"""A planned failover of the lab's VM, wall per step, against a bare boot of the same recovered guest."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from refloat.clock import seconds_between
from refloat.destinations.base import Destination
from refloat.estate import load_estate
from refloat.lab.estate import TARGET
from refloat.lab.layout import SOURCE_ADDRESS, default_lab
from refloat.lab.waiting import api, wait_for_banner
from refloat.platforms import Platforms

# The guest's own boot, and the controller's stop, are not Refloat's to shorten.
NOT_OURS = ("stop-controller", "start-vm", "validate", "await-report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    options = parser.parse_args()
    lab = default_lab()
    destination = Platforms(load_estate(lab.estate), lab.hub_data / "bench").destination("lab-recovery")
    with api(lab) as client:
        wait_for_banner(destination, lab.source_vm, SOURCE_ADDRESS)
        _sync(client)
        job = (
            client.post(f"/targets/{TARGET}/failover", json={"mode": "planned"})
            .raise_for_status()
            .json()["id"]
        )
        facts = _wait(client, job, "awaiting_commit")
        boot = _bare_boot(destination, lab.controller_vm)
        client.post(
            f"/jobs/{job}/rollback", json={"discard_writes": True, "reason": "bench"}
        ).raise_for_status()
        _wait(client, job, "rolled_back")
    steps = {
        s["step"]: seconds_between(s["started"], s["finished"]) for s in facts["steps"] if s["phase"] == "do"
    }
    overhead = sum(seconds for name, seconds in steps.items() if name not in NOT_OURS)
    figures = {"steps": steps, "overhead": overhead, "bare_boot": boot, "ratio": overhead / boot}
    print(json.dumps(figures, indent=2) if options.json else _table(steps, overhead, boot))


def _wait(client: Any, job: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 900
    while True:
        facts: dict[str, Any] = client.get(f"/jobs/{job}").raise_for_status().json()
        if facts["state"] == state:
            return facts
        if time.monotonic() > deadline or facts["state"] in ("refused", "blocked", "committed"):
            raise SystemExit(f"job {job} is {facts['state']}: {facts.get('error')}")
        time.sleep(0.5)


def _sync(client: Any) -> None:
    """A failover follows upon the last scheduled sync: the hub knows its controller."""
    client.post(f"/targets/{TARGET}/sync").raise_for_status()
    deadline = time.monotonic() + 900
    while client.get(f"/targets/{TARGET}").raise_for_status().json()["holder"]:
        if time.monotonic() > deadline:
            raise SystemExit(f"target {TARGET} is still busy")
        time.sleep(0.5)


def _bare_boot(destination: Destination, vm: str) -> float:
    """Seconds from power-on to sshd's first words, with everything already adapted."""
    destination.stop(vm, graceful=120)
    started = time.monotonic()
    destination.start(vm)
    wait_for_banner(destination, vm, SOURCE_ADDRESS)
    return time.monotonic() - started


def _table(steps: dict[str, float], overhead: float, boot: float) -> str:
    lines = [f"{name:<20}{seconds:>8.1f} s" for name, seconds in steps.items()]
    lines.append(f"{'all but ' + ', '.join(NOT_OURS)}: {overhead:.1f} s")
    lines.append(f"bare boot of the same guest: {boot:.1f} s; ratio {overhead / boot:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
