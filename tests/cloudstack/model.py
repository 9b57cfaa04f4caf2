"""What the modelled cloud consists of: plain records, each with the uuid by which the API names it."""

import uuid
from dataclasses import dataclass, field


def new_id() -> str:
    return str(uuid.uuid4())


GIB = 1 << 30


@dataclass
class Zone:
    name: str
    id: str = field(default_factory=new_id)


@dataclass
class Host:
    name: str
    uefi: bool = True
    cpus: int = 32
    memory: int = 65536  # MiB
    cluster: str = "cluster-1"
    id: str = field(default_factory=new_id)


@dataclass
class Pool:
    """Primary storage. `revertable`: whether a snapshot on it can be reverted by the mechanism in use."""

    name: str
    scope: str = "ZONE"  # ZONE, CLUSTER or HOST
    where: str = ""  # the cluster's or host's name
    type: str = "NetworkFilesystem"
    managed: bool = False
    revertable: bool = True
    tag: str | None = None
    id: str = field(default_factory=new_id)


@dataclass
class DiskOffering:
    name: str
    gib: int = 0  # 0: customized
    tag: str | None = None
    id: str = field(default_factory=new_id)


@dataclass
class Offering:
    """A compute offering: fixed where `cpus` is not None."""

    name: str
    cpus: int | None = None
    memory: int | None = None  # MiB
    speed: int | None = 1000
    volatile: bool = False
    ha: bool = False
    root_gib: int = 0  # a root disk size given by the offering, 0: the template's
    tag: str | None = None
    cpu_range: tuple[int, int] | None = None
    memory_range: tuple[int, int] | None = None
    id: str = field(default_factory=new_id)

    @property
    def custom(self) -> bool:
        return self.cpus is None


@dataclass
class Template:
    name: str
    gib: int = 2
    os_type: str = ""
    content: bytes = b"template"
    details: dict[str, str] = field(default_factory=dict)
    ready: bool = True
    available: float = 0.0  # virtual time at which a registered template is downloaded
    id: str = field(default_factory=new_id)


@dataclass
class Network:
    """`range`: first and last address given out (Shared: the VLAN range, Isolated: within the CIDR)."""

    name: str
    type: str = "Isolated"  # Isolated, Shared or L2
    cidr: str | None = "10.1.1.0/24"
    gateway: str | None = "10.1.1.1"
    range: tuple[str, str] | None = None
    id: str = field(default_factory=new_id)


@dataclass
class OsType:
    name: str
    category: str
    id: str = field(default_factory=new_id)


@dataclass
class Nic:
    network: Network
    mac: str
    ip: str | None
    default: bool
    device: int
    id: str = field(default_factory=new_id)


@dataclass
class Volume:
    name: str
    type: str  # ROOT or DATADISK
    size: int  # bytes
    pool: Pool | None
    offering_id: str | None = None
    vm: str | None = None
    device: int | None = None
    state: str = "Allocated"
    template: str | None = None
    delete_protection: bool = False
    destroyed: bool = False
    owner: str = "admin"
    detaching: bool = False
    attached: int = 0
    id: str = field(default_factory=new_id)

    @property
    def serial(self) -> str:
        """The disk's serial in the guest: the first 20 hex digits of the uuid (KVM,
        LibvirtComputingResource)."""
        return self.id.replace("-", "")[:20]


@dataclass
class Snapshot:
    name: str
    volume: str
    content: bytes
    vm: str | None
    size: int
    state: str = "Allocated"
    revertable: bool = False
    id: str = field(default_factory=new_id)


@dataclass
class VmSnapshot:
    name: str
    vm: str
    state: str = "Ready"
    id: str = field(default_factory=new_id)


@dataclass
class Vm:
    name: str
    display_name: str
    offering: Offering
    template: Template
    os_type: str
    owner: str = "admin"
    state: str = "Stopped"
    host: Host | None = None
    cpus: int = 1
    memory: int = 1024
    speed: int = 1000
    details: dict[str, str] = field(default_factory=dict)
    nics: list[Nic] = field(default_factory=list)
    ha: bool = False
    key_pair: str | None = None
    user_data: str | None = None
    delete_protection: bool = False
    starts: int = 0
    removed: bool = False
    id: str = field(default_factory=new_id)

    @property
    def instance_name(self) -> str:
        return f"i-2-{int(self.id[:4], 16)}-VM"


@dataclass
class Key:
    """An API key. `allowed`: the commands its role permits (None: all of the role type's)."""

    account: str
    api: str
    secret: str
    role: str = "Admin"  # Admin, DomainAdmin or User
    allowed: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()


@dataclass
class Tag:
    resource_type: str
    resource_id: str
    key: str
    value: str
