"""What VMware Tools told vSphere of the guest's network. Pure.

Linux guests often leave out an address's origin, and whether DHCP is used: that stays unknown, never a guess.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from refloat.model import AddressOrigin, SeenAddress, SeenNic, SeenRoute

_ORIGINS = {
    "manual": AddressOrigin.MANUAL,
    "dhcp": AddressOrigin.DHCP,
    "linklayer": AddressOrigin.AUTO,
    "random": AddressOrigin.AUTO,
}
_LONGEST = 64  # of what a guest may list: a sane one has a handful


def seen_nics(
    net: Sequence[Any], stacks: Sequence[Any], keys: Sequence[int], at: str
) -> tuple[dict[int, SeenNic], list[str]]:
    """By the adapter's device key, what the guest has on it; and what is to be said.

    An adapter for which the guest lists several interfaces (a VLAN or a bridge has the MAC of what it stands
    on) is left out: which of them has which address is told by the guest's own files alone.
    """
    lists: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    for index, one in enumerate(net or ()):
        if one.deviceConfigId in keys:
            lists[one.deviceConfigId].append((index, one))
    found, said = {}, []
    for key, interfaces in lists.items():
        with_addresses = [(index, one) for index, one in interfaces if _addresses(one)]
        if len(with_addresses) > 1:
            said.append(
                f"the guest lists {len(with_addresses)} interfaces on adapter {interfaces[0][1].macAddress}"
            )
        elif with_addresses:
            index, one = with_addresses[0]
            found[key] = _seen(index, one, stacks, at)
    return found, said


def _seen(index: int, nic: Any, stacks: Sequence[Any], at: str) -> SeenNic:
    dns = nic.dnsConfig or next((one.dnsConfig for one in stacks or () if one.dnsConfig), None)
    servers = [_plain(server) for server in (dns.ipAddress if dns else None) or ()]
    dhcp = nic.ipConfig.dhcp if nic.ipConfig else None
    return SeenNic(
        at=at,
        addresses=_addresses(nic),
        dhcp=None if dhcp is None or dhcp.ipv4 is None else bool(dhcp.ipv4.enable),
        routes=tuple(_routes(index, stacks)),
        dns=tuple(server for server in servers if server)[:_LONGEST],
        search=tuple((dns.searchDomain if dns else None) or ())[:_LONGEST],
    )


def _addresses(nic: Any) -> tuple[SeenAddress, ...]:
    """With prefix, without those of the link itself."""
    found = []
    for one in ((nic.ipConfig.ipAddress if nic.ipConfig else None) or ())[:_LONGEST]:
        address = _plain(one.ipAddress)
        if address and one.prefixLength and not ip_address(address).is_link_local:
            origin = _ORIGINS.get(one.origin or "", AddressOrigin.UNKNOWN)
            found.append(SeenAddress(f"{address}/{one.prefixLength}", origin))
    return tuple(found)


def _routes(index: int, stacks: Sequence[Any]) -> list[SeenRoute]:
    """Those by a gateway of this interface; `device` counts the guest's interfaces."""
    found = []
    for stack in stacks or ():
        for one in ((stack.ipRouteConfig.ipRoute if stack.ipRouteConfig else None) or ())[: _LONGEST * 4]:
            gateway = one.gateway
            via = _plain(gateway.ipAddress) if gateway and gateway.ipAddress else ""
            if not via or str(gateway.device or "") != str(index):
                continue
            try:
                network = ip_network(f"{one.network}/{one.prefixLength}", strict=False)
            except ValueError:
                continue  # the guest's word, and no network
            found.append(SeenRoute("default" if network.prefixlen == 0 else str(network), via))
    return found[:_LONGEST]


def _plain(text: str | None) -> str:
    """An address in its usual spelling, or "": the guest may say anything."""
    try:
        return str(ip_address((text or "").partition("%")[0]))
    except ValueError:
        return ""
