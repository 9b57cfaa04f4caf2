"""The replication target: where a protected VM's replica lies, and the instants that it holds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TargetState(StrEnum):
    PROVISIONING = "provisioning"
    READY = "ready"
    PAUSED = "paused"
    SYNCING = "syncing"
    FAILOVER = "failover"
    FAILED_OVER = "failed_over"
    ERROR = "error"


@dataclass(frozen=True)
class SyncPoint:
    """One instant of the source at which every replica disk is complete."""

    id: str
    taken: str
    checkpoint: str
    how: str  # "full", "changed" or "compared"
    transferred: int
    reason: str = ""


@dataclass(frozen=True)
class Readiness:
    """What a failover of this sync point would meet, looked at beforehand: `reasons` say why it would be
    refused, or what would be done."""

    at: str
    point: str
    ready: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class HealthState(StrEnum):
    OK = "ok"
    WARNING = "warning"
    SILENT = "silent"


@dataclass(frozen=True)
class ControllerHealth:
    """How a target's controller was when it was last asked, in words; `hint` is what to do about it."""

    at: str
    state: HealthState
    text: str
    hint: str = ""


@dataclass(frozen=True)
class ReplicaDisk:
    """Which controller disk (by the serial that it shows) holds the replica of which source disk."""

    key: str
    serial: str


@dataclass(frozen=True)
class Endpoint:
    """How the controller is reached: address and port inside its network, and its pinned host key."""

    address: str
    port: int
    user: str
    identity: str  # path of the private key file
    host_key: str  # "ssh-ed25519 AAAA..."


@dataclass(frozen=True)
class Target:
    """A protected VM's replication target: its controller VM and replica disks at the recovery site."""

    name: str
    source_site: str
    source_vm: str
    site: str
    controller_vm: str
    endpoint: Endpoint
    disks: tuple[ReplicaDisk, ...]
    policy: str
