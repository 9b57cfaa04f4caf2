"""The network configuration of a Windows guest, from its registry: its static settings, where it has some.

Settings are kept by interface GUID (Services\\Tcpip\\Parameters\\Interfaces), names and devices of adapters
beside them (Control\\Network). Adapters that once were there are kept for ever: all are facts here; which of
them are the machine's is decided elsewhere, by MAC address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from refloat.guest.notes import Notes
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.values import Value
from refloat.model import NicConfig, NicMethod, Route, WindowsAdapter
from refloat.text import safe

_CLASS = "{4D36E972-E325-11CE-BFC1-08002BE10318}"  # network adapters
_GUID = re.compile(r"\{[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}\}")
# The serial number of a PCI Express adapter, made of its MAC address: 000C29 FFFF F3FFDE, and the function.
_SERIAL = re.compile(r"([0-9A-F]{6})FFFF([0-9A-F]{6})[0-9A-F]{2}")
_BUSES = ("PCI", "VMBUS", "XENVIF", "XEN", "VIRTIO", "USB")
_NSI_IPV6 = "Control\\Nsi\\{EB004A01-9B1A-11D4-9123-0050047759BC}\\10"
_ADAPTERS = 256  # more are not looked at
_ADDRESSES = 64  # of one adapter
_ROUTES = 256


@dataclass(frozen=True)
class _Interface:
    """An adapter with the values of its interface."""

    adapter: WindowsAdapter
    values: dict[str, Value]
    source: str


@dataclass(frozen=True)
class _Persistent:
    """An entry of PersistentRoutes. `metric` None: automatic."""

    to: IPv4Network
    via: IPv4Address
    metric: int | None


def look(
    system: Hive, control_set: str, notes: Notes
) -> tuple[tuple[NicConfig, ...], tuple[WindowsAdapter, ...]]:
    """Every adapter of a hardware bus, as its settings configure it. What cannot be read is a warning."""
    found = [_config(one, notes) for one in _interfaces(system, control_set, notes)]
    configs = _with_routes([config for config, _ in found], _persistent(system, control_set, notes), notes)
    _note_ipv6(system, control_set, notes)
    return tuple(configs), tuple(adapter for _, adapter in found)


# ---------------------------------------------------------------- adapters


def _interfaces(system: Hive, control_set: str, notes: Notes) -> Iterator[_Interface]:
    settings = f"{control_set}\\Services\\Tcpip\\Parameters\\Interfaces"
    names: set[str] = set()
    guids = [guid.upper() for guid in system.keys(settings)]
    for guid in [guid for guid in guids if _GUID.fullmatch(guid)][:_ADAPTERS]:
        connection = f"{control_set}\\Control\\Network\\{_CLASS}\\{guid}\\Connection"
        instance = system.string(connection, "PnPInstanceId")
        key = f"{settings}\\{guid}"
        values = {name.lower(): value for name, value in system.values(key).items()}
        name = system.string(connection, "Name") or guid
        if instance.partition("\\")[0].upper() not in _BUSES:
            _note_virtual(name, instance, values, notes)
            continue
        if name in names:
            name = f"{name} {guid}"
        names.add(name)
        mac = _mac(system, control_set, guid, instance)
        driver = system.string(f"{control_set}\\Enum\\{instance}", "Service")
        adapter = WindowsAdapter(guid, name, instance, mac, driver=driver)
        yield _Interface(adapter, values, f"SYSTEM\\{key}")


def _note_virtual(name: str, instance: str, values: dict[str, Value], notes: Notes) -> None:
    """Teams, bridges, tunnels and the like have no hardware: they stay, and what they need is the guest's."""
    if _number(values.get("enabledhcp")) == 0 and _addresses(values)[0]:
        notes.warnings.append(
            f"{name} has addresses, but is no hardware ({instance or 'no device'}): a team, bridge or tunnel "
            "is left as it is, and has to be checked after the recovery"
        )


def _mac(system: Hive, control_set: str, guid: str, instance: str) -> str:
    """From Windows' own notes (10 and later), else from the serial number of the device; else unknown."""
    kernel = f"{control_set}\\Control\\NetworkSetup2\\Interfaces\\{guid}\\Kernel"
    value = system.get(kernel, "PermanentAddress")
    if value is not None and len(value.data) == 6:
        raw = value.data
    else:
        serial = _SERIAL.fullmatch(instance.upper().rpartition("\\")[2])
        raw = bytes.fromhex(serial[1] + serial[2]) if serial else b""
    # Neither empty nor a group address.
    return raw.hex(":") if any(raw) and not raw[0] & 1 else ""


# ---------------------------------------------------------------- one interface


