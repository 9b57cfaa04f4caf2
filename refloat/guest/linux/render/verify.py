"""Whether rendered files say what was intended: they are read again by the parsers of inspection."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from refloat.guest.linux.network import resolver, wicked
from refloat.guest.linux.network.stacks import read
from refloat.guest.linux.render.common import is_automatic, renamed
from refloat.guest.linux.render.types import Rendered, RenderedFile
from refloat.model import NetworkMode, NicConfig, NicMethod

_NEW = (NetworkMode.READDRESS, NetworkMode.DHCP)
_ADDRESS_WORD = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(?![\w:])"
)


def after(files: Mapping[str, str], done: Sequence[RenderedFile]) -> dict[str, str]:
    """The files as they will be."""
    result = dict(files)
    for file in done:
        result.pop(file.path, None)
        if not file.path:
            for system in ("/usr/lib", "/lib"):
                result.pop(f"{system}{file.new_path.removeprefix('/etc')}", None)  # hidden by the new one
    for file in done:
        if file.text is not None:
            result[file.new_path] = file.text
    return result


def differences(
    stack: str, files: Mapping[str, str], done: Sequence[RenderedFile], plan: Sequence[Rendered]
) -> list[str]:
    """What the result does not say as intended, in words; empty where all is well."""
    now = after(files, done)
    parsed = read(stack, now)
    found = {nic.name: nic for nic in parsed.nics}
    wrong = list(parsed.problems)
    wanted = intended(stack, files, plan)
    # Servers are the machine's in the end, whichever interface brings them.
    for field in ("dns", "search"):
        named = {value for nic in parsed.nics for value in getattr(nic, field)}
        missing = {value for nic in wanted for value in getattr(nic, field)} - named
        wrong += [f"there is no place to name {field} {', '.join(sorted(missing))}"] if missing else []
    for nic in wanted:
        candidates = [
            found[name] for name in dict.fromkeys((*_names(nic.name, plan), nic.name)) if name in found
        ]
        if not candidates:
            wrong.append(f"{nic.name} is not configured any more")
        elif all(list(_unlike(nic, candidate, plan)) for candidate in candidates):
            wrong += [f"{nic.name}: {words}" for words in _unlike(nic, candidates[0], plan)]
    return wrong + list(leftovers(stack, files, now, plan))


def intended(stack: str, files: Mapping[str, str], plan: Sequence[Rendered]) -> list[NicConfig]:
    """All interfaces under their old names: those of the plan as it wants them, all others as they are."""
    new: dict[str, NicConfig] = {}
    for item in plan:
        if item.mode in _NEW:
            new |= {config.name: config for config in (item.config, *item.above)}
    before = {nic.name: nic for nic in read(stack, files).nics}
    result = [_wanted(nic, new[nic.name]) if nic.name in new else nic for nic in before.values()]
    for item in plan:
        if item.old_name not in before and item.mode is not NetworkMode.PRESERVE:
            result.append(replace(item.config, name=item.placeholder))
    return result


def _wanted(old: NicConfig, new: NicConfig) -> NicConfig:
    """What does not come with an address stays the guest's; servers that nobody names stay, too."""
    dns, search = new.dns or old.dns, new.search or old.search
    if is_automatic(new):
        dns, search = new.dns, new.search
    return replace(
        new, dns=dns, search=search, mtu=old.mtu, kind=old.kind, members=old.members,
        vlan_id=old.vlan_id, bond_mode=old.bond_mode, mac=old.mac,
    )  # fmt: skip


def _names(name: str, plan: Sequence[Rendered]) -> list[str]:
    """What a name may have become."""
    names = {item.old_name: item.placeholder for item in plan if item.mode is not NetworkMode.PRESERVE}
    macs = {f"mac:{item.source_mac}": f"mac:{item.mac}" for item in plan if item.source_mac}
    whole = {old: new for old, new in names.items() if old}
    return [one for one in (whole.get(name), macs.get(name), renamed(name, whole)) if one]


def _unlike(wanted: NicConfig, found: NicConfig, plan: Sequence[Rendered]) -> Iterator[str]:
    for field in ("method", "method6", "gateway", "gateway6", "mtu", "kind", "vlan_id", "bond_mode"):
        before, now = getattr(wanted, field), getattr(found, field)
        unsaid = before is NicMethod.AUTO and now is NicMethod.NONE and any(map(wicked.owns, found.sources))
        if before != now and not unsaid:
            yield f"{field} is {now or 'nothing'} instead of {before or 'nothing'}"
    if _interfaces(wanted.addresses) != _interfaces(found.addresses):
        yield f"addresses are {', '.join(found.addresses)} instead of {', '.join(wanted.addresses)}"
    if set(wanted.routes) != set(found.routes):
        yield f"routes are {found.routes} instead of {wanted.routes}"
    for before, now in zip(wanted.members, found.members, strict=False):
        if now not in (before, *_names(before, plan)):
            yield f"stands on {now} instead of {before}"
    if len(wanted.members) != len(found.members):
        yield "stands on other interfaces"


def _interfaces(addresses: Sequence[str]) -> set[str]:
    return {str(ipaddress.ip_interface(address)) for address in addresses}


def leftovers(
    stack: str, before: Mapping[str, str], now: Mapping[str, str], plan: Sequence[Rendered]
) -> Iterator[str]:
    """Addresses of a subnet that is left behind, where the files still name them: in hooks and rules."""
    new = {config.name for item in plan if item.mode in _NEW for config in (item.config, *item.above)}
    changed = [nic for nic in read(stack, before).nics if nic.name in new]
    old = {ipaddress.ip_interface(address).network for nic in changed for address in nic.addresses}
    kept = [
        ipaddress.ip_interface(address).network for nic in read(stack, now).nics for address in nic.addresses
    ]
    stale = [network for network in old if not any(_overlap(network, other) for other in kept)]
    servers = {server for nic in read(stack, now).nics for server in nic.dns}
    for path, text in now.items():
        if not stale or resolver.owns(path):
            continue
        for index, line in enumerate(text.split("\n")):
            if line.lstrip().startswith(("#", ";")):
                continue
            for word in _ADDRESS_WORD.findall(line):
                if word not in servers and _lies_in(word, stale):
                    yield f"{path}:{index + 1} still names {word}, of the subnet that is left behind"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _overlap(one: Network, other: Network) -> bool:
    if isinstance(one, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and one.overlaps(other)
    return isinstance(other, ipaddress.IPv6Network) and one.overlaps(other)


def _lies_in(word: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        return False
    # Link-local addresses are the same everywhere.
    return not address.is_link_local and any(address in network for network in networks)
