"""systemd-networkd: .network and .netdev files of /etc, with their drop-ins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from refloat.guest.linux.network.draft import Draft, Parsed, finished, is_address, mac_of, mtu_of, number
from refloat.guest.linux.network.texts import Entry, section_entries
from refloat.guest.tree import Tree
from refloat.model import LinkKind, NicMethod

NAME = "networkd"
DIRECTORY = "/etc/systemd/network"
_FILE_LIMIT = 256
_KINDS = {"vlan": LinkKind.VLAN, "bond": LinkKind.BOND, "bridge": LinkKind.BRIDGE}
_STACKED = ("VLAN", "Bond", "Bridge")
_DHCP = {
    "yes": (NicMethod.DHCP, NicMethod.DHCP),
    "true": (NicMethod.DHCP, NicMethod.DHCP),
    "both": (NicMethod.DHCP, NicMethod.DHCP),
    "ipv4": (NicMethod.DHCP, NicMethod.NONE),
    "v4": (NicMethod.DHCP, NicMethod.NONE),
    "ipv6": (NicMethod.NONE, NicMethod.DHCP),
    "v6": (NicMethod.NONE, NicMethod.DHCP),
}
MATCH_MACS = ("MACAddress", "PermanentMACAddress")
# What ties a file to the old hardware rather than to an interface.
HARDWARE = ("Driver", "Path", "Type", "Property", "Firmware", "KernelVersion", "OriginalName")


def collect(tree: Tree) -> dict[str, str]:
    """path -> text, in the order in which networkd looks for the first file that matches."""
    files: dict[str, str] = {}
    for name in tree.listdir(DIRECTORY)[:_FILE_LIMIT]:
        path = f"{DIRECTORY}/{name}"
        if name.endswith((".network", ".netdev")) and tree.is_file(path):
            files[path] = tree.read_text(path)
            for part in tree.listdir(f"{path}.d")[:_FILE_LIMIT]:
                if part.endswith(".conf") and tree.is_file(f"{path}.d/{part}"):
                    files[f"{path}.d/{part}"] = tree.read_text(f"{path}.d/{part}")
    return files


def owns(path: str) -> bool:
    return path.startswith(f"{DIRECTORY}/")


def unit_of(path: str) -> str:
    """The file that a drop-in belongs to; itself for any other."""
    return path.rpartition("/")[0].removesuffix(".d") if path.endswith(".conf") else path


def entries(files: Mapping[str, str], unit: str) -> Iterator[tuple[str, Entry]]:
    """(path, entry) of a file and its drop-ins."""
    for path, text in files.items():
        if owns(path) and unit_of(path) == unit:
            for entry in section_entries(text):
                yield path, entry


def names_of(found: list[Entry]) -> list[str]:
    """What a file's [Match] says: names, patterns, or what it is matched by instead."""
    match = {entry.key: entry.value for entry in found if entry.section == "Match"}
    if match.get("Name"):
        return [name for name in match["Name"].split() if not name.startswith("!")]
    for key in MATCH_MACS:
        if macs := [mac_of(word) for word in match.get(key, "").split() if mac_of(word)]:
            return [f"mac:{mac}" for mac in macs]
    tie = next((f"({key.lower()}:{match[key]})" for key in HARDWARE if match.get(key)), "")
    return (
        [tie.replace(" ", ",")[:64]]
        if tie and not set(match) & {"Kind", "Virtualization", "WLANInterfaceType"}
        else []
    )