def _config(one: _Interface, notes: Notes) -> tuple[NicConfig, WindowsAdapter]:
    values, name = one.values, one.adapter.nic
    dhcp = _number(values.get("enabledhcp"))
    addresses, wrong = _addresses(values)
    if dhcp == 1 or (dhcp is None and not addresses):
        method, addresses, wrong = NicMethod.DHCP, [], []
    else:
        method = NicMethod.STATIC if addresses else NicMethod.NONE
    if wrong:
        notes.warnings.append(f"{name}: addresses that cannot be read are left out: {', '.join(wrong)}")
    gateways = _gateways(values) if method is NicMethod.STATIC else []
    domain = _text(values.get("domain"))
    mtu = _number(values.get("mtu"))
    config = NicConfig(
        name=name,
        method=method,
        addresses=tuple(str(address) for address in addresses),
        gateway=gateways[0][0] if gateways else "",
        dns=tuple(_servers(_text(values.get("nameserver")), name, notes)),
        search=(domain,) if domain else (),
        method6=NicMethod.AUTO,
        routes=tuple(Route("default", gateway, metric or None) for gateway, metric in gateways[1:]),
        mtu=mtu if mtu and 576 <= mtu <= 65535 else None,
        mac=one.adapter.mac,
        sources=(one.source,),
    )
    metric = _number(values.get("interfacemetric")) or None
    metrics = tuple(metric for _, metric in gateways)
    return config, replace(one.adapter, interface_metric=metric, gateway_metrics=metrics)


def _addresses(values: dict[str, Value]) -> tuple[list[IPv4Interface], list[str]]:
    """All static addresses, and those that are none."""
    found, wrong = [], []
    texts, masks = _list(values.get("ipaddress")), _list(values.get("subnetmask"))
    for number, text in enumerate(texts[:_ADDRESSES]):
        if text == "0.0.0.0":
            continue
        mask = masks[number] if number < len(masks) else ""
        try:
            found.append(IPv4Interface((IPv4Address(text), mask)))
        except ValueError:
            wrong.append(f"{text} {mask}".strip())
    return found, wrong


def _gateways(values: dict[str, Value]) -> list[tuple[str, int]]:
    """Each default gateway once, with its metric: 0 is automatic."""
    found: dict[str, int] = {}
    metrics = _list(values.get("defaultgatewaymetric"))
    for number, text in enumerate(_list(values.get("defaultgateway"))[:_ADDRESSES]):
        if not _is_address(text):
            continue
        metric = metrics[number] if number < len(metrics) else ""
        found.setdefault(text, int(metric) if re.fullmatch("[0-9]{1,4}", metric) else 0)
    return list(found.items())


def _servers(text: str, name: str, notes: Notes) -> list[str]:
    """Name servers, apart by commas or spaces."""
    servers = [part for part in re.split(r"[,\s]+", text) if part][:_ADDRESSES]
    wrong = [server for server in servers if not _is_address(server)]
    if wrong:
        notes.warnings.append(f"{name}: name servers that cannot be read are left out: {', '.join(wrong)}")
    return [server for server in servers if server not in wrong]


def _is_address(text: str) -> bool:
    try:
        return not IPv4Address(text).is_unspecified
    except ValueError:
        return False


# ---------------------------------------------------------------- persistent routes


def _persistent(system: Hive, control_set: str, notes: Notes) -> list[_Persistent]:
    """`route -p`: each is the name of a value, "network,mask,gateway,metric"."""
    found = []
    values = system.values(f"{control_set}\\Services\\Tcpip\\Parameters\\PersistentRoutes")
    for name in list(values)[:_ROUTES]:
        parts = name.split(",")
        try:
            to = IPv4Network((IPv4Address(parts[0]), parts[1]), strict=False)
            via, metric = IPv4Address(parts[2]), int(parts[3]) if len(parts) > 3 else -1
        except (ValueError, IndexError):
            notes.warnings.append(f"a persistent route cannot be read: {safe(name)[:80]}")
            continue
        found.append(_Persistent(to, via, metric if 0 < metric < 10_000 else None))
    return found


def _with_routes(
    configs: Sequence[NicConfig], routes: Sequence[_Persistent], notes: Notes
) -> list[NicConfig]:
    """The routes, each with the adapter whose network its gateway is in.

    Windows also lists an adapter's own gateway among them: it is not a second one.
    """
    result = list(configs)
    for route in routes:
        near = [number for number, config in enumerate(result) if _reaches(config, route.via)]
        to = "default" if route.to.prefixlen == 0 else str(route.to)
        if to == "default" and any(str(route.via) in _defaults(config) for config in result):
            continue
        if len(near) != 1:
            notes.warnings.append(
                f"the persistent route to {to} by {route.via} belongs to "
                f"{'several adapters' if near else 'no adapter with a static address'}: it stays as it is"
            )
            continue
        config = result[near[0]]
        new = Route(to, str(route.via), route.metric)
        result[near[0]] = replace(config, routes=(*config.routes, new))
    return result


def _defaults(config: NicConfig) -> list[str]:
    return [config.gateway, *(route.via for route in config.routes if route.to == "default")]


def _reaches(config: NicConfig, gateway: IPv4Address) -> bool:
    return any(gateway in IPv4Interface(address).network for address in config.addresses)


# ---------------------------------------------------------------- IPv6


def _note_ipv6(system: Hive, control_set: str, notes: Notes) -> None:
    """Windows keeps static IPv6 addresses in a store of its own, in a form that is not documented."""
    count = len(system.values(f"{control_set}\\{_NSI_IPV6}"))
    if count:
        notes.warnings.append(
            f"{count} IPv6 address(es) may be static: Windows keeps them with the old adapters, where they "
            "are not read; set them anew after the recovery"
        )


# ---------------------------------------------------------------- values


def _text(value: Value | None) -> str:
    return safe(value.string or "")[:256].strip() if value else ""


def _list(value: Value | None) -> list[str]:
    return [safe(text)[:64].strip() for text in (value.strings or ()) if text] if value else []


def _number(value: Value | None) -> int | None:
    return value.number if value else None
