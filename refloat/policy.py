"""Policies: what the operator decided beforehand, as data with defaults."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from refloat.model import NetworkMode


class MacPolicy(StrEnum):
    KEEP = "keep"
    NEW = "new"


class AfterDeadline(StrEnum):
    """What follows when the source does not shut down by itself in time."""

    POWER_OFF = "power-off"
    ABORT = "abort"


class OnFailure(StrEnum):
    """What follows when a step between 2 and 12 fails."""

    ROLLBACK = "rollback"
    HOLD = "hold"


class AdaptChoice(StrEnum):
    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class Probe:
    """An outside check of the operator's own: does this TCP port answer, with these first bytes?

    `address` is empty for the VM's planned static address.
    """

    port: int
    expect: str = ""
    address: str = ""


@dataclass(frozen=True)
class Policy:
    """Times are in seconds. `report_deadline` counts from the start of the recovered VM."""

    name: str = "default"
    mac: MacPolicy = MacPolicy.KEEP
    shutdown_deadline: int = 180
    shutdown_then: AfterDeadline = AfterDeadline.POWER_OFF
    network: NetworkMode = NetworkMode.RESTORE
    adapt: AdaptChoice = AdaptChoice.AUTO
    on_failure: OnFailure = OnFailure.ROLLBACK
    report_deadline: int = 600
    probes: tuple[Probe, ...] = ()
