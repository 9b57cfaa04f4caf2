"""SUSE's ifcfg files with other names, other addresses, or new."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from refloat.guest.linux.network.draft import DEFAULT_ROUTES, Draft
from refloat.guest.linux.network.texts import (
    edited,
    last_line,
    quoted,
    requoted,
    settings,
    shell_entries,
    swapped,
)
from refloat.guest.linux.network.wicked import CONFIG, DIRECTORY, ROUTES, route_lines, split
from refloat.guest.linux.render.common import (
    drops_routes,
    keeps_dns,
    keeps_search,
    moves,
    refused,
    renamed,
    with_macs,
)
from refloat.guest.linux.render.types import Changed, Files, RenderedFile
from refloat.model import NicConfig, NicMethod

_NAMES = re.compile(r"ETHERDEVICE|BRIDGE_PORTS|BONDING_MODULE_OPTS|BONDING_SLAVE_?[0-9]+")
_ADDRESS = re.compile(r"(IPADDR|PREFIXLEN|NETMASK|BROADCAST|NETWORK|LABEL|SCOPE)(_.*|[0-9]*)")


def _boot_protocol(config: NicConfig) -> str:
    """Addresses of the file are set beside those by DHCP; router advertisements are the kernel's."""
    four, six = config.method is NicMethod.DHCP, config.method6 is NicMethod.DHCP
    if four or six:
        return "dhcp" if four and six else "dhcp4" if four else "dhcp6"
    return "static" if config.addresses else "none"


def rename(files: Files, names: Mapping[str, str], macs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """path -> (new path, text): the file's name is the interface's."""
    result = {}
    for path, text in files.items():
        prefix, suffix = split(path)
        lines = text.split("\n")
        changes: dict[int, str | None] = {}
        if path == ROUTES or prefix in ("ifroute-", "ifrule-"):
            for index, line in enumerate(lines):
                changes[index] = line if line.lstrip().startswith("#") else renamed(line, names)
        else:
            for entry in shell_entries(text):
                if _NAMES.fullmatch(entry.key):
                    changes[entry.line] = renamed(lines[entry.line], names)
        new_path = f"{DIRECTORY}/{prefix}{renamed(suffix, names)}" if prefix else path
        result[path] = (new_path, with_macs(edited(text, changes), macs, ("#",)))
    return result


# ---------------------------------------------------------------- another address


def change(files: Files, old: NicConfig, new: NicConfig) -> Changed:
    main = f"{DIRECTORY}/ifcfg-{old.name}"
    if main not in files:
        raise refused(f"no ifcfg file is {old.name}'s own")
    done: Changed = {main: _rewritten(files[main], old, new)}
    own = f"{DIRECTORY}/ifroute-{old.name}"
    for path in (ROUTES, own):
        if path in files:
            done[path] = _routes(files[path], old, new, everything=path == own)
    missing = [
        gateway
        for was, gateway in ((old.gateway, new.gateway), (old.gateway6, new.gateway6))
        if gateway and not was
    ]
    if missing:
        text = done.get(own) or ""
        done[own] = edited(text, {}, {last_line(text): [f"default {gateway} - -" for gateway in missing]})
        done[own] = done[own] if (done[own] or "").endswith("\n") else f"{done[own]}\n"
    servers = _servers(files.get(CONFIG, ""), old, new)
    if CONFIG in files:
        done[CONFIG] = servers
    return done


def _rewritten(text: str, old: NicConfig, new: NicConfig) -> str:
    lines = text.split("\n")
    changes: dict[int, str | None] = {}
    first, has_method = last_line(text), False
    boot = _boot_protocol(new)
    same = (new.method, new.method6) == (old.method, old.method6)
    for entry in shell_entries(text):
        if _ADDRESS.fullmatch(entry.key):
            changes[entry.line] = None
            first = min(first, entry.line)
        elif entry.key == "BOOTPROTO":
            has_method = True
            changes[entry.line] = (
                lines[entry.line] if same else requoted(lines[entry.line], "BOOTPROTO", boot)
            )
    fresh = [] if has_method else [f"BOOTPROTO='{boot}'"]
    return edited(text, changes, {first: [*fresh, *_addresses(new)]})


def _addresses(new: NicConfig) -> Iterator[str]:
    for index, address in enumerate(new.addresses):
        yield f"IPADDR{f'_{index}' if index else ''}='{address}'"


def _routes(text: str, old: NicConfig, new: NicConfig, *, everything: bool) -> str:
    """`everything`: the file is the interface's own; else its routes are those through its subnets."""
    lines, pairs = text.split("\n"), moves(old, new)
    here = Draft(old.name, addresses=list(old.addresses))
    changes: dict[int, str | None] = {}
    for index, (to, via, _, interface, *_) in route_lines(text):
        mine = interface == old.name or (interface == "-" and (everything or here.reaches(via)))
        if not mine:
            continue
        default = to in DEFAULT_ROUTES
        gone = not (new.gateway6 if ":" in via else new.gateway) if default else drops_routes(old, new)
        changes[index] = None if gone else swapped(lines[index], pairs)
    return edited(text, changes)


def _servers(text: str, old: NicConfig, new: NicConfig) -> str:
    """netconfig's static servers, where they are what this interface brought. Raises Refused for servers
    that have no place, because those of another interface stand there."""
    values, lines = settings(text), text.split("\n")
    changes: dict[int, str | None] = {}
    for key, before, after, kept in (
        ("NETCONFIG_DNS_STATIC_SERVERS", old.dns, new.dns, keeps_dns(old, new)),
        ("NETCONFIG_DNS_STATIC_SEARCHLIST", old.search, new.search, keeps_search(old, new)),
    ):
        now = values.get(key, "").split()
        if kept or set(after) == set(now):
            continue
        word = next((entry for entry in shell_entries(text) if entry.key == key), None)
        if word and tuple(now) == before:
            changes[word.line] = requoted(lines[word.line], key, " ".join(after))
        elif set(after) - set(now):
            raise refused(f"{CONFIG}: {key} names other servers, or none can be named there")
    return edited(text, changes)


def new_files(config: NicConfig, name: str, index: int, files: Files) -> tuple[RenderedFile, ...]:
    boot = _boot_protocol(config)
    lines = [f"NAME='refloat-{index}'", "STARTMODE='auto'", f"BOOTPROTO='{boot}'", *_addresses(config)]
    lines += [f"MTU={quoted(str(config.mtu))}"] if config.mtu else []
    done = [RenderedFile("", f"{DIRECTORY}/ifcfg-{name}", "\n".join(lines) + "\n")]
    routes = [f"default {gateway} - -" for gateway in (config.gateway, config.gateway6) if gateway]
    for route in config.routes:
        metric = f" - metric {route.metric}" if route.metric is not None else ""
        routes.append(f"{route.to} {route.via or '-'} - -{metric}")
    if routes:
        done.append(RenderedFile("", f"{DIRECTORY}/ifroute-{name}", "\n".join(routes) + "\n"))
    text = _servers(files.get(CONFIG, ""), NicConfig(name, NicMethod.NONE), config)
    if CONFIG in files and text != files[CONFIG]:
        done.append(RenderedFile(CONFIG, CONFIG, text))
    return tuple(done)
