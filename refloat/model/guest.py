"""What is inside the disks: the facts that inspection finds and the changes that an adaptation makes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from refloat.model.hardware import DiskBus, Firmware, NicModel
from refloat.model.windows import ValueChange, WindowsFacts


class NicMethod(StrEnum):
    STATIC = "static"
    DHCP = "dhcp"
    AUTO = "auto"  # IPv6 only: router advertisements
    NONE = "none"


class LinkKind(StrEnum):
    ETHERNET = "ethernet"
    VLAN = "vlan"
    BOND = "bond"
    BRIDGE = "bridge"


@dataclass(frozen=True)
class Route:
    """`to` is a network with prefix, or "default"; `via` is empty for a route on the link itself."""

    to: str
    via: str = ""
    metric: int | None = None


@dataclass(frozen=True)
class NicConfig:
    """One interface as the guest's own files (or the operator) configure it.

    `method` is that of IPv4, `method6` that of IPv6; `addresses`, `dns` and `routes` hold both families.
    A VLAN, bond or bridge names the interfaces below it in `members`.
    """

    name: str
    method: NicMethod
    addresses: tuple[str, ...] = ()  # with prefix: "10.20.30.40/24", "fd00::5/64"
    gateway: str = ""
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    method6: NicMethod = NicMethod.NONE
    gateway6: str = ""
    routes: tuple[Route, ...] = ()
    mtu: int | None = None
    kind: LinkKind = LinkKind.ETHERNET
    members: tuple[str, ...] = ()
    vlan_id: int | None = None
    bond_mode: str = ""
    mac: str = ""  # where the guest's files tie this configuration to an adapter's address
    sources: tuple[str, ...] = ()  # the guest's files that say so


@dataclass(frozen=True)
class Mount:
    """Where the guest's fstab mounts a filesystem; `subvolume` is btrfs' path, or "subvolid=N"."""

    point: str
    subvolume: str = ""


@dataclass(frozen=True)
class GuestFilesystem:
    """A filesystem (or swap area) found on the guest's disks.

    It lies on partition `partition` (0: none, the whole disk) of the source disk with the key `disk`;
    or on a device that the guest's kernel makes of such parts, and `volume` is its name: "/dev/vg0/root",
    "/dev/md/0", "/dev/mapper/luks-root". `disk` and `partition` are then those of its first part.
    `names` are others that mean it for certain: "PARTUUID=...", "/dev/mapper/vg0-root", and names bound to
    the hardware that the guest's own files prove to be this one. `esp`: the partition table calls it an EFI
    system partition.
    """

    disk: str
    partition: int
    kind: str
    uuid: str
    label: str = ""
    mountpoint: str = ""  # the first of `mounts`; empty where fstab names none
    volume: str = ""
    mounts: tuple[Mount, ...] = ()
    names: tuple[str, ...] = ()
    esp: bool = False


@dataclass(frozen=True)
class GuestKernel:
    """An installed kernel and its initramfs. `missing` are the modules that the destination needs.

    `space` is what the boot filesystem needs free to adapt it, in bytes; `stamp` changes whenever the
    initramfs does: one that is the same need not be unpacked again. `cannot_extend` is why nothing can be
    appended to it where the guest's own tool, and it alone, could make it anew.
    """

    version: str
    initramfs: str
    missing: tuple[str, ...] = ()
    space: int = 0
    stamp: str = ""
    cannot_extend: str = ""


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
    firmwares: tuple[Firmware, ...] = ()  # all that a boot loader is installed for; empty: `firmware` alone
    cpu_level: int = 1  # the x86-64 level that the guest's programs need (psABI: 1 to 4)
    windows: WindowsFacts | None = None  # None: a Linux guest
    senders: tuple[str, ...] = ()  # its programs that can send a report by HTTPS


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
    """One entry of the change journal. `before` is None for what did not exist.

    A registry hive is a file; `values` are the changes inside it.
    """

    seq: int
    path: str
    kind: ChangeKind
    before: FileState | None
    after: FileState
    reason: str
    diff: str = ""  # unified, for text files
    values: tuple[ValueChange, ...] = ()


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
    clock_utc: bool = True  # what the hardware clock must show; False: the guest's local time


@dataclass(frozen=True)
class Adaptation:
    """`facts` are the guest's as they were just before the first change."""

    caps: GuestCaps
    changes: tuple[Change, ...]
    facts: GuestFacts
