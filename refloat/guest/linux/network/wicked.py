"""SUSE's files in /etc/sysconfig/network, as wicked reads them: the file's name is the interface's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

from refloat.guest.linux.network.draft import Draft, Parsed, finished, mtu_of, number
from refloat.guest.linux.network.texts import computed, settings, shell_entries, split_name
from refloat.guest.tree import Tree
from refloat.model import LinkKind, NicMethod

NAME = "wicked"
DIRECTORY = "/etc/sysconfig/network"
ROUTES = f"{DIRECTORY}/routes"
CONFIG = f"{DIRECTORY}/config"
PREFIXES = ("ifcfg-", "ifroute-", "ifrule-")
_FILE_LIMIT = 256
_IGNORED = ("~", ".bak", ".orig", ".old", ".rpmsave", ".rpmnew", ".scpmbackup")
_OTHERS = ("ifcfg-lo", "ifcfg.template")
_VLAN_NAME = re.compile(r"(?:(?P<parent>[^.:]+)\.|vlan)0*(?P<id>[0-9]{1,4})")
_SLAVE = re.compile(r"BONDING_SLAVE_?[0-9]+")
_ADDRESS = re.compile(r"IPADDR(_.*|[0-9]*)")
_METHODS = {
    "dhcp": (NicMethod.DHCP, NicMethod.DHCP),
    "dhcp4": (NicMethod.DHCP, NicMethod.NONE),
    "dhcp6": (NicMethod.NONE, NicMethod.DHCP),
    "auto6": (NicMethod.NONE, NicMethod.AUTO),
    "autoip": (NicMethod.DHCP, NicMethod.NONE),
}
# The kind of a file and what follows in its name.
split = partial(split_name, PREFIXES)


def collect(tree: Tree) -> dict[str, str]:
    names = [name for name in tree.listdir(DIRECTORY) if name.startswith(PREFIXES)]
    names = [name for name in names if not name.endswith(_IGNORED) and name not in _OTHERS][:_FILE_LIMIT]
    paths = [f"{DIRECTORY}/{name}" for name in names]
    if names:
        paths += [ROUTES, CONFIG]
    return {path: tree.read_text(path) for path in paths if tree.is_file(path)}


def owns(path: str) -> bool:
    return path.startswith(f"{DIRECTORY}/")


def parse(files: Mapping[str, str]) -> Parsed:
    drafts: dict[str, Draft] = {}
    problems: list[str] = []
    for path, text in files.items():
        if owns(path) and split(path)[0] == "ifcfg-":
            values = settings(text)
            if values.get("STARTMODE", "auto").lower() not in ("off", "manual"):
                problems += _take(drafts, path, text, values)
    for path, text in files.items():
        if path == ROUTES or (owns(path) and split(path)[0] == "ifroute-"):
            problems += _routes(drafts, path, text)
    _servers(drafts, settings(files.get(CONFIG, "")))
    return finished(drafts, problems)


def _take(drafts: dict[str, Draft], path: str, text: str, values: Mapping[str, str]) -> Iterator[str]:
    name = split(path)[1]
    draft = drafts.setdefault(name, Draft(name))
    draft.sources.append(path)
    draft.mtu = mtu_of(values.get("MTU", ""))
    draft.method, draft.method6 = _METHODS.get(
        values.get("BOOTPROTO", "").lower().split("+")[0], (NicMethod.NONE, NicMethod.NONE)
    )
    _kind(draft, values)
    for entry in shell_entries(text):
        match = _ADDRESS.fullmatch(entry.key)
        if match and computed(entry.value):
            yield f"{path}:{entry.line + 1} {entry.key} is computed by a shell"
        elif match and entry.value:
            netmask = values.get(f"PREFIXLEN{match[1]}") or values.get(f"NETMASK{match[1]}", "")
            for address in entry.value.split():
                if wrong := draft.address(address, netmask):
                    yield f"{path}:{entry.line + 1} {wrong}"


def _kind(draft: Draft, values: Mapping[str, str]) -> None:
    match = _VLAN_NAME.fullmatch(draft.name)
    parent = values.get("ETHERDEVICE") or (match["parent"] if match else "")
    if parent:
        draft.kind, draft.members = LinkKind.VLAN, [parent]
        draft.vlan_id = number(values.get("VLAN_ID") or (match["id"] if match else ""), 0, 4095)
    if values.get("BONDING_MASTER", "").lower() == "yes":
        options = dict(item.partition("=")[::2] for item in values.get("BONDING_MODULE_OPTS", "").split())
        draft.kind, draft.bond_mode = LinkKind.BOND, options.get("mode", "balance-rr")
        draft.members = [values[key] for key in values if _SLAVE.fullmatch(key) and values[key]]
    if values.get("BRIDGE", "").lower() == "yes":
        draft.kind, draft.members = LinkKind.BRIDGE, values.get("BRIDGE_PORTS", "").split()


def route_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The five columns of each route: destination, gateway, netmask, interface, type."""
    for index, line in enumerate(text.split("\n")):
        words = line.split("#")[0].split()
        if words:
            yield index, [*words, "-", "-", "-", "-"][: max(5, len(words))]


def _routes(drafts: Mapping[str, Draft], path: str, text: str) -> Iterator[str]:
    own = "" if path == ROUTES else split(path)[1]
    for index, (to, via, netmask, interface, kind, *rest) in route_lines(text):
        via = "" if via == "-" else via
        name = own if interface == "-" else interface
        draft = drafts.get(name) if name else next((d for d in drafts.values() if d.reaches(via)), None)
        if draft is None or kind not in ("-", "unicast") or "table" in rest:
            continue
        metric = rest[rest.index("metric") + 1] if "metric" in rest[:-1] else ""
        target = to if "/" in to or netmask == "-" or to == "default" else f"{to}/{netmask}"
        if wrong := draft.route(target, via, number(metric, 0, 10**9)):
            yield f"{path}:{index + 1} {wrong}"


def _servers(drafts: Mapping[str, Draft], values: Mapping[str, str]) -> None:
    """netconfig's static servers are the machine's: they count for the interface with the gateway."""
    dns = values.get("NETCONFIG_DNS_STATIC_SERVERS", "").split()
    search = values.get("NETCONFIG_DNS_STATIC_SEARCHLIST", "").split()
    static = [draft for draft in drafts.values() if draft.addresses]
    draft = next((one for one in static if one.gateway or one.gateway6), static[0] if static else None)
    if draft is not None:
        draft.dns += dns
        draft.search += search
