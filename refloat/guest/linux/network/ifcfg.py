"""ifcfg files of the Red Hat family, as network-scripts and NetworkManager's plugin read them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

from refloat.guest.linux.network.draft import Draft, Parsed, finished, mac_of, mtu_of, number
from refloat.guest.linux.network.texts import computed, settings, shell_entries, split_name
from refloat.guest.tree import Tree
from refloat.model import LinkKind, NicMethod

NAME = "ifcfg"
DIRECTORY = "/etc/sysconfig/network-scripts"
GLOBAL = "/etc/sysconfig/network"
PREFIXES = ("ifcfg-", "route-", "route6-", "rule-", "rule6-")
_FILE_LIMIT = 256
_IGNORED = ("~", ".bak", ".orig", ".old", ".rpmsave", ".rpmnew", ".save", ".swp")
_KINDS = {"bond": LinkKind.BOND, "bridge": LinkKind.BRIDGE, "vlan": LinkKind.VLAN}
_ETHERNET = ("", "ethernet")
_VLAN_NAME = re.compile(r"(?:(?P<parent>[^.:]+)\.|vlan)0*(?P<id>[0-9]{1,4})")
_ALIAS = re.compile(r":[^:]+")
# Keys whose values must be known; of others a computed value does not matter.
_READ = re.compile(r"(IPADDR|PREFIX|NETMASK|GATEWAY|DNS|DEVICE|IPV6ADDR|IPV6_DEFAULTGW|BOOTPROTO|HWADDR).*")
# The kind of a file and what follows in its name.
split = partial(split_name, PREFIXES)


def collect(tree: Tree) -> dict[str, str]:
    names = [name for name in tree.listdir(DIRECTORY) if name.startswith(PREFIXES)]
    names = [name for name in names if not name.endswith(_IGNORED)][:_FILE_LIMIT]
    paths = [f"{DIRECTORY}/{name}" for name in names if name != "ifcfg-lo"]
    files = {path: tree.read_text(path) for path in paths if tree.is_file(path)}
    if files and tree.is_file(GLOBAL):
        files[GLOBAL] = tree.read_text(GLOBAL)
    return files


def owns(path: str) -> bool:
    return path == GLOBAL or path.startswith(f"{DIRECTORY}/")


def device(path: str, values: Mapping[str, str]) -> str:
    """The interface of an ifcfg file; aliases have their own."""
    if values.get("DEVICE"):
        return values["DEVICE"]
    mac = mac_of(values.get("HWADDR", ""))
    return f"mac:{mac}" if mac and values.get("TYPE", "").lower() in _ETHERNET else split(path)[1]


def base(name: str) -> str:
    """The interface of an alias ("eth0:1")."""
    return name if name.startswith("mac:") else name.partition(":")[0]


def parse(files: Mapping[str, str]) -> Parsed:
    drafts: dict[str, Draft] = {}
    problems: list[str] = []
    members: list[tuple[str, str]] = []
    for path, text in files.items():
        if owns(path) and split(path)[0] == "ifcfg-":
            values = settings(text)
            if values.get("ONBOOT", "yes").lower() in ("no", "false", "n", "0"):
                continue
            problems += _take(drafts, members, path, text, values)
    for path, text in files.items():
        if owns(path) and split(path)[0] in ("route-", "route6-"):
            problems += _routes(drafts, path, text)
    for master, member in members:
        if master in drafts:
            drafts[master].members.append(member)
    _global_gateway(drafts, settings(files.get(GLOBAL, "")))
    return finished(drafts, problems)


def _take(
    drafts: dict[str, Draft], members: list[tuple[str, str]], path: str, text: str, values: Mapping[str, str]
) -> Iterator[str]:
    name = device(path, values)
    draft = drafts.setdefault(base(name), Draft(base(name)))
    draft.sources.append(path)
    for entry in shell_entries(text):
        if computed(entry.value) and _READ.fullmatch(entry.key):
            yield f"{path}:{entry.line + 1} {entry.key} is computed by a shell"
    if "IPADDR_START" in values:
        yield f"{path}:1 a range of addresses cannot be restored"
    if base(name) == name:
        _kind(draft, values)
        _methods(draft, values)
        for key in ("MASTER", "BRIDGE", "OVS_BRIDGE"):
            if values.get(key):
                members.append((values[key], name))
    for wrong in (*_addresses(draft, values), *_addresses6(draft, values)):
        yield f"{path}:1 {wrong}"
    draft.dns += [values[key] for key in sorted(values) if re.fullmatch(r"DNS[0-9]*", key) and values[key]]
    draft.search += (values.get("SEARCH") or values.get("DOMAIN", "")).split()


def _kind(draft: Draft, values: Mapping[str, str]) -> None:
    kind = _KINDS.get(values.get("TYPE", "").lower(), LinkKind.ETHERNET)
    match = _VLAN_NAME.fullmatch(draft.name)
    if values.get("VLAN", "").lower() in ("yes", "true", "1") or kind is LinkKind.VLAN:
        kind = LinkKind.VLAN
        parent = values.get("PHYSDEV") or (match["parent"] if match else "")
        draft.members = [parent] if parent else []
        text = values.get("VLAN_ID") or (match["id"] if match else "")
        draft.vlan_id = number(text, 0, 4095)
    options = dict(item.partition("=")[::2] for item in values.get("BONDING_OPTS", "").split())
    if options or values.get("BONDING_MASTER", "").lower() == "yes":
        kind = LinkKind.BOND
    if kind is LinkKind.BOND:
        draft.bond_mode = options.get("mode", "balance-rr")
    draft.kind = kind
    draft.mac = mac_of(values.get("HWADDR", ""))
    draft.mtu = mtu_of(values.get("MTU", ""))


def _methods(draft: Draft, values: Mapping[str, str]) -> None:
    if values.get("BOOTPROTO", "").lower() in ("dhcp", "bootp"):
        draft.method = NicMethod.DHCP
    if values.get("DHCPV6C", "").lower() == "yes":
        draft.method6 = NicMethod.DHCP
    elif values.get("IPV6_AUTOCONF", "").lower() == "yes":
        draft.method6 = NicMethod.AUTO


def _addresses(draft: Draft, values: Mapping[str, str]) -> Iterator[str]:
    numbers = sorted((key[6:] for key in values if re.fullmatch(r"IPADDR[0-9]{0,3}", key)), key=_order)
    for suffix in numbers:
        if address := values[f"IPADDR{suffix}"]:
            netmask = values.get(f"PREFIX{suffix}") or values.get(f"NETMASK{suffix}", "")
            if wrong := draft.address(address, netmask):
                yield wrong
    for suffix in ("", *numbers):
        gateway = values.get(f"GATEWAY{suffix}", "")
        if gateway and (wrong := draft.set_gateway(gateway)):
            yield wrong


def _order(suffix: str) -> int:
    return int(suffix) if suffix else -1


def _addresses6(draft: Draft, values: Mapping[str, str]) -> Iterator[str]:
    if values.get("IPV6INIT", "yes").lower() == "no":
        return
    for address in (values.get("IPV6ADDR", ""), *values.get("IPV6ADDR_SECONDARIES", "").split()):
        if address and (wrong := draft.address(address)):
            yield wrong
    gateway = values.get("IPV6_DEFAULTGW", "").partition("%")[0]
    if gateway and (wrong := draft.set_gateway(gateway)):
        yield wrong


def _routes(drafts: Mapping[str, Draft], path: str, text: str) -> Iterator[str]:
    draft = drafts.get(split(path)[1]) or _by_suffix(drafts, split(path)[1])
    if draft is None:
        return
    for line, to, via, metric in route_lines(text):
        if wrong := draft.route(to, via, number(metric, 0, 10**9)):
            yield f"{path}:{line + 1} {wrong}"


def _by_suffix(drafts: Mapping[str, Draft], suffix: str) -> Draft | None:
    """NetworkManager names a file as it names the ifcfg file, whatever the device."""
    source = f"{DIRECTORY}/ifcfg-{suffix}"
    return next((draft for draft in drafts.values() if source in draft.sources), None)


def route_lines(text: str) -> Iterator[tuple[int, str, str, str]]:
    """(line, destination, gateway, metric) of both forms; lines with a table or a type are left out."""
    values = {entry.key: entry for entry in shell_entries(text)}
    for key, entry in values.items():
        suffix = key.removeprefix("ADDRESS")
        if key.startswith("ADDRESS") and suffix.isdecimal():
            given = {name: values[f"{name}{suffix}"].value for name in _KEYED if f"{name}{suffix}" in values}
            to = f"{entry.value}/{given.get('NETMASK', '255.255.255.255')}"
            yield entry.line, to, given.get("GATEWAY", ""), given.get("METRIC", "")
    for index, line in enumerate(text.split("\n")):
        words = line.split("#")[0].split()
        if not words or "=" in words[0]:
            continue
        options = dict(zip(words[1::2], words[2::2], strict=False))
        if len(words) % 2 == 1 and not set(options) - {"via", "dev", "metric", "src", "proto", "onlink"}:
            yield index, words[0], options.get("via", ""), options.get("metric", "")


_KEYED = ("NETMASK", "GATEWAY", "METRIC")


def _global_gateway(drafts: Mapping[str, Draft], values: Mapping[str, str]) -> None:
    """GATEWAY of /etc/sysconfig/network: for GATEWAYDEV, or the interface in whose subnet it lies."""
    gateway = values.get("GATEWAY", "")
    if not gateway or any(draft.gateway for draft in drafts.values()):
        return
    named = drafts.get(values.get("GATEWAYDEV", ""))
    for draft in [named] if named else drafts.values():
        if named or draft.reaches(gateway):
            draft.set_gateway(gateway)
            return
