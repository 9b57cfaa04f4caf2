"""The records that the stages hand to each other.

    Policy + SourceVM + Target --preflight--> Plan | Refused(reasons)
    Plan      --stop exports, snapshot-->  Prepared (rollback points)
    Prepared  --adapt-->                   Adaptation (GuestCaps + change journal)
    GuestCaps --promote-->                 Hardware of the recovered VM
    Hardware  --validate-->                Findings
    Findings + guest reports -->           Verdict --operator--> committed | rolled back

Each stage consumes only what an earlier one returned. Records are frozen, plain and serialisable
(codec.py), and need nothing beyond the standard library: the controller uses them too.
Sizes are in bytes, times in seconds, instants in ISO 8601 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Mode(StrEnum):
    TEST = "test"
    PLANNED = "planned"
    EMERGENCY = "emergency"


class PowerState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class DiskBus(StrEnum):
    VIRTIO_BLK = "virtio-blk"
    VIRTIO_SCSI = "virtio-scsi"
    PVSCSI = "pvscsi"
    SATA = "sata"


class NicModel(StrEnum):
    VIRTIO = "virtio-net"
    VMXNET3 = "vmxnet3"
    E1000E = "e1000e"


# ---------------------------------------------------------------- the source


@dataclass(frozen=True)
class SourceDisk:
    """One disk of the protected VM. `key` is its stable name at the source (for libvirt: "sda").

    The order of a VM's disks is the order in which its kernel numbers them: the first is /dev/sda.
    """

    key: str
    capacity: int
    bus: DiskBus


@dataclass(frozen=True)
class SourceNic:
    mac: str
    model: NicModel
    network: str


@dataclass(frozen=True)
class SourceVM:
    """The protected VM's hardware as its platform states it."""

    name: str
    uuid: str
    cpus: int
    memory: int
    firmware: Firmware
    disks: tuple[SourceDisk, ...]
    nics: tuple[SourceNic, ...]


# ---------------------------------------------------------------- the destination


@dataclass(frozen=True)
class AttachedDisk:
    """A disk as the destination attaches it: `serial` is what the guest sees, `volume` the platform's id.

    The first disk of a VM boots.
    """

    serial: str
    volume: str
    bus: DiskBus = DiskBus.VIRTIO_BLK


@dataclass(frozen=True)
class AttachedNic:
    mac: str
    network: str
    model: NicModel = NicModel.VIRTIO


@dataclass(frozen=True)
class Hardware:
    """A destination VM as it is defined: recorded before promotion so that every step can be undone."""

    cpus: int
    memory: int
    firmware: Firmware
    disks: tuple[AttachedDisk, ...]
    nics: tuple[AttachedNic, ...]


@dataclass(frozen=True)
class RollbackPoint:
    """The layer that takes all writes to one replica disk after step 5; dropping it is the rollback.

    `base_stamp` changes with every write to the base: equal stamps prove that the base was not touched.
    `written` is what the layer holds, in bytes.
    """

    serial: str
    base: str
    overlay: str
    base_stamp: str
    written: int


@dataclass(frozen=True)
class Observation:
    """What the platform itself sees of a VM now. Counters are since its start."""

    power: PowerState
    reason: str = ""
    disk_bytes_read: dict[str, int] = field(default_factory=dict)
    disk_bytes_written: dict[str, int] = field(default_factory=dict)
    nics_linked: tuple[str, ...] = ()


# ---------------------------------------------------------------- the target


class TargetState(StrEnum):
    PROVISIONING = "provisioning"
    READY = "ready"
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


# ---------------------------------------------------------------- the guest


class NicMethod(StrEnum):
    STATIC = "static"
    DHCP = "dhcp"
    NONE = "none"


@dataclass(frozen=True)
class NicConfig:
    """One interface as the guest's own files (or the operator) configure it."""

    name: str
    method: NicMethod
    addresses: tuple[str, ...] = ()  # with prefix: "10.20.30.40/24"
    gateway: str = ""
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuestFilesystem:
    """A filesystem found on the guest's disks. `disk` is the source disk's key, `partition` 0 for none."""

    disk: str
    partition: int
    kind: str
    uuid: str
    label: str = ""
    mountpoint: str = ""  # from the guest's fstab; empty where it names none


