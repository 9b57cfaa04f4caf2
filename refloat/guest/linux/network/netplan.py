"""netplan: YAML files of three directories, of which a name in the later hides the same in the earlier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from refloat.guest.linux.network import yamlite
from refloat.guest.linux.network.draft import Draft, Parsed, finished, mac_of, mtu_of, number
from refloat.guest.tree import Tree
from refloat.model import LinkKind, NicMethod

NAME = "netplan"
DIRECTORIES = ("/usr/lib/netplan", "/lib/netplan", "/etc/netplan")
KINDS = {
    "ethernets": LinkKind.ETHERNET,
    "bonds": LinkKind.BOND,
    "bridges": LinkKind.BRIDGE,
    "vlans": LinkKind.VLAN,
}
_FILE_LIMIT = 64


@dataclass(frozen=True)
class Definition:
    """What one file says of one interface. `key` is its name in the file, by which others refer to it."""

    path: str
    kind: LinkKind
    key: yamlite.Scalar
    body: yamlite.Mapping

    @property
    def match(self) -> yamlite.Mapping:
        return self.body.mapping("match")


def collect(tree: Tree) -> dict[str, str]:
    """path -> text, in the order in which netplan merges them: by file name."""
    found: dict[str, str] = {}
    for directory in DIRECTORIES:
        for name in tree.listdir(directory):
            path = f"{directory}/{name}"
            if name.endswith(".yaml") and len(found) < _FILE_LIMIT and tree.is_file(path):
                found[name] = path
    return {path: tree.read_text(path, yamlite.TEXT_LIMIT) for _, path in sorted(found.items())}


def owns(path: str) -> bool:
    return path.startswith(tuple(f"{directory}/" for directory in DIRECTORIES))


def truth(text: str) -> bool:
    return text.lower() in ("true", "yes", "on", "y", "1")


def definitions(path: str, text: str) -> Iterator[Definition]:
    """Every interface of the file that is of a kind we know. Raises YamlError."""
    network = yamlite.read(text).mapping("network")
    if network.text("version") not in ("", "2"):
        raise yamlite.YamlError(network.line + 1, f"version {network.text('version')} of netplan's format")
    for group, kind in KINDS.items():
        for key, body in network.mapping(group).entries.values():
            if key.value in ("renderer", "version"):
                continue
            if isinstance(body, yamlite.Sequence) or (isinstance(body, yamlite.Scalar) and body.value):
                raise yamlite.YamlError(key.line + 1, f"{key.value} is no mapping")
            mapping = body if isinstance(body, yamlite.Mapping) else yamlite.Mapping(key.line, -1, key.line)
            yield Definition(path, kind, key, mapping)


def renderer(files: Mapping[str, str]) -> str:
    """Which daemon netplan writes its configuration for: the last word counts, the default is networkd."""
    found = "networkd"
    for text in files.values():
        try:
            found = yamlite.read(text).mapping("network").text("renderer") or found
        except yamlite.YamlError:
            continue
    return found


def parse(files: Mapping[str, str]) -> Parsed:
    drafts: dict[str, Draft] = {}
    problems: list[str] = []
    names: dict[str, str] = {}
    for path, text in files.items():
        if not owns(path):
            continue
        try:
            for definition in definitions(path, text):
                problems += _take(drafts, names, definition)
        except yamlite.YamlError as error:
            problems.append(f"{path}:{error.line} {error.words}")
    # Interfaces refer to each other by their keys; what the kernel calls them may differ.
    for draft in drafts.values():
        draft.members = [names.get(member, member) for member in draft.members]
        draft.name = names[draft.name]
    return finished({draft.name: draft for draft in drafts.values()}, problems)


def interface_name(definition: Definition) -> str:
    """What the kernel calls it; a pattern where it is matched by one, else what it is matched by."""
    body, match = definition.body, definition.match
    if body.text("set-name"):
        return body.text("set-name")
    mac = mac_of(match.text("macaddress"))
    if mac and not match.text("name"):
        return f"mac:{mac}"
    if match.entries and not match.text("name"):
        return f"(match:{definition.key.value})"
    return match.text("name") or definition.key.value


def _take(drafts: dict[str, Draft], names: dict[str, str], definition: Definition) -> Iterator[str]:
    key, body = definition.key.value, definition.body
    draft = drafts.setdefault(key, Draft(key, kind=definition.kind))
    name = interface_name(definition)
    if key not in names or name != key:
        names[key] = name
    draft.sources.append(definition.path)
    draft.mac = mac_of(definition.match.text("macaddress")) or draft.mac
    draft.mtu = mtu_of(body.text("mtu")) or draft.mtu
    draft.vlan_id = number(body.text("id"), 0, 4095) if body.text("id") else draft.vlan_id
    draft.members += body.texts("interfaces")
    if definition.kind is LinkKind.VLAN and body.text("link"):
        draft.members = [body.text("link")]
    draft.bond_mode = body.mapping("parameters").text("mode") or draft.bond_mode
    if truth(body.text("dhcp4")):
        draft.method = NicMethod.DHCP
    if truth(body.text("dhcp6")):
        draft.method6 = NicMethod.DHCP
    elif truth(body.text("accept-ra")) and draft.method6 is NicMethod.NONE:
        draft.method6 = NicMethod.AUTO
    draft.dns += body.mapping("nameservers").texts("addresses")
    draft.search += body.mapping("nameservers").texts("search")
    yield from _addresses(draft, definition)


def _addresses(draft: Draft, definition: Definition) -> Iterator[str]:
    body = definition.body
    for item in body.items("addresses"):
        if isinstance(item, yamlite.Mapping) and item.entries:
            item = next(iter(item.entries.values()))[0]  # "10.0.0.1/24": {label: ...}
        if not isinstance(item, yamlite.Scalar) or "/" not in item.value:
            yield f"{definition.path}:{item.line + 1} is no address with a prefix"
        elif wrong := draft.address(item.value):
            yield f"{definition.path}:{item.line + 1} {wrong}"
    for key in ("gateway4", "gateway6"):
        if body.text(key) and (wrong := draft.set_gateway(body.text(key))):
            yield f"{definition.path}:{body.entries[key][0].line + 1} {wrong}"
    yield from _passthrough(draft, definition)
    for route in routes(definition):
        wrong = draft.route(route.text("to"), route.text("via"), number(route.text("metric"), 0, 10**7))
        if wrong:
            yield f"{definition.path}:{route.line + 1} {wrong}"


def _passthrough(draft: Draft, definition: Definition) -> Iterator[str]:
    """Gateways in what NetworkManager keeps of a profile that it stored with netplan."""
    settings = definition.body.mapping("networkmanager").mapping("passthrough")
    for key, (word, value) in settings.entries.items():
        family, _, name = key.partition(".")
        text = value.value if isinstance(value, yamlite.Scalar) else ""
        gateway = text if name == "gateway" else text.partition(",")[2] if name == "address1" else ""
        if family in ("ipv4", "ipv6") and gateway and (wrong := draft.set_gateway(gateway)):
            yield f"{definition.path}:{word.line + 1} {wrong}"


def routes(definition: Definition) -> Iterator[yamlite.Mapping]:
    """The routes of the main table."""
    for item in definition.body.items("routes"):
        if not isinstance(item, yamlite.Mapping) or not item.text("to"):
            continue
        if item.text("table") in ("", "254") and item.text("type") in ("", "unicast"):
            yield item
