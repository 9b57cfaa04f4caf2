"""A guest's own network configuration: what its NICs are called and which addresses they hold."""

from __future__ import annotations

import fnmatch
import ipaddress
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from refloat.guest.tree import Tree
from refloat.model import NicConfig, NicMethod

INTERFACES = "/etc/network/interfaces"
_FILE_LIMIT = 64
# run-parts(8) names, as source-directory takes them.
_RUN_PARTS = re.compile(r"[A-Za-z0-9_-]+")
# Options by which an interface is stacked on others; "_" and "-" are the same to ifupdown.
_MEMBERS = ("bridge-ports", "bond-slaves", "slaves", "vlan-raw-device")
_ALIAS = re.compile(r"[:.]")


@dataclass
class _Interface:
    """All stanzas of one name."""

    methods: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    gateway: str = ""
    dns: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)


def ifupdown_files(tree: Tree) -> dict[str, str]:
    """/etc/network/interfaces and what it sources: path -> text, in the order of reading."""
    files: dict[str, str] = {}
    pending = [INTERFACES]
    while pending and len(files) < _FILE_LIMIT:
        path = pending.pop(0)
        if path in files or not tree.is_file(path):
            continue
        files[path] = tree.read_text(path)
        pending += _sourced(tree, path, files[path])
    return files


def _sourced(tree: Tree, path: str, text: str) -> Iterator[str]:
    for words in logical_lines(text):
        if words[0] == "source" and len(words) > 1:
            yield from _glob(tree, posixpath.join(posixpath.dirname(path), words[1]))
        elif words[0] == "source-directory" and len(words) > 1:
            directory = posixpath.join(posixpath.dirname(path), words[1])
            names = tree.listdir(directory)
            yield from (f"{directory.rstrip('/')}/{name}" for name in names if _RUN_PARTS.fullmatch(name))


def _glob(tree: Tree, pattern: str) -> Iterator[str]:
    """Files matching a pattern whose wildcards are in the last component, as is usual."""
    directory, name = posixpath.split(posixpath.normpath(pattern))
    for entry in tree.listdir(directory):
        # As in a shell: no wildcard matches a leading dot.
        if fnmatch.fnmatchcase(entry, name) and not (entry.startswith(".") and not name.startswith(".")):
            yield f"{directory}/{entry}"


def logical_lines(text: str) -> Iterator[list[str]]:
    """The words of each line, continued lines joined; comments and empty lines are left out."""
    for line in text.replace("\\\n", " ").split("\n"):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield words


def ifupdown_nics(files: Mapping[str, str], resolv_conf: str = "") -> tuple[NicConfig, ...]:
    """The physical interfaces that ifupdown configures, in the natural order of their names.

    The addresses of aliases, VLANs, bridges and bonds count for the (first) NIC that carries them.
    """
    interfaces = _parse(files.values())
    interfaces.pop("lo", None)
    carrier = {name: _carrier(name, interfaces) for name in interfaces}
    dns, search = _resolver(resolv_conf)
    nics: dict[str, NicConfig] = {}
    for name in sorted(carrier, key=lambda name: (name != carrier[name], natural(name))):
        own, base = interfaces[name], carrier[name]
        nics[base] = _merged(nics.get(base), base, own)
        for member in own.members:
            nics.setdefault(_base(member), NicConfig(_base(member), NicMethod.NONE))
    static = next((nic.name for nic in nics.values() if nic.gateway), None)
    return tuple(
        _with_resolver(nic, dns, search, nic.name == static or static is None)
        for nic in sorted(nics.values(), key=lambda nic: natural(nic.name))
        if nic.name not in interfaces or not interfaces[nic.name].members
    )


def pinned_addresses(files: Mapping[str, str]) -> tuple[str, ...]:
    """Where a file sets a NIC's MAC itself, which works against the MAC of the plan."""
    found = []
    for path, text in files.items():
        found += [f"{path}: {' '.join(words)}" for words in logical_lines(text) if words[0] == "hwaddress"]
    return tuple(found)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which ens192 comes before ens1024."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _parse(texts: Iterable[str]) -> dict[str, _Interface]:
    interfaces: dict[str, _Interface] = {}
    for text in texts:
        current: _Interface | None = None
        for words in logical_lines(text):
            keyword = words[0].replace("_", "-")
            if keyword == "iface" and len(words) >= 2:
                current = interfaces.setdefault(words[1], _Interface())
                current.methods += words[3:4]
            elif keyword in ("auto", "mapping", "source", "source-directory") or keyword.startswith("allow-"):
                current = None
            elif current is not None:
                _option(current, keyword, words[1:])
    return interfaces


def _option(interface: _Interface, keyword: str, values: list[str]) -> None:
    if not values:
        return
    if keyword == "address":
        interface.addresses.append(values[0])
    elif keyword == "netmask" and interface.addresses and "/" not in interface.addresses[-1]:
        interface.addresses[-1] = _with_prefix(interface.addresses[-1], values[0])
    elif keyword == "gateway":
        interface.gateway = interface.gateway or values[0]
    elif keyword in ("dns-nameservers", "dns-nameserver"):
        interface.dns += values
    elif keyword in ("dns-search", "dns-domain"):
        interface.search += values
    elif keyword in _MEMBERS:
        interface.members += [value for value in values if value not in ("none", "auto", "regex", "all")]


def _with_prefix(address: str, netmask: str) -> str:
    if netmask.isdigit():
        return f"{address}/{netmask}"
    try:
        return f"{address}/{ipaddress.ip_network(f'0.0.0.0/{netmask}').prefixlen}"
    except ValueError:
        return address


def _base(name: str) -> str:
    return _ALIAS.split(name, maxsplit=1)[0]


def _carrier(name: str, interfaces: Mapping[str, _Interface], depth: int = 0) -> str:
    """The NIC below an alias, a VLAN, a bridge or a bond."""
    members = interfaces[name].members if name in interfaces else []
    if members and depth < 8:
        return _carrier(members[0], interfaces, depth + 1)
    base = _base(name)
    if base != name and depth < 8:
        return _carrier(base, interfaces, depth + 1)
    return base


def _merged(known: NicConfig | None, name: str, own: _Interface) -> NicConfig:
    method = NicMethod.NONE
    if "static" in own.methods:
        method = NicMethod.STATIC
    elif {"dhcp", "auto"} & set(own.methods):
        method = NicMethod.DHCP
    if known is None:
        known = NicConfig(name, NicMethod.NONE)
    return NicConfig(
        name,
        known.method if known.method is not NicMethod.NONE else method,
        tuple(dict.fromkeys((*known.addresses, *own.addresses))),
        known.gateway or own.gateway,
        tuple(dict.fromkeys((*known.dns, *own.dns))),
        tuple(dict.fromkeys((*known.search, *own.search))),
    )


def _resolver(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    dns: list[str] = []
    search: list[str] = []
    for words in logical_lines(text):
        if words[0] == "nameserver":
            dns += words[1:2]
        elif words[0] in ("search", "domain"):
            search = words[1:]
    return tuple(dns), tuple(search)


def _with_resolver(
    nic: NicConfig, dns: tuple[str, ...], search: tuple[str, ...], concerned: bool
) -> NicConfig:
    """/etc/resolv.conf speaks for the NIC with the gateway, where its stanza names no servers."""
    if not concerned or nic.method is not NicMethod.STATIC:
        return nic
    return NicConfig(nic.name, nic.method, nic.addresses, nic.gateway, nic.dns or dns, nic.search or search)
