"""The orders for the script in a Windows guest: KEY=VALUE lines, pure.

cmd.exe and PowerShell 2.0 read them, so a value is ASCII without any character that cmd.exe gives a meaning.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

from refloat.errors import Refused
from refloat.model import (
    AdaptRequest,
    DiskBus,
    DriveLetter,
    GuestFacts,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    PlannedNic,
    WindowsFacts,
    WindowsRequest,
)

FORMAT = 1
VALUE_LIMIT = 1000  # characters: cmd.exe reads at most 1,023 of a line, its key included
_KEY = re.compile(r"[A-Z][A-Z0-9_]{0,40}")
# No quotes, and none of % ! ^ & | < >.
_VALUE = re.compile(rf"[A-Za-z0-9 ._:=+/,;(){{}}~\\\[\]@#*?$'-]{{0,{VALUE_LIMIT}}}")
_PLAIN = re.compile(r"[A-Za-z0-9._:=+/-]{1,256}")
_CHANNEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SERIAL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CALLBACK = re.compile(r"https://[A-Za-z0-9._:\[\]/-]{1,200}")
_SUFFIX = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_REWRITTEN = (NetworkMode.RESTORE, NetworkMode.READDRESS, NetworkMode.DHCP)
_BOOT_DRIVERS = {DiskBus.VIRTIO_BLK: "viostor", DiskBus.VIRTIO_SCSI: "vioscsi"}
_NIC_DRIVERS = {NicModel.VIRTIO: "netkvm"}
_REPORT_PORT = "COM1"


def pairs(values: Mapping[str, str]) -> bytes:
    """The file. Raises Refused for a key or a value that the guest could not read back as it is."""
    for key, value in values.items():
        if not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            raise Refused(f"{key}={value!r} cannot be put into a guest's file", code="plan_invalid")
    return "".join(f"{key}={value}\r\n" for key, value in values.items()).encode("ascii")


def secrets(request: AdaptRequest) -> dict[str, str]:
    given = {"TOKEN": request.secrets.token, "NONCE": request.secrets.nonce}
    if not all(_PLAIN.fullmatch(value) for value in given.values()):
        raise Refused("the job's token or nonce has characters that are not allowed", code="plan_invalid")
    return given


def delivery(request: AdaptRequest, wanted: WindowsRequest) -> dict[str, str]:
    """Where reports go. Kept to the end, when the plan is gone already: there is nothing secret in it."""
    if wanted.callback:
        _checked(_CALLBACK, wanted.callback, "address for reports")
    return {
        "CHANNEL": _checked(_CHANNEL, request.channel, "name of a report channel"),
        "SERIAL": _REPORT_PORT,
        "CALLBACK": wanted.callback,
    }


def deadline(request: AdaptRequest) -> int:
    """Seconds that the stages may take in all. The rest is for the boots, and for the last report."""
    return int(request.report_deadline) * 3 // 4


def plan(
    request: AdaptRequest, wanted: WindowsRequest, facts: GuestFacts, windows: WindowsFacts
) -> dict[str, str]:
    """Every order, by key. Lists are numbered from 1, with their length under the plural. Raises Refused for
    what cannot be said in such lines."""
    try:
        return _plan(request, wanted, facts, windows)
    except ValueError as error:
        raise Refused(f"the plan has an address that is none: {error}", code="plan_invalid")


def _plan(
    request: AdaptRequest, wanted: WindowsRequest, facts: GuestFacts, windows: WindowsFacts
) -> dict[str, str]:
    san = windows.san_policy if wanted.san_policy_after is None else wanted.san_policy_after
    return {
        "FORMAT": str(FORMAT),
        "JOB": _checked(_PLAIN, request.job, "name of a job"),
        "DEADLINE": str(deadline(request)),
        "BUILD": str(windows.build),
        "ARCHITECTURE": windows.architecture,
        "CRASH_REBOOT": str(int(windows.crash_reboot)),
        "SAN_POLICY": "-" if san is None else str(san),
        "BOOT_DRIVER": _BOOT_DRIVERS.get(request.disk_bus, ""),
        "NIC_DRIVER": _NIC_DRIVERS.get(request.nic_model, "") if request.nics else "",
        **_drivers(wanted),
        **_disks(request, wanted),
        **_letters(windows.letters),
        "STALE": str(int(any(nic.mode in _REWRITTEN for nic in request.nics))),
        **_nics(request.nics, facts, windows),
    }


def _checked(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise Refused(f"{value!r} is no {what}", code="plan_invalid")
    return value


# ---------------------------------------------------------------- drivers, disks


def _drivers(wanted: WindowsRequest) -> dict[str, str]:
    """The INF files of the choice, storage first: the rest is of no use without a disk."""
    infs = [file.path for file in wanted.drivers.files if file.path.lower().endswith(".inf")]
    order = {"viostor": 0, "vioscsi": 1, "netkvm": 2, "vioserial": 3}
    infs.sort(key=lambda path: (order.get(path.partition("/")[0].lower(), len(order)), path.lower()))
    found = {"DRIVERS": str(len(infs))}
    for number, path in enumerate(infs, 1):
        found[f"DRIVER_{number}_NAME"] = path.partition("/")[0]
        found[f"DRIVER_{number}_INF"] = "drivers\\" + path.replace("/", "\\")
    agent = wanted.drivers.agent()
    found["AGENT"] = "drivers\\" + agent.replace("/", "\\") if agent else ""
    return found


def _disks(request: AdaptRequest, wanted: WindowsRequest) -> dict[str, str]:
    """The disks that are to be online, by the serial number that they have at the destination. The first
    boots, and is online where anything runs."""
    online = [disk for disk in request.disks[1:] if disk.key in wanted.online_disks]
    found = {"DISKS": str(len(online))}
    for number, disk in enumerate(online, 1):
        found[f"DISK_{number}_SERIAL"] = _checked(_SERIAL, disk.serial, "serial number of a disk")
        found[f"DISK_{number}_SHARED"] = str(int(disk.key in wanted.online_shared))
    return found


def _letters(letters: Sequence[DriveLetter]) -> dict[str, str]:
    """The drive letters that must be there again, each with what MountedDevices has for it, in hex."""
    kept = [(letter.letter.rstrip(":"), _mounted_device(letter)) for letter in letters]
    kept = [(letter, data) for letter, data in kept if data and re.fullmatch("[A-Z]", letter)]
    found = {"LETTERS": str(len(kept))}
    for number, (letter, data) in enumerate(kept, 1):
        found[f"LETTER_{number}_NAME"] = letter
        found[f"LETTER_{number}_DATA"] = data
    return found


def _mounted_device(letter: DriveLetter) -> str:
    """An MBR partition by its disk's signature and its offset, a GPT partition by its GUID; both as Windows
    stores them (little-endian). Empty for removable drives: they may differ at the destination."""
    if re.fullmatch("[0-9A-Fa-f]{8}", letter.disk):
        return struct.pack("<IQ", int(letter.disk, 16), letter.offset).hex()
    try:
        return (b"DMIO:ID:" + uuid.UUID(letter.partition).bytes_le).hex() if letter.partition else ""
    except ValueError:
        return ""


# ---------------------------------------------------------------- network


def _nics(nics: Sequence[PlannedNic], facts: GuestFacts, windows: WindowsFacts) -> dict[str, str]:
    found = {"NICS": str(len(nics))}
    for number, nic in enumerate(nics, 1):
        before = next((one for one in facts.nics if nic.config and one.name == nic.config.name), None)
        for key, value in _nic(nic, before, windows).items():
            found[f"NIC_{number}_{key}"] = value
    return found


def _nic(nic: PlannedNic, before: NicConfig | None, windows: WindowsFacts) -> dict[str, str]:
    """One adapter: its MAC and, unless it is left alone, what it shall have."""
    mac = _checked(_MAC, nic.mac.lower(), "MAC address")
    config = nic.config
    if nic.mode not in _REWRITTEN or config is None:
        return {"MAC": mac, "MODE": "preserve"}
    if nic.mode is NetworkMode.DHCP or config.method is NicMethod.DHCP:
        return {"MAC": mac, "MODE": "dhcp", **_names(config)}
    if not config.addresses:
        return {"MAC": mac, "MODE": "preserve"}  # it had none, as one without a cable
    return {"MAC": mac, "MODE": "static", **_static(config, before, windows), **_names(config)}


def _static(config: NicConfig, before: NicConfig | None, windows: WindowsFacts) -> dict[str, str]:
    """Addresses as "ADDRESS PREFIX MASK" (IPv6: "ADDRESS PREFIX"), gateways as "ADDRESS METRIC", 0 for
    automatic."""
    adapter = next((one for one in windows.adapters if one.nic == config.name), None)
    addresses = [ip_interface(address) for address in config.addresses]
    four = [f"{a.ip} {a.network.prefixlen} {a.netmask}" for a in addresses if isinstance(a, IPv4Interface)]
    six = [f"{a.ip} {a.network.prefixlen}" for a in addresses if isinstance(a, IPv6Interface)]
    metrics = adapter.gateway_metrics if adapter else ()
    gateways = _gateways(config)
    old = [gateway for gateway, _ in _gateways(before) if gateway not in dict(gateways)] if before else []
    metric = adapter.interface_metric if adapter and adapter.interface_metric else 0
    return {
        **_list("ADDRESS", "ADDRESSES", four),
        **_list("ADDRESS6", "ADDRESSES6", six),
        **_list("GATEWAY", "GATEWAYS", _with_metrics([g for g in gateways if ":" not in g[0]], metrics)),
        **_list("GATEWAY6", "GATEWAYS6", _with_metrics([g for g in gateways if ":" in g[0]], ())),
        **_list("OLD_GATEWAY", "OLD_GATEWAYS", [gateway for gateway in old if ":" not in gateway]),
        "METRIC": str(metric),
    }


def _names(config: NicConfig) -> dict[str, str]:
    """Name servers in their order, and the adapter's DNS suffix: also where the address comes by DHCP."""
    servers = [str(ip_address(server)) for server in config.dns]
    return {
        "DNS": ",".join(server for server in servers if ":" not in server),
        "DNS6": ",".join(server for server in servers if ":" in server),
        "SUFFIX": _checked(_SUFFIX, config.search[0], "DNS suffix") if config.search else "",
    }


def _list(one: str, many: str, values: Sequence[str]) -> dict[str, str]:
    return {many: str(len(values)), **{f"{one}_{n}": value for n, value in enumerate(values, 1)}}


def _gateways(config: NicConfig) -> list[tuple[str, int | None]]:
    """Every default gateway with its metric, each once."""
    found: dict[str, int | None] = {}
    for gateway in (config.gateway, config.gateway6):
        if gateway:
            found[str(ip_address(gateway))] = None
    for route in config.routes:
        if route.to in ("default", "0.0.0.0/0", "::/0") and route.via:
            gateway = str(ip_address(route.via))
            found[gateway] = route.metric if route.metric is not None else found.get(gateway)
    return list(found.items())


def _with_metrics(gateways: Sequence[tuple[str, int | None]], metrics: Sequence[int]) -> list[str]:
    """The route's own metric, else the adapter's for the gateway of that number, else automatic."""
    listed = [*metrics, *(0 for _ in gateways)]
    return [
        f"{gateway} {metric if metric is not None else listed[number]}"
        for number, (gateway, metric) in enumerate(gateways)
    ]
