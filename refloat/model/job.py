"""A failover job: its states, what is decided before it acts, and what its operator decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from refloat.model.guest import GuestFacts, NicConfig
from refloat.model.hardware import DiskBus, Firmware, NicModel, SourceVM
from refloat.model.windows import DriverChoice, WindowsRequest


class Mode(StrEnum):
    TEST = "test"
    PLANNED = "planned"
    EMERGENCY = "emergency"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    REFUSED = "refused"
    TEST_ACTIVE = "test_active"
    AWAITING_COMMIT = "awaiting_commit"
    COMMITTING = "committing"
    COMMITTED = "committed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    BLOCKED = "blocked"


FINAL = frozenset({JobState.REFUSED, JobState.COMMITTED, JobState.ROLLED_BACK})


@dataclass(frozen=True)
class OperatorDecision:
    """`who` is claimed by the client, not proven."""

    who: str
    at: str
    what: str
    reason: str


@dataclass(frozen=True)
class Fence:
    """Why an emergency failover may start its VM: `proof` is what the source's own platform says now, or
    empty where an operator's word (`override`) stands for it, because nobody answers there."""

    at: str
    proof: str
    override: OperatorDecision | None = None


class Action(StrEnum):
    ADAPT = "adapt"
    SKIP = "skip"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Decision:
    action: Action
    reasons: tuple[str, ...]


class NetworkMode(StrEnum):
    """What becomes of an adapter's configuration in the guest.

    restore: as it was at the source; readdress: static, with other addresses; dhcp: by DHCP, whatever it
    was; preserve: the guest's networking is not rewritten.
    """

    RESTORE = "restore"
    READDRESS = "readdress"
    DHCP = "dhcp"
    PRESERVE = "preserve"


@dataclass(frozen=True)
class PlannedDisk:
    """`name` is the kernel's name at the source ("sda"): what the guest's files may still say."""

    key: str
    name: str
    serial: str
    capacity: int


@dataclass(frozen=True)
class PlannedNic:
    """`config` is what the adapter shall have: for restore and preserve the guest's own, for readdress and
    dhcp the new one under the old name. `above` are the VLANs, bonds and bridges that stand on it."""

    mac: str
    source_mac: str
    network: str
    mode: NetworkMode
    config: NicConfig | None
    reason: str
    pin: str = ""  # the old interface name that is tied to `mac`, so that an untouched configuration holds
    above: tuple[NicConfig, ...] = ()


@dataclass(frozen=True)
class Secrets:
    """What makes this job's reports unforgeable by anything but the adapted guest. Never shown or logged."""

    token: str = field(repr=False)
    nonce: str = field(repr=False)


@dataclass(frozen=True)
class Callback:
    """Where a guest sends its reports: `url` is up to the job's id, `certificate` (PEM) is what it trusts
    there and nothing else; empty for plain HTTP. `own`: the hub made the certificate for itself."""

    url: str
    certificate: str = field(default="", repr=False)
    own: bool = True


@dataclass(frozen=True)
class Plan:
    """Every value that two steps must agree on, chosen once at preflight (secrets apart)."""

    job: str
    mode: Mode
    target: str
    decision: Decision
    source: SourceVM
    facts: GuestFacts
    disks: tuple[PlannedDisk, ...]  # the first holds the root filesystem's disk and boots
    nics: tuple[PlannedNic, ...]
    cpus: int
    memory: int
    firmware: Firmware
    disk_bus: DiskBus
    nic_model: NicModel
    report_deadline: int
    warnings: tuple[str, ...] = ()
    serial_console: bool = False
    drivers: DriverChoice | None = None  # for a Windows guest that is adapted
    rebuild: bool = False  # as in AdaptRequest
    callback: Callback | None = None


@dataclass(frozen=True)
class AdaptRequest:
    """All that the guest engine is told. Goes to the controller on standard input, never in argv."""

    job: str
    disks: tuple[PlannedDisk, ...]
    disk_bus: DiskBus
    nic_model: NicModel
    nics: tuple[PlannedNic, ...]
    secrets: Secrets
    channel: str
    report_deadline: int
    serial_console: bool = False  # add one to the kernel's command line where there is none
    luks_keys: dict[str, str] = field(default_factory=dict, repr=False)  # container's UUID: passphrase
    windows: WindowsRequest | None = None  # for a Windows guest
    rebuild: bool = False  # the guest's own tool may run, for an initramfs to which nothing can be appended
    callback: Callback | None = None  # its url is this job's
