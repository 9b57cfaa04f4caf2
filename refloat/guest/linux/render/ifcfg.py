"""ifcfg files of the Red Hat family with other names, other addresses, or new."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from refloat.guest.linux.network.ifcfg import DIRECTORY, GLOBAL, base, device, split
from refloat.guest.linux.network.texts import (
    edited,
    last_line,
    quoted,
    requoted,
    settings,
    shell_entries,
    swapped,
)
from refloat.guest.linux.render.common import (
    drops_routes,
    keeps_dns,
    keeps_search,
    moves,
    of_version,
    refused,
    renamed,
    with_macs,
)
from refloat.guest.linux.render.types import Changed, Files, RenderedFile
from refloat.model import NicConfig, NicMethod

_NAMES = frozenset({"DEVICE", "PHYSDEV", "GATEWAYDEV", "BONDING_OPTS", "MASTER", "BRIDGE", "IPV6_DEFAULTDEV"})
_ADDRESS = re.compile(
    r"(IPADDR|PREFIX|NETMASK|NETWORK|BROADCAST|GATEWAY)[0-9]*|IPV6ADDR|IPV6ADDR_SECONDARIES|IPV6_DEFAULTGW"
)


def rename(files: Files, names: Mapping[str, str], macs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """path -> (new path, text): files are found by the interface in their names."""
    result = {}
    for path, text in files.items():
        prefix, suffix = split(path)
        new_path = f"{DIRECTORY}/{prefix}{renamed(suffix, names)}" if prefix else path
        lines = text.split("\n")
        changes: dict[int, str | None] = {}
        entries = {entry.line: entry for entry in shell_entries(text)}
        for index, line in enumerate(lines):
            routes = prefix.startswith(("route", "rule")) and not line.lstrip().startswith("#")
            if (index in entries and entries[index].key in _NAMES) or (routes and index not in entries):
                changes[index] = renamed(line, names)
        result[path] = (new_path, with_macs(edited(text, changes), macs, ("#",)))
    return result


def change(files: Files, old: NicConfig, new: NicConfig) -> Changed:
    done: Changed = {}
    pairs = moves(old, new)
    main = ""
    for path in [path for path in old.sources if split(path)[0] == "ifcfg-" and path in files]:
        name = device(path, settings(files[path]))
        if base(name) != name:
            done[path] = None  # an alias: the new addresses stand with the interface
        elif not main:
            main = path
    if not main:
        raise refused(f"no ifcfg file is {old.name}'s own")
    done[main] = _rewritten(files[main], old, new)
    for suffix in {split(main)[1], old.name}:
        for prefix in ("route-", "route6-", "rule-", "rule6-"):
            path = f"{DIRECTORY}/{prefix}{suffix}"
            if path in files:
                gone = drops_routes(old, new) and prefix.startswith("route")
                done[path] = None if gone else swapped(files[path], pairs)
    if GLOBAL in files and old.gateway:
        done[GLOBAL] = _global(files[GLOBAL], old, new)
    return done


def _global(text: str, old: NicConfig, new: NicConfig) -> str:
    """The machine's gateway, where it was this interface's."""
    changes: dict[int, str | None] = {}
    for entry in shell_entries(text):
        if entry.key == "GATEWAY" and entry.value == old.gateway:
            # The interface's own file says it now; two would be one too many.
            changes[entry.line] = None
    return edited(text, changes)


def _rewritten(text: str, old: NicConfig, new: NicConfig) -> str:
    values, lines = settings(text), text.split("\n")
    changes: dict[int, str | None] = {}
    first = last_line(text)
    boot = {NicMethod.STATIC: "none", NicMethod.DHCP: "dhcp", NicMethod.NONE: "none"}[new.method]
    for entry in shell_entries(text):
        if _is_stripped(entry.key, old, new):
            changes[entry.line] = None
            first = min(first, entry.line)
        elif entry.key == "BOOTPROTO" and (old.method is not new.method):
            changes[entry.line] = requoted(lines[entry.line], "BOOTPROTO", boot)
    fresh = [] if "BOOTPROTO" in values else [f"BOOTPROTO={boot}"]
    fresh += _fresh(old, new, values)
    if new.method6 is not old.method6:
        for key, value in _six(new):
            line = next((entry.line for entry in shell_entries(text) if entry.key == key), None)
            if line is None:
                fresh.append(f"{key}={value}")
            else:
                changes[line] = requoted(lines[line], key, value)
    return edited(text, changes, {first: fresh})


def _is_stripped(key: str, old: NicConfig, new: NicConfig) -> bool:
    if re.fullmatch(r"DNS[0-9]*", key):
        return not keeps_dns(old, new)
    if key in ("SEARCH", "DOMAIN"):
        return not keeps_search(old, new)
    return _ADDRESS.fullmatch(key) is not None


def _six(new: NicConfig) -> tuple[tuple[str, str], ...]:
    on = new.method6 is not NicMethod.NONE
    return (
        ("IPV6INIT", "yes" if on else "no"),
        ("IPV6_AUTOCONF", "yes" if new.method6 is NicMethod.AUTO else "no"),
        ("DHCPV6C", "yes" if new.method6 is NicMethod.DHCP else "no"),
    )


def _fresh(old: NicConfig, new: NicConfig, values: Mapping[str, str]) -> Iterator[str]:
    for index, address in enumerate(of_version(new.addresses, 4)):
        suffix = str(index) if index else ""
        ip, _, prefix = address.partition("/")
        yield f"IPADDR{suffix}={ip}"
        yield f"PREFIX{suffix}={prefix}"
    if new.gateway:
        yield f"GATEWAY={new.gateway}"
    six = of_version(new.addresses, 6)
    if six:
        yield f"IPV6ADDR={six[0]}"
    if six[1:]:
        yield f'IPV6ADDR_SECONDARIES="{" ".join(six[1:])}"'
    if new.gateway6:
        yield f"IPV6_DEFAULTGW={new.gateway6}"
    if not keeps_dns(old, new):
        yield from (f"DNS{index}={server}" for index, server in enumerate(new.dns, 1))
    if new.search and not keeps_search(old, new):
        yield f"DOMAIN={quoted(' '.join(new.search))}"


def new_files(config: NicConfig, name: str, index: int, files: Files) -> tuple[RenderedFile, ...]:
    nothing = NicConfig(name, NicMethod.NONE)
    boot = "dhcp" if config.method is NicMethod.DHCP else "none"
    lines = ["TYPE=Ethernet", f"DEVICE={name}", f"NAME=refloat-{index}", "ONBOOT=yes", f"BOOTPROTO={boot}"]
    lines += [*_fresh(nothing, config, {}), *(f"{key}={value}" for key, value in _six(config))]
    lines += [f"MTU={config.mtu}"] if config.mtu else []
    done = [RenderedFile("", f"{DIRECTORY}/ifcfg-{name}", "\n".join(lines) + "\n")]
    for prefix, six in (("route-", False), ("route6-", True)):
        routes = [route for route in config.routes if (":" in route.to + route.via) == six]
        text = "".join(
            f"{route.to}{f' via {route.via}' if route.via else ''} dev {name}"
            f"{f' metric {route.metric}' if route.metric is not None else ''}\n"
            for route in routes
        )
        if text:
            done.append(RenderedFile("", f"{DIRECTORY}/{prefix}{name}", text))
    return tuple(done)
