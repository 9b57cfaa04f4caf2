"""The network that the source's platform saw in the running guest, beside what the guest's files say. Pure.

The platform's word comes first where the guest told it that an address was set by hand; where it did not tell
an address's origin, as Linux guests often do not, the files decide, and what differs is said. Nothing that
was only added at run time is made permanent: such addresses often move (keepalived, clusters).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface

from refloat.clock import seconds_between
from refloat.model import AddressOrigin, NicConfig, NicMethod, Route, SeenNic, SourceNic, SourceVM
from refloat.text import span

_OLD = 24 * 3600.0  # seconds: no sync for a day, or no VMware Tools


@dataclass(frozen=True)
class Compared:
    """`config` is what the adapter shall have; `said` is for the reason; `platform`: it is not the files'."""

    config: NicConfig | None
    said: str = ""
    platform: bool = False


def compared(nic: SourceNic, config: NicConfig | None, above: Sequence[NicConfig]) -> Compared:
    """`config` is the adapter's interface by the guest's files, `above` what stands on it."""
    seen = nic.seen
    if seen is None or not seen.addresses:
        return Compared(config)
    known = _plain(address for one in (config, *above) if one for address in one.addresses)
    lasting, by_hand = _plain(_lasting(seen)), _plain(_by_hand(seen))
    if known and known <= lasting:
        extra = ", ".join(sorted(lasting - known))
        beside = f"; beside them {extra}, which its files do not have: left out" if extra else ""
        return Compared(config, f"the platform saw the same at {seen.at}{beside}")
    if by_hand and not above and not by_hand <= known:
        wanted = _configured(nic, config, seen)
        files = f"its files say {_words(config)}" if config else "its files do not have it"
        what = ", ".join(sorted(by_hand))
        return Compared(
            wanted, f"the platform saw {what} at {seen.at}, {files}: the platform's word is taken", True
        )
    if not known:
        return Compared(config)
    what = ", ".join(one.address for one in seen.addresses)
    return Compared(config, f"the platform saw {what} at {seen.at}, and not that: the files' word is taken")


def fits(nic: SourceNic, config: NicConfig) -> bool:
    """Whether the platform saw exactly this interface's own addresses on this adapter."""
    return bool(
        nic.seen
        and not config.mac
        and config.addresses
        and _plain(config.addresses) == _plain(_lasting(nic.seen))
    )


def with_last_seen(new: SourceVM, known: SourceVM | None) -> SourceVM:
    """`new` with the last good capture of each adapter of which nothing is seen now: VMware Tools may be
    down, or the VM off."""
    before = {(nic.mac, nic.network): nic.seen for nic in known.nics} if known else {}
    nics = (nic if nic.seen else replace(nic, seen=before.get((nic.mac, nic.network))) for nic in new.nics)
    return replace(new, nics=tuple(nics))


def age_warnings(nics: Sequence[SourceNic], now: str) -> list[str]:
    """What is said of captures that are old."""
    found = []
    for nic in nics:
        age = seconds_between(nic.seen.at, now) if nic.seen else 0.0
        if nic.seen and age > _OLD:
            found.append(f"what the platform saw of adapter {nic.mac} is {span(age)} old (of {nic.seen.at})")
    return found


# ---------------------------------------------------------------- how


def _lasting(seen: SeenNic) -> list[str]:
    """What neither DHCP nor a router gave."""
    given = (AddressOrigin.DHCP, AddressOrigin.AUTO)
    return [one.address for one in seen.addresses if one.origin not in given]


def _by_hand(seen: SeenNic) -> list[str]:
    """What was set by hand for certain: the guest said so, or that it does not use DHCP (which is IPv4)."""
    return [
        one.address
        for one in seen.addresses
        if one.origin is AddressOrigin.MANUAL
        or (
            one.origin is AddressOrigin.UNKNOWN
            and seen.dhcp is False
            and ip_interface(one.address).version == 4
        )
    ]


def _configured(nic: SourceNic, config: NicConfig | None, seen: SeenNic) -> NicConfig:
    """The files' interface with the platform's addresses, family by family."""
    wanted = config or NicConfig(nic.guest_name, NicMethod.NONE)
    by_hand = _by_hand(seen)
    for version in (4, 6):
        ours = [address for address in by_hand if ip_interface(address).version == version]
        if not ours:
            continue
        others = [address for address in wanted.addresses if ip_interface(address).version != version]
        gateway = next((one.via for one in seen.routes if _is_default(one.to, one.via, version)), "")
        wanted = replace(wanted, addresses=(*others, *ours))
        if version == 4:
            wanted = replace(wanted, method=NicMethod.STATIC, gateway=gateway)
        else:
            wanted = replace(wanted, method6=NicMethod.STATIC, gateway6=gateway)
    routes = tuple(Route(one.to, one.via) for one in seen.routes if one.to != "default")
    return replace(wanted, dns=seen.dns or wanted.dns, search=seen.search or wanted.search, routes=routes)


def _is_default(to: str, via: str, version: int) -> bool:
    return to == "default" and ip_address(via).version == version


def _plain(addresses: Iterable[str]) -> set[str]:
    """In one spelling."""
    return {str(ip_interface(address)) for address in addresses}


def _words(config: NicConfig) -> str:
    return ", ".join(config.addresses) or str(config.method)