@dataclass(frozen=True)
class GuestKernel:
    """An installed kernel and its initramfs. `missing` are the modules that the destination needs."""

    version: str
    initramfs: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuestFacts:
    """What inspection found. Facts only: what to do about them is decided in decide.py."""

    family: str
    os_id: str
    os_name: str
    os_version: str
    architecture: str
    hostname: str
    firmware: Firmware
    bootloader: str
    initramfs_tool: str
    network_stack: str
    root: GuestFilesystem
    filesystems: tuple[GuestFilesystem, ...]
    kernels: tuple[GuestKernel, ...]
    nics: tuple[NicConfig, ...]
    unstable_names: tuple[str, ...] = ()  # "/etc/fstab:1 /dev/sda1" that change with the disk bus
    problems: tuple[str, ...] = ()  # why this guest cannot be adapted, in words
    warnings: tuple[str, ...] = ()


class Action(StrEnum):
    ADAPT = "adapt"
    SKIP = "skip"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Decision:
    action: Action
    reasons: tuple[str, ...]


class NetworkMode(StrEnum):
    RESTORE = "restore"
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
    mac: str
    source_mac: str
    network: str
    mode: NetworkMode
    config: NicConfig | None
    reason: str


@dataclass(frozen=True)
class Secrets:
    """What makes this job's reports unforgeable by anything but the adapted guest. Never shown or logged."""

    token: str = field(repr=False)
    nonce: str = field(repr=False)


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


# ---------------------------------------------------------------- adaptation


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


class ChangeKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


@dataclass(frozen=True)
class FileState:
    """A file before or after a change. For a symlink, `target`; for a file, its hash and size."""

    sha256: str = ""
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    target: str = ""


@dataclass(frozen=True)
class Change:
    """One entry of the change journal. `before` is None for what did not exist."""

    seq: int
    path: str
    kind: ChangeKind
    before: FileState | None
    after: FileState
    reason: str
    diff: str = ""  # unified, for text files


class Remediation(StrEnum):
    NOT_REQUIRED = "not_required"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    AWAITING_REBOOT = "awaiting_reboot"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"


@dataclass(frozen=True)
class GuestCaps:
    """What the adapted guest can run on. Promotion asks this record, never the guest again."""

    disk_buses: tuple[DiskBus, ...]
    nic_models: tuple[NicModel, ...]
    firmware: Firmware
    reporter: bool
    remediation: Remediation
    modules_added: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adaptation:
    caps: GuestCaps
    changes: tuple[Change, ...]


# ---------------------------------------------------------------- proof


class Observer(StrEnum):
    GUEST = "guest"
    PLATFORM = "platform"
    OPERATOR = "operator"


class FacetState(StrEnum):
    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    FAILED = "failed"


@dataclass(frozen=True)
class Proof:
    """One piece of evidence for or against a facet, and who saw it."""

    observer: Observer
    holds: bool
    text: str


@dataclass(frozen=True)
class Facet:
    name: str  # boot, disks, network, drivers, agent, clean-up
    state: FacetState
    required: bool
    proofs: tuple[Proof, ...]


class Word(StrEnum):
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    word: Word
    reasons: tuple[str, ...]
    facets: tuple[Facet, ...]


@dataclass(frozen=True)
class NicReport:
    mac: str
    name: str = ""
    up: bool = False
    addresses: tuple[str, ...] = ()
    driver: str = ""


@dataclass(frozen=True)
class MountReport:
    mountpoint: str
    mounted: bool
    device: str = ""


@dataclass(frozen=True)
class GuestReport:
    """One report of the guest, after the hub checked its origin. Its content is a claim, not truth."""

    sequence: int
    boot_id: str
    stage: str  # "configured" or "final"
    uptime: float
    received: str
    root_device: str = ""
    kernel: str = ""
    system_state: str = ""
    mounts: tuple[MountReport, ...] = ()
    nics: tuple[NicReport, ...] = ()
    gateway: str = ""
    gateway_answers: bool = False
    dns: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    cleaned: bool = False


@dataclass(frozen=True)
class ProbeResult:
    """An outside check by the hub: did the address answer, through the platform's network?"""

    address: str
    port: int
    answered: bool
    text: str
    at: str


@dataclass(frozen=True)
class Findings:
    """What was seen from outside after the start; screenshots are files of the job."""

    observations: tuple[Observation, ...] = ()
    probes: tuple[ProbeResult, ...] = ()


# ---------------------------------------------------------------- jobs


@dataclass(frozen=True)
class OperatorDecision:
    """`who` is claimed by the client, not proven."""

    who: str
    at: str
    what: str
    reason: str


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
