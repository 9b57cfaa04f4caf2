"""What is put into a Windows guest so that it finishes its recovery and says so: pure, nothing is written.

All of it lies in one folder of the system root, which only the system and administrators may read, and is
removed by the guest itself but for logs and status. See stages.py for what runs, plan.py for its orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from refloat.errors import Refused
from refloat.guest.firstboot.windows import stages
from refloat.guest.firstboot.windows.plan import deadline, delivery, pairs, plan, secrets
from refloat.guest.windows.settings import DEVICE_PATH
from refloat.guest.windows.values import Value
from refloat.model import AdaptRequest, GuestFacts, WindowsFacts, WindowsRequest

FOLDER = "Refloat"
SERVICE = "Refloat"
# Below the folder: where the driver files of the choice are staged, each with its path there.
DRIVERS = "drivers"
# In the order of the script: each part uses those before it.
PARTS = (
    "base.ps1",
    "checkpoint.ps1",
    "facts.ps1",
    "report.ps1",
    "ready.ps1",
    "drivers.ps1",
    "disks.ps1",
    "agent.ps1",
    "stale.ps1",
    "network.ps1",
    "cmdlets.ps1",
    "verify.ps1",
    "main.ps1",
)
_TABLES = "base.ps1"  # after it come the tables of stages.py
_ADDED = f";{DEVICE_PATH}"
_CMD = "%SystemRoot%\\System32\\cmd.exe"


@dataclass(frozen=True)
class WindowsFile:
    """`shown`: as a diff in the journal: not for secrets, nor for programs of our own."""

    content: bytes
    shown: bool = True
    reason: str = "first boot"


@dataclass(frozen=True)
class ServiceValue:
    """One value of the launcher's service: `key` below Services, "Refloat"."""

    key: str
    name: str
    value: Value


@dataclass(frozen=True)
class WindowsStaged:
    """Directories first, then files (paths in the tree), then the service in the SYSTEM hive."""

    directories: tuple[str, ...]
    files: Mapping[str, WindowsFile]
    service: tuple[ServiceValue, ...]


@dataclass(frozen=True)
class Launcher:
    """The launcher's settings. Times in seconds, but `tick_pings`: a ping more than the seconds of a tick."""

    deadline: int
    powershell: str = "%SystemRoot%\\System32\\WindowsPowerShell\\v1.0\\powershell.exe"
    service_key: str = f"HKLM\\SYSTEM\\CurrentControlSet\\Services\\{SERVICE}"
    ports: str = "\\\\.\\Global\\"  # before the name of a virtio-serial port
    runs: int = stages.RUNS
    tick: int = 5
    pause: int = 5
    start_limit: int = 300
    restart_wait: int = 300
    repeats: int = 20
    repeat_wait: int = 15

    def lines(self) -> tuple[str, ...]:
        values = {
            "SERVICE": SERVICE,
            "SERVICE_KEY": self.service_key,
            "PATHS_KEY": "HKLM\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion",
            "ADDED": _ADDED.replace("%", "%%"),
            "POWERSHELL": self.powershell,
            "PORTS": self.ports,
            "DEADLINE": self.deadline,
            "RUNS": self.runs,
            "SILENT": stages.SILENT,
            "RESTARTS": stages.RESTARTS,
            "TICK": self.tick,
            "TICK_PINGS": self.tick + 1,
            "PAUSE": self.pause,
            "START_LIMIT": self.start_limit,
            "RESTART_WAIT": self.restart_wait,
            "REPEATS": self.repeats,
            "REPEAT_WAIT": self.repeat_wait,
        }
        return tuple(f'set "{name}={value}"' for name, value in values.items())


def stage(request: AdaptRequest, facts: GuestFacts) -> WindowsStaged:
    """All that the first boot of this guest needs, the driver files apart. Raises Refused for a plan that
    cannot be put into the guest's own words."""
    windows, wanted = _windows(request, facts)
    folder = f"{windows.system_root}/{FOLDER}"
    files = {
        "firstboot.cmd": WindowsFile(launcher(Launcher(deadline(request))), shown=False),
        "firstboot.ps1": WindowsFile(script(), shown=False),
        "plan.txt": WindowsFile(pairs(plan(request, wanted, facts, windows))),
        "secrets.txt": WindowsFile(pairs(secrets(request)), shown=False),
        "delivery.txt": WindowsFile(pairs(delivery(request, wanted))),
        "status.txt": WindowsFile(pairs({"STATUS": "scheduled"})),
    }
    return WindowsStaged(
        directories=(folder,),
        files={f"{folder}/{name}": file for name, file in files.items()},
        service=service(),
    )


def _windows(request: AdaptRequest, facts: GuestFacts) -> tuple[WindowsFacts, WindowsRequest]:
    if facts.windows is None or request.windows is None:
        raise Refused("this is no request for a Windows guest", code="plan_invalid")
    return facts.windows, request.windows


def service() -> tuple[ServiceValue, ...]:
    """The service of the launcher. The child is detached: what a service starts may outlive the 30 seconds
    that the service control manager waits for an answer, which cmd.exe cannot give."""
    launcher = f"{_CMD} /d /c %SystemRoot%\\{FOLDER}\\firstboot.cmd"
    rows = {
        "Type": Value.dword(0x10),
        "Start": Value.dword(2),
        "ErrorControl": Value.dword(0),
        "ImagePath": Value.expand_sz(f'{_CMD} /d /c start "" /b {launcher}'),
        "ObjectName": Value.sz("LocalSystem"),
        "DisplayName": Value.sz("Refloat"),
        "Description": Value.sz("Finishes the recovery of this machine, then removes itself."),
    }
    return tuple(ServiceValue(SERVICE, name, value) for name, value in rows.items())


def launcher(settings: Launcher) -> bytes:
    """firstboot.cmd: cmd.exe finds labels for certain only where lines end in CR LF."""
    text = _own("firstboot.cmd").replace("rem @SETTINGS@\n", "".join(f"{x}\n" for x in settings.lines()))
    text = text.replace("@ADDED@", str(len(_ADDED)))
    return text.replace("\n", "\r\n").encode("ascii")


def script() -> bytes:
    """The whole script as one file: a policy that forbids script files forbids to include one, too."""
    texts = []
    for name in PARTS:
        texts.append(_own(name))
        if name == _TABLES:
            texts.append(stages.powershell())
    return "\n".join(texts).replace("\n", "\r\n").encode("ascii")


def _own(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("ascii")
