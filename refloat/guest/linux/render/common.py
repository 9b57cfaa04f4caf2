"""What all renderers need: names and addresses in texts, and the words of a refusal."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from refloat.errors import Refused
from refloat.guest.linux.network.texts import swapped
from refloat.model import NicConfig, NicMethod

_SECTIONED = ("#", ";")


def refused(
    words: str, hint: str = "choose the network mode preserve, or mend the file at the source"
) -> Refused:
    return Refused(words, code="guest_network", hint=hint)


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Each name replaced as a whole word, with or without the suffix of an alias or a VLAN ("ens192:0",
    "ens192.10"), also below /sys/class/net and /proc/sys/net."""
    if not names:
        return text
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    before = r"(?:(?<![\w.:@/-])|(?<=/net/)|(?<=/conf/)|(?<=/neigh/))"
    return re.sub(rf"{before}({alternatives})(?![\w@-])", lambda match: names[match[1]], text)


def with_macs(text: str, macs: Mapping[str, str], comments: Sequence[str] = _SECTIONED) -> str:
    """Each MAC replaced on the lines that are no comment, whichever way it is written."""
    if not macs:
        return text
    written = {**macs, **{old.replace(":", "-"): new for old, new in macs.items()}}
    lines = [
        line if line.lstrip().startswith(tuple(comments)) else swapped(line, written)
        for line in text.split("\n")
    ]
    return "\n".join(lines)


def of_version(addresses: Sequence[str], version: int) -> list[str]:
    """The addresses of one family, with or without their prefixes."""
    return [text for text in addresses if ipaddress.ip_interface(text).version == version]


def moves(old: NicConfig, new: NicConfig) -> dict[str, str]:
    """Which word of the old configuration becomes which of the new: for routes, rules and hooks.

    Addresses pair by their order, if there are as many of a family as before.
    """
    pairs: dict[str, str] = {}
    for version in (4, 6):
        before, after = of_version(old.addresses, version), of_version(new.addresses, version)
        if len(before) == len(after):
            pairs |= dict(zip(before, after, strict=True))  # their prefixes may differ
            pairs |= {
                was.partition("/")[0]: now.partition("/")[0] for was, now in zip(before, after, strict=True)
            }
    for was, now in ((old.gateway, new.gateway), (old.gateway6, new.gateway6)):
        if was and now:
            pairs[was] = now
    if len(old.routes) == len(new.routes):
        for before_route, after_route in zip(old.routes, new.routes, strict=True):
            pairs |= {before_route.to: after_route.to, before_route.via: after_route.via}
    return {was: now for was, now in pairs.items() if was and now and was != now}


def drops_routes(old: NicConfig, new: NicConfig) -> bool:
    """Whether the old routes go: those of the new subnet are others, or DHCP tells them."""
    return bool(old.routes) and not new.routes


def keeps_dns(old: NicConfig, new: NicConfig) -> bool:
    """Whether the guest's words on servers stay: where nothing new is said and no DHCP is to tell them."""
    return new.dns == old.dns or (not new.dns and not is_automatic(new))


def is_automatic(config: NicConfig) -> bool:
    return config.method is NicMethod.DHCP


def keeps_search(old: NicConfig, new: NicConfig) -> bool:
    return new.search == old.search or (not new.search and not is_automatic(new))


def without_family(config: NicConfig, version: int) -> NicConfig:
    """The configuration without the addresses of one family."""
    kept = tuple(text for text in config.addresses if ipaddress.ip_interface(text).version != version)
    return replace(config, addresses=kept)
