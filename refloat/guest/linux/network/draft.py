"""What a parser collects about one interface, whatever the words of its stack."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from refloat.model import LinkKind, NicConfig, NicMethod, Route

# The kernel's rule is only: no slash, no space, 15 bytes. Placeholders of a rendering are longer.
NAME = re.compile(r"[A-Za-z0-9._:@*?\[\]-]{1,64}")
MAC = re.compile(r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")
DEFAULT_ROUTES = ("default", "0.0.0.0/0", "::/0", "0.0.0.0", "::", "0/0")
_MEMBER_LIMIT = 64


@dataclass(frozen=True)
class Parsed:
    """`problems` are what could not be read, as "path:line words"; `warnings` change nothing.

    An interface that is found by something else than a name has a name with a colon for it
    ("mac:00:50:56:aa:bb:cc", "(driver:vmxnet3)"), and one that is found by a pattern has that ("ens*").
    """

    nics: tuple[NicConfig, ...]
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass
class Draft:
    """One interface while its files are read; config() is the result."""

    name: str
    method: NicMethod = NicMethod.NONE
    method6: NicMethod = NicMethod.NONE
    addresses: list[str] = field(default_factory=list)
    gateway: str = ""
    gateway6: str = ""
    dns: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    mtu: int | None = None
    kind: LinkKind = LinkKind.ETHERNET
    members: list[str] = field(default_factory=list)
    vlan_id: int | None = None
    bond_mode: str = ""
    mac: str = ""
    sources: list[str] = field(default_factory=list)

    def address(self, text: str, netmask: str = "", *, prefix6: int = 64) -> str:
        """Takes an address; what is wrong with it, or an empty text."""
        try:
            if "/" not in text:
                text = f"{text}/{netmask or default_prefix(text, prefix6)}"
            self.addresses.append(str(ipaddress.ip_interface(text)))
        except ValueError:
            return f"{text!r} is no address"
        return ""

    def route(self, to: str, via: str = "", metric: int | None = None) -> str:
        """Takes a route; a default route becomes the gateway. What is wrong with it, or an empty text."""
        try:
            if via:
                via = str(ipaddress.ip_address(via))
            if to in DEFAULT_ROUTES:
                if via and not self.set_gateway(via):
                    return ""
                self.routes.append(Route("default", via, metric))
                return ""
            self.routes.append(Route(str(ipaddress.ip_network(to, strict=False)), via, metric))
        except ValueError:
            return f"{to!r} via {via!r} is no route"
        return ""

    def set_gateway(self, text: str) -> str:
        """Takes a gateway of either family, the first of each; what is wrong with it, or an empty text."""
        try:
            version = ipaddress.ip_address(text).version
        except ValueError:
            return f"{text!r} is no address"
        if version == 4 and not self.gateway:
            self.gateway = text
        elif version == 6 and not self.gateway6:
            self.gateway6 = text
        elif text not in (self.gateway, self.gateway6):
            return f"{text} is a second gateway"
        return ""

    def reaches(self, address: str) -> bool:
        """Whether an address lies in one of the interface's subnets."""
        if not is_address(address):
            return False
        networks = [ipaddress.ip_interface(own).network for own in self.addresses]
        return any(ipaddress.ip_address(address) in network for network in networks)

    def settle(self) -> None:
        """The method of a family whose files name addresses and no method is static."""
        versions = {ipaddress.ip_interface(address).version for address in self.addresses}
        if 4 in versions and self.method is NicMethod.NONE:
            self.method = NicMethod.STATIC
        if 6 in versions and self.method6 is NicMethod.NONE:
            self.method6 = NicMethod.STATIC

    def config(self) -> NicConfig:
        self.settle()
        return NicConfig(
            name=self.name,
            method=self.method,
            addresses=unique(self.addresses),
            gateway=self.gateway,
            dns=unique(self.dns),
            search=unique(self.search),
            method6=self.method6,
            gateway6=self.gateway6,
            routes=tuple(dict.fromkeys(self.routes)),
            mtu=self.mtu,
            kind=self.kind,
            members=unique(self.members)[:_MEMBER_LIMIT],
            vlan_id=self.vlan_id,
            bond_mode=self.bond_mode,
            mac=self.mac,
            sources=unique(self.sources),
        )


def unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def default_prefix(address: str, prefix6: int = 64) -> int:
    """The prefix length of an address that is written without one: that of its class, as all stacks do."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6:
        return prefix6
    first = ip.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def mac_of(text: str) -> str:
    """A MAC address as the model writes it, or an empty text for what is none ("preserve", "random")."""
    return text.strip().lower().replace("-", ":") if MAC.fullmatch(text.strip()) else ""


def number(text: str, least: int, most: int) -> int | None:
    """A decimal number in these bounds, or None."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        return None
    return int(text) if least <= int(text) <= most else None


def mtu_of(text: str) -> int | None:
    return number(text, 68, 65536)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which ens192 comes before ens1024."""
    parts = re.split(r"([0-9]{1,9})", name)
    return [(int(part), "") if part.isascii() and part.isdigit() else (0, part) for part in parts]


def finished(drafts: dict[str, Draft], problems: Iterable[str], warnings: Iterable[str] = ()) -> Parsed:
    """The interfaces in the natural order of their names, and those below them that have no words of
    their own; the loopback is none of them."""
    for draft in list(drafts.values()):
        for member in draft.members[:_MEMBER_LIMIT]:
            drafts.setdefault(member, Draft(member))
    nics = [draft.config() for draft in drafts.values() if draft.name != "lo"]
    return Parsed(tuple(sorted(nics, key=lambda nic: natural(nic.name))), tuple(problems), tuple(warnings))
