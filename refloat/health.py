"""How a controller is, by its own last answer. Pure."""

from __future__ import annotations

from refloat.controller.records import Health
from refloat.model import ControllerHealth, HealthState
from refloat.text import size, span

CONTROLLER_ROOM = 2**30  # bytes on a controller's own disk, for deltas
CLOCKS_APART = 5.0  # seconds: more, and times in the evidence contradict each other


def judged(health: Health, at: str, clock: float) -> ControllerHealth:
    """`at` and `clock` are the hub's time of the answer, as an instant and in seconds since 1970."""
    apart = abs(health.clock - clock)
    if apart > CLOCKS_APART:
        hint = "set up NTP in the controller's network"
        return ControllerHealth(at, HealthState.WARNING, f"its clock is {span(apart)} off", hint)
    if health.free < CONTROLLER_ROOM:
        hint = "give its disk more room: a sync's changes are kept there until it is complete"
        return ControllerHealth(at, HealthState.WARNING, f"{size(health.free)} free", hint)
    said = f"answers, up for {span(health.uptime)}, {size(health.free)} free"
    return ControllerHealth(at, HealthState.OK, said)


def silent(error: str, at: str) -> ControllerHealth:
    hint = "is its VM running, and its network up? `refloat doctor` asks both"
    return ControllerHealth(at, HealthState.SILENT, error, hint)