def parse(files: Mapping[str, str]) -> Parsed:
    drafts: dict[str, Draft] = {}
    problems: list[str] = []
    stacked: list[tuple[str, str]] = []
    for unit in [path for path in files if owns(path) and path.endswith(".netdev")]:
        _netdev(drafts, unit, [entry for _, entry in entries(files, unit)])
    for unit in [path for path in files if owns(path) and path.endswith(".network")]:
        found = list(entries(files, unit))
        for path, entry in found:
            if entry.value.endswith("\\"):
                problems.append(f"{path}:{entry.line + 1} a value that goes on in the next line")
        sources = list(dict.fromkeys([unit, *(path for path, _ in found)]))
        for name in names_of([entry for _, entry in found]):
            draft = drafts.setdefault(name, Draft(name))
            # Only the first file that matches counts.
            if any(source.endswith(".network") for source in draft.sources):
                continue
            draft.sources += sources
            draft.mac = mac_of(name.removeprefix("mac:"))
            problems += _take(draft, found, stacked)
    for master, member in stacked:
        drafts.setdefault(master, Draft(master)).members.append(member)
    return finished(drafts, problems)


def _netdev(drafts: dict[str, Draft], unit: str, found: list[Entry]) -> None:
    values = {(entry.section, entry.key): entry.value for entry in found}
    name, kind = values.get(("NetDev", "Name"), ""), _KINDS.get(values.get(("NetDev", "Kind"), "").lower())
    if not name or kind is None:
        return
    draft = drafts.setdefault(name, Draft(name, kind=kind, sources=[unit]))
    draft.vlan_id = number(values.get(("VLAN", "Id"), ""), 0, 4095)
    draft.mtu = mtu_of(values.get(("NetDev", "MTUBytes"), ""))
    if kind is LinkKind.BOND:
        draft.bond_mode = values.get(("Bond", "Mode"), "balance-rr")


def _take(draft: Draft, found: list[tuple[str, Entry]], stacked: list[tuple[str, str]]) -> Iterator[str]:
    routes: dict[tuple[str, int], dict[str, str]] = {}
    for path, entry in found:
        wrong = ""
        if entry.section == "Network":
            wrong = _network(draft, entry, stacked)
        elif entry.section == "Match" and entry.key in MATCH_MACS and " " not in entry.value:
            draft.mac = mac_of(entry.value) or draft.mac
        elif entry.section == "Link" and entry.key == "MTUBytes":
            draft.mtu = mtu_of(entry.value)
        elif entry.section == "Address" and entry.key == "Address":
            wrong = draft.address(entry.value)
        elif entry.section == "Route":
            routes.setdefault((path, entry.part), {"line": str(entry.line + 1)})[entry.key] = entry.value
        if wrong:
            yield f"{path}:{entry.line + 1} {wrong}"
    for (path, _), route in routes.items():
        if wrong := _route(draft, route):
            yield f"{path}:{route['line']} {wrong}"


def _network(draft: Draft, entry: Entry, stacked: list[tuple[str, str]]) -> str:
    if not entry.value:
        return f"an empty {entry.key}= takes back what another file says" if entry.key == "Address" else ""
    if entry.key == "Address":
        return draft.address(entry.value)
    if entry.key == "Gateway":
        return draft.set_gateway(entry.value) if is_address(entry.value) else ""
    if entry.key == "DHCP":
        method, method6 = _DHCP.get(entry.value.lower(), (NicMethod.NONE, NicMethod.NONE))
        draft.method, draft.method6 = method, method6 if method6 is not NicMethod.NONE else draft.method6
    elif entry.key == "IPv6AcceptRA" and entry.value.lower() in ("yes", "true", "1", "on"):
        draft.method6 = NicMethod.AUTO if draft.method6 is NicMethod.NONE else draft.method6
    elif entry.key == "DNS":
        draft.dns += entry.value.split()
    elif entry.key == "Domains":
        draft.search += entry.value.split()
    elif entry.key in _STACKED:
        stacked += [(name, draft.name) for name in entry.value.split()]
    return ""


def _route(draft: Draft, route: Mapping[str, str]) -> str:
    if route.get("Table", "main") not in ("main", "254") or route.get("Type", "unicast") != "unicast":
        return ""
    via = route.get("Gateway", "")
    if via and not is_address(via):
        return ""  # _dhcp4, _ipv6ra: whatever the router says
    target = route.get("Destination") or ("default" if via else "")
    return draft.route(target, via, number(route.get("Metric", ""), 0, 10**9)) if target else ""
