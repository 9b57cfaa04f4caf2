"""Policies: what the operator decided beforehand, as data with defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from refloat.model import DiskBus, NetworkMode, NicModel, ProbeKind


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


class PinNames(StrEnum):
    """Whether an adapter whose configuration in the guest is left alone keeps its old name.

    auto: where the guest uses DHCP or has nothing static; not where the policy says preserve.
    """

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Rebuild(StrEnum):
    """Whether the guest's own tool may make an initramfs to which nothing can be appended: the only code of a
    guest that an adaptation would run, confined, in the controller."""

    NEVER = "never"
    ALLOWED = "allowed"


class CommitThen(StrEnum):
    """What follows when nobody has decided about a live failover by its deadline."""

    REMIND = "remind"
    ROLLBACK = "rollback"
    COMMIT = "commit"


class Hibernated(StrEnum):
    """What becomes of a Windows guest that is hibernated, or has a Fast Startup session."""

    REFUSE = "refuse"
    DISCARD = "discard"  # what its programs had not saved is lost, as by a power cut


class DirtyNtfs(StrEnum):
    """What becomes of a Windows guest whose NTFS was not unmounted cleanly."""

    REFUSE = "refuse"
    REPAIR = "repair"


class SanPolicy(StrEnum):
    """Which new disks Windows brings online by itself, once the recovery is over."""

    KEEP = "keep"  # as it was at the source
    ONLINE = "online"
    OFFLINE_SHARED = "offline-shared"
    OFFLINE = "offline"

    @property
    def number(self) -> int | None:
        """As partmgr has it in the registry (VDS_SAN_POLICY); None to put back what was there."""
        return {"keep": None, "online": 1, "offline-shared": 2, "offline": 3}[self.value]


class When(StrEnum):
    """In which failovers a rule holds."""

    ALWAYS = "always"
    LIVE = "live"
    TEST = "test"


@dataclass(frozen=True)
class Readdress:
    """What is another subnet at the recovery site. `old` and `new` are networks with prefix, of one family.

    Addresses keep their host part. An empty `gateway` or `dns` follows the same rule.
    """

    old: str
    new: str
    gateway: str = ""
    dns: tuple[str, ...] = ()
    when: When = When.ALWAYS


@dataclass(frozen=True)
class NicRule:
    """The operator's own word on one adapter, by its MAC at the source. `addresses` with prefix replace
    those of the guest; `network` None is the policy's."""

    mac: str
    network: NetworkMode | None = None
    addresses: tuple[str, ...] = ()
    gateway: str = ""
    gateway6: str = ""
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    pin_names: PinNames | None = None


class Tls(StrEnum):
    """What an HTTP probe asks of the server's certificate."""

    OFF = "off"  # plain HTTP
    VERIFY = "verify"
    ANY = "any"  # encrypted, and whoever answers is believed


class Redirects(StrEnum):
    """What an HTTP probe makes of a redirect. One that leads elsewhere is never followed."""

    NEVER = "never"  # its status is the answer
    SAME = "same"  # followed on the same host and port


@dataclass(frozen=True)
class HttpCheck:
    """`statuses` that hold, and text that the body must contain. `host` is the Host header and the name in
    the certificate; empty for the address. `headers` name files that hold a header's value: it may be a
    secret. `largest` is how many bytes of the body are read."""

    path: str = "/"
    statuses: tuple[int, ...] = (200,)
    contains: str = ""
    host: str = ""
    tls: Tls = Tls.OFF
    ca: str = ""
    redirects: Redirects = Redirects.NEVER
    headers: dict[str, str] = field(default_factory=dict)
    largest: int = 1 << 20


@dataclass(frozen=True)
class Probe:
    """A check of the operator's own, from outside. `kind` says which of the fields hold: `expect` are the
    first bytes that a TCP port says, `argv` is the command of the kind command.

    `address` is empty for the VM's planned static addresses. It is repeated every `every` seconds for
    `within` seconds until it held `times` times in a row; `timeout` seconds are for one try.
    """

    port: int = 0
    expect: str = ""
    address: str = ""
    kind: ProbeKind = ProbeKind.TCP
    name: str = ""
    required: bool = True
    within: float = 30.0
    every: float = 1.0
    times: int = 1
    timeout: float = 10.0
    http: HttpCheck | None = None
    argv: tuple[str, ...] = ()


class Weighty(StrEnum):
    """Decisions that may need two people. A rollback of a test discards nothing: it never does."""

    COMMIT = "commit"
    ROLLBACK = "rollback"
    OVERRIDE = "override"


@dataclass(frozen=True)
class WindowsPolicy:
    """What holds for Windows guests alone. `report_deadline` in seconds from the start of the recovered VM:
    Windows installs its drivers then, and restarts up to three times. `online_shared` are source disks that
    may come online in the guest although other machines may use them."""

    hibernated: Hibernated = Hibernated.REFUSE
    ntfs_dirty: DirtyNtfs = DirtyNtfs.REFUSE
    san_policy: SanPolicy = SanPolicy.KEEP
    online_shared: tuple[str, ...] = ()
    report_deadline: int = 2700


@dataclass(frozen=True)
class Policy:
    """Times are in seconds; None: never. `report_deadline` counts from the start of the recovered VM,
    `test_duration` and `commit_deadline` from the verdict. `rpo` is the greatest age that a replica should
    reach.

    `disk_bus` and `nic_model` are the recovered VM's. `luks_keys` names a file with the passphrase by the
    UUID of the LUKS container, in lower case.
    """

    name: str = "default"
    mac: MacPolicy = MacPolicy.KEEP
    shutdown_deadline: int = 180
    shutdown_then: AfterDeadline = AfterDeadline.POWER_OFF
    network: NetworkMode = NetworkMode.RESTORE
    pin_names: PinNames = PinNames.AUTO
    nics: tuple[NicRule, ...] = ()
    adapt: AdaptChoice = AdaptChoice.AUTO
    rebuild: Rebuild = Rebuild.NEVER
    on_failure: OnFailure = OnFailure.ROLLBACK
    report_deadline: int = 600
    serial_console: bool = False  # on the guest's kernel command line, if it is adapted and has none
    probes: tuple[Probe, ...] = ()
    disk_bus: DiskBus = DiskBus.VIRTIO_BLK
    nic_model: NicModel = NicModel.VIRTIO
    luks_keys: dict[str, str] = field(default_factory=dict)
    sync_every: int | None = None
    rpo: int | None = None
    test_duration: int | None = None  # after which a test is rolled back by itself
    commit_deadline: int | None = None
    commit_then: CommitThen = CommitThen.REMIND
    windows: WindowsPolicy = WindowsPolicy()
    second_person: tuple[Weighty, ...] = ()  # what two people must ask for

    def nic(self, mac: str) -> NicRule:
        """What is said about the adapter with this MAC at the source; an empty rule where nothing is."""
        return next((rule for rule in self.nics if rule.mac.lower() == mac.lower()), NicRule(mac))
