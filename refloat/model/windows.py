"""What is particular to Windows guests: facts, the drivers chosen for one, and changed registry values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Hibernation(StrEnum):
    NONE = "none"
    FAST_STARTUP = "fast_startup"  # only the kernel's session is kept
    HIBERNATED = "hibernated"  # users' programs too


class BitLocker(StrEnum):
    NONE = "none"
    SUSPENDED = "suspended"  # encrypted, with a clear key on the disk
    LOCKED = "locked"


@dataclass(frozen=True)
class DriveLetter:
    """One entry of MountedDevices. `disk` is the MBR signature (8 hex digits) with `offset` in bytes; or
    `partition` the GPT partition's GUID; or neither: a removable drive, named by `other`."""

    letter: str
    disk: str = ""
    offset: int = 0
    partition: str = ""
    other: str = ""


@dataclass(frozen=True)
class WindowsAdapter:
    """A network adapter that this Windows has known. `nic` is the name of its NicConfig among the facts."""

    guid: str  # "{...}" in upper case
    nic: str
    instance: str = ""  # "PCI\\VEN_15AD&DEV_07B0&..."
    mac: str = ""
    interface_metric: int | None = None
    gateway_metrics: tuple[int, ...] = ()
    driver: str = ""  # its service: "vmxnet3ndis6"


@dataclass(frozen=True)
class BootDriver:
    """A storage driver that is installed. `start` as the SCM has it: 0 boot, 3 demand, 4 disabled."""

    service: str
    start: int
    overridden: bool  # StartOverride keeps it from starting although Start says 0


@dataclass(frozen=True)
class WindowsFacts:
    """`version` is the name of a row of versions.py ("2022"). `control_set` is the current one."""

    version: str
    product: str
    edition: str
    build: int
    revision: int
    server: bool
    core: bool
    architecture: str  # as virtio-win names its folders: amd64, x86, ARM64
    control_set: str
    driver_database: bool
    system_root: str = "/C/Windows"
    hibernation: Hibernation = Hibernation.NONE
    dirty: bool = False
    bitlocker: BitLocker = BitLocker.NONE
    pending: tuple[str, ...] = ()  # updates and restarts that wait, in words
    policies: tuple[str, ...] = ()  # that may keep drivers or scripts from working, in words
    storage_drivers: tuple[BootDriver, ...] = ()
    vmware_tools: str = ""  # its version; empty where it is not installed
    letters: tuple[DriveLetter, ...] = ()
    adapters: tuple[WindowsAdapter, ...] = ()
    san_policy: int | None = None
    clock_utc: bool = False
    crash_reboot: bool = True
    system_volumes: tuple[str, ...] = ()  # where Windows' own volumes are in the tree: "/C", "/ESP"


AGENT_FOLDER = "guest-agent"


@dataclass(frozen=True)
class DriverFile:
    """A file of the driver set: `path` is relative to the set's folder, "viostor/viostor.sys"."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class DriverChoice:
    """The drivers for one build and architecture, out of the operator's set.

    `source` names the ISO or folder as the operator did, `sha256` is the ISO's (for a folder: of its list).
    The guest agent's installer is among the files, in AGENT_FOLDER. `versions` are those that the drivers'
    INF files say; `warnings` what is doubtful about this choice, in words.
    """

    source: str
    sha256: str
    folder: str  # "2k22"
    architecture: str
    files: tuple[DriverFile, ...]
    versions: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def drivers(self) -> tuple[str, ...]:
        folders = dict.fromkeys(file.path.partition("/")[0] for file in self.files)
        return tuple(folder for folder in folders if folder != AGENT_FOLDER)

    def agent(self) -> str:
        """The path of the guest agent's installer; empty where the set has none."""
        return next((file.path for file in self.files if file.path.startswith(f"{AGENT_FOLDER}/")), "")


@dataclass(frozen=True)
class WindowsRequest:
    """What the engine is told of a Windows guest beyond AdaptRequest.

    `drivers_dir` is a folder of the machine where the engine runs, with the choice's files.
    """

    drivers: DriverChoice
    drivers_dir: str
    discard_hibernation: bool = False
    repair_dirty: bool = False
    online_disks: tuple[str, ...] = ()  # keys of the disks that may be brought online in the guest
    online_shared: tuple[str, ...] = ()  # of these, the ones that may be so though clustered or shared
    san_policy_after: int | None = None  # None: what it was before
    callback: str = ""  # URL for reports; empty: none


@dataclass(frozen=True)
class ValueChange:
    """One registry value. `before` and `after` are as in a .reg file: dword:00000001, "text", hex(7):61,...

    None: the value was not there, or is not any more. `name` is "" for a key's default value; a key that was
    made or removed has name None and "" where it exists.
    """

    key: str  # "SYSTEM\\ControlSet001\\Services\\viostor"
    name: str | None
    before: str | None
    after: str | None
