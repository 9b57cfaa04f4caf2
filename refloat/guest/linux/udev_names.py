"""Which address an interface's name belongs to, where the guest's udev says so: evidence for the plan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from refloat.guest.tree import Tree
from refloat.model import LinkKind, NicConfig

_RULES = "/etc/udev/rules.d"
_LINKS = "/etc/systemd/network"
_FILE_LIMIT = 128
_SIZE_LIMIT = 256 * 1024
_MAC = r"([0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5})"
# SYSFS is the word of udev before 2011.
_ADDRESS = re.compile(rf'(?:ATTRS?|SYSFS)\{{address\}}=="{_MAC}"')
_NAME = re.compile(r'(?:^|[,\s])NAME:?="([A-Za-z0-9_.-]{1,15})"')
_LINK_ADDRESS = re.compile(rf"^[ \t]*(?:Permanent)?MACAddress[ \t]*=[ \t]*{_MAC}[ \t\r]*$", re.MULTILINE)
_LINK_NAME = re.compile(r"^[ \t]*Name[ \t]*=[ \t]*([A-Za-z0-9_.-]{1,15})[ \t\r]*$", re.MULTILINE)


def tied(tree: Tree, nics: Sequence[NicConfig]) -> tuple[NicConfig, ...]:
    """The interfaces with the address of their adapter, as far as udev's files tie their names to one and
    the network's own files do not."""
    known = udev_names(tree)
    return tuple(
        replace(nic, mac=known[nic.name])
        if not nic.mac and nic.kind is LinkKind.ETHERNET and nic.name in known
        else nic
        for nic in nics
    )


def udev_names(tree: Tree) -> dict[str, str]:
    """Name -> MAC in lower case. A name that is given to two addresses says nothing."""
    claims: dict[str, set[str]] = {}
    for name, mac in (*_from_rules(tree), *_from_links(tree)):
        claims.setdefault(name, set()).add(mac.lower())
    return {name: macs.pop() for name, macs in claims.items() if len(macs) == 1}


def _from_rules(tree: Tree) -> Iterator[tuple[str, str]]:
    for text in _texts(tree, _RULES, ".rules"):
        for line in text.replace("\\\n", " ").split("\n"):
            if line.lstrip().startswith("#") or '"net"' not in line:
                continue
            address, name = _ADDRESS.search(line), _NAME.search(line)
            if address and name:
                yield name[1], address[1]


def _from_links(tree: Tree) -> Iterator[tuple[str, str]]:
    for text in _texts(tree, _LINKS, ".link"):
        addresses, names = _LINK_ADDRESS.findall(text), _LINK_NAME.findall(text)
        if len(addresses) == len(names) == 1:
            yield names[0], addresses[0]


def _texts(tree: Tree, directory: str, suffix: str) -> Iterator[str]:
    for name in tree.listdir(directory)[:_FILE_LIMIT]:
        path = f"{directory}/{name}"
        status = tree.stat(path)
        if name.endswith(suffix) and tree.is_file(path) and status and status.st_size <= _SIZE_LIMIT:
            yield tree.read_text(path, _SIZE_LIMIT)
