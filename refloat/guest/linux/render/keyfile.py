"""NetworkManager's keyfiles with other names, other addresses, or new."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from refloat.guest.linux.network.keyfile import DIRECTORIES, Profile
from refloat.guest.linux.network.texts import (
    Entry,
    edited,
    last_line,
    section_end,
    section_entries,
    swapped,
    valued,
)
from refloat.guest.linux.render.common import (
    drops_routes,
    keeps_dns,
    keeps_search,
    moves,
    of_version,
    refused,
    with_macs,
)
from refloat.guest.linux.render.types import Changed, Files, RenderedFile
from refloat.model import NicConfig, NicMethod

_NAMES = frozenset(
    {
        ("connection", "interface-name"), ("connection", "master"), ("connection", "controller"),
        ("match", "interface-name"), ("vlan", "parent"), ("bond", "primary"), ("bond", "active_slave"),
    }
)  # fmt: skip
_METHODS4 = {NicMethod.STATIC: "manual", NicMethod.DHCP: "auto", NicMethod.NONE: "disabled"}
_METHODS6 = {
    NicMethod.STATIC: "manual",
    NicMethod.AUTO: "auto",
    NicMethod.DHCP: "dhcp",
    NicMethod.NONE: "ignore",
}


def rename(files: Files, names: Mapping[str, str], macs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """path -> (path, text). A profile of /usr/lib is not changed but hidden by one in /etc."""
    result = {}
    for path, text in files.items():
        changes: dict[int, str | None] = {}
        lines = text.split("\n")
        for entry in section_entries(text):
            ends = entry.value[len(entry.value.rstrip(";")) :]
            word = entry.value.rstrip(";")
            if (entry.section, entry.key) in _NAMES and word in names:
                changes[entry.line] = valued(lines[entry.line], f"{names[word]}{ends}")
        done = with_macs(edited(text, changes), macs)
        result[path] = (_writable(path) if done != text else path, done)
    return result


def _writable(path: str) -> str:
    return path.replace(DIRECTORIES[0], DIRECTORIES[1]) if path.startswith(DIRECTORIES[0]) else path


def change(files: Files, old: NicConfig, new: NicConfig) -> Changed:
    """The profile of `old` as `new` says."""
    path = next((path for path in old.sources if path in files), "")
    if not path:
        raise refused(f"no profile is {old.name}'s own")
    text = files[path]
    for version, section in ((4, "ipv4"), (6, "ipv6")):
        text = _family(text, section, version, old, new)
    return {path: text}


def _family(text: str, section: str, version: int, old: NicConfig, new: NicConfig) -> str:
    changes: dict[int, str | None] = {}
    pairs = moves(old, new)
    lines = text.split("\n")
    for entry in section_entries(text):
        if entry.section == section and _is_stripped(entry, old, new):
            changes[entry.line] = None
        elif entry.section == section:
            changes[entry.line] = swapped(lines[entry.line], pairs)
    stripped = [line for line, new_line in changes.items() if new_line is None]
    entry_before = Profile(text).entries.get((section, "method"))
    before = entry_before.value if entry_before else ""
    fresh = list(_fresh(version, old, new))
    method = (_METHODS6 if version == 6 else _METHODS4)[new.method6 if version == 6 else new.method]
    unchanged = {"", "disabled", "ignore", "link-local"}
    if not (before in unchanged and method in unchanged):
        if entry_before:
            changes[entry_before.line] = valued(lines[entry_before.line], method)
        else:
            fresh.insert(0, f"method={method}")
    if not fresh:
        return edited(text, changes)
    end = min(stripped, default=section_end(text, section))
    if end is None:
        return edited(text, changes, {last_line(text): ["", f"[{section}]", *fresh]})
    return edited(text, changes, {end: fresh})


def _is_stripped(entry: Entry, old: NicConfig, new: NicConfig) -> bool:
    def numbered(*words: str) -> bool:
        return any(entry.key.removeprefix(word).isdecimal() or entry.key == word for word in words)

    if entry.key.startswith("route") and numbered("route", "routes", *_options(entry.key)):
        return drops_routes(old, new)
    if entry.key == "dns":
        return not keeps_dns(old, new)
    if entry.key == "dns-search":
        return not keeps_search(old, new)
    return entry.key == "gateway" or numbered("address", "addresses")


def _options(key: str) -> tuple[str, ...]:
    """ "route1_options" goes with "route1"."""
    return (key,) if key.endswith("_options") else ()


def _fresh(version: int, old: NicConfig, new: NicConfig) -> Iterator[str]:
    for index, address in enumerate(of_version(new.addresses, version), 1):
        yield f"address{index}={address}"
    gateway = new.gateway6 if version == 6 else new.gateway
    if gateway:
        yield f"gateway={gateway}"
    dns = [server for server in new.dns if _version(server) == version]
    if dns and not keeps_dns(old, new):
        yield f"dns={';'.join(dns)};"
    if new.search and version == 4 and not keeps_search(old, new):
        yield f"dns-search={';'.join(new.search)};"


def _version(address: str) -> int:
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return 0


def new_files(config: NicConfig, name: str, index: int, files: Files) -> tuple[RenderedFile, ...]:
    nothing = NicConfig(name, NicMethod.NONE)
    lines = ["[connection]", f"id=refloat-{index}", "type=ethernet", f"interface-name={name}", ""]
    if config.mtu:
        lines += ["[ethernet]", f"mtu={config.mtu}", ""]
    for version, section in ((4, "ipv4"), (6, "ipv6")):
        method = (_METHODS6 if version == 6 else _METHODS4)[config.method6 if version == 6 else config.method]
        lines += [f"[{section}]", f"method={method}", *_fresh(version, nothing, config)]
        routes = [route for route in config.routes if _version(route.to.partition("/")[0]) == version]
        for number, route in enumerate(routes, 1):
            metric = f",{route.metric}" if route.metric is not None else ""
            via = route.via or ("::" if version == 6 else "0.0.0.0") if metric else route.via
            lines.append(f"route{number}={route.to}" + (f",{via}" if via else "") + metric)
        lines.append("")
    # NetworkManager ignores a profile that others may read.
    path = f"{DIRECTORIES[1]}/refloat-{index}.nmconnection"
    return (RenderedFile("", path, "\n".join(lines[:-1]) + "\n", 0o600),)
