"""What an adaptation may change in a guest's registry at all: rows of data, and no by default.

A path is "/<hive>/<key>/<value>": with a slash at its end it means the key itself. So a row that ends in a
value's name allows that value alone, and one that ends in `/**` a key with everything below it.

SAM, SECURITY and the users' hives are out of reach twice: no code opens them, and the rows below say no.
"""

from __future__ import annotations

from refloat.guest.boundary import Boundary, Rule

_BOOT = "boot-critical storage drivers"
_BUS = "the driver of a bus that Windows brings along, as a way to boot without our drivers"
_STAGED = "the service that runs the first boot, removed by the guest itself"
_BINDING = "binds the destination's disk controllers to their drivers, removed by the guest itself"

_CONTROL = "/SYSTEM/ControlSet*/Control"
_SERVICES = "/SYSTEM/ControlSet*/Services"


def _rule(pattern: str, because: str) -> Rule:
    return Rule(pattern, because, any_case=True)


def _bus_driver(service: str) -> tuple[Rule, ...]:
    return (
        _rule(f"{_SERVICES}/{service}/Start", _BUS),
        _rule(f"{_SERVICES}/{service}/StartOverride", _BUS),
        _rule(f"{_SERVICES}/{service}/StartOverride/**", _BUS),
    )


FORBIDDEN = (
    _rule("/SAM/**", "users"),
    _rule("/SECURITY/**", "secrets and policies of the machine"),
    _rule("/NTUSER*/**", "a user's own settings"),
    _rule("/USRCLASS*/**", "a user's own settings"),
    _rule(f"{_CONTROL}/Lsa*/**", "log-in"),
    _rule(f"{_CONTROL}/ComputerName/**", "the guest's identity"),
    _rule(f"{_CONTROL}/ProductOptions/**", "the guest's licence"),
    _rule(f"{_SERVICES}/Netlogon/**", "domain membership"),
    _rule(f"{_SERVICES}/NTDS/**", "domain membership"),
    _rule(f"{_SERVICES}/Tcpip*/**", "addresses are set by the running guest, on the adapter it has then"),
)

ALLOWED = (
    _rule(f"{_SERVICES}/viostor/**", _BOOT),
    _rule(f"{_SERVICES}/vioscsi/**", _BOOT),
    *(rule for service in ("storahci", "msahci", "stornvme") for rule in _bus_driver(service)),
    _rule(f"{_CONTROL}/CriticalDeviceDatabase/PCI#VEN_1AF4*/**", _BINDING),
    _rule("/SYSTEM/DriverDatabase/DeviceIds/PCI/VEN_1AF4*/**", _BINDING),
    _rule("/SYSTEM/DriverDatabase/DriverInfFiles/viostor.inf/**", _BINDING),
    _rule("/SYSTEM/DriverDatabase/DriverInfFiles/vioscsi.inf/**", _BINDING),
    _rule("/SYSTEM/DriverDatabase/DriverPackages/viostor.inf_*/**", _BINDING),
    _rule("/SYSTEM/DriverDatabase/DriverPackages/vioscsi.inf_*/**", _BINDING),
    _rule(f"{_SERVICES}/Refloat*/**", _STAGED),
    _rule(f"{_SERVICES}/partmgr/Parameters/", "holds the value below"),
    _rule(f"{_SERVICES}/partmgr/Parameters/SanPolicy", "disks on a new bus come online"),
    _rule(f"{_CONTROL}/CrashControl/AutoReboot", "a crash stays visible until the guest is remediated"),
    _rule("/SOFTWARE/Microsoft/Windows/CurrentVersion/DevicePath", "where the staged drivers are found"),
    _rule("/BCD*/Objects/{*}/Elements/16000046/**", "no text mode without graphics on the destination"),
)

BOUNDARY = Boundary(ALLOWED, FORBIDDEN)


def value_path(hive: str, key: str, name: str) -> str:
    """What the boundary is asked about a value. A "/" in a name would pass for a level: it is replaced."""
    return f"{key_path(hive, key)}{_plain(name) or '(default)'}"


def key_path(hive: str, key: str) -> str:
    parts = [_plain(part) for part in key.split("\\") if part]
    return "".join(f"/{part}" for part in (hive, *parts)) + "/"


def _plain(name: str) -> str:
    return name.replace("/", "\\")
