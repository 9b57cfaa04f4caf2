"""systemd-networkd's files with other names, other addresses, or new."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from refloat.guest.linux.network.networkd import DIRECTORY, HARDWARE, entries, names_of, unit_of
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
    refused,
    with_macs,
)
from refloat.guest.linux.render.types import Changed, Files, RenderedFile
from refloat.model import NicConfig, NicMethod, Route

_REFERENCES = (("Network", "BindCarrier"), ("Link", "BindCarrier"))
# What an adapter of another model or in another slot does not have.
_OLD_HARDWARE = ("Driver", "Path", "Property")
_DEFAULTS = ("", "0.0.0.0/0", "::/0")


def rename(files: Files, names: Mapping[str, str], macs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    result = {}
    for path, text in files.items():
        unit = unit_of(path)
        found = [entry for _, entry in entries(files, unit)]
        meant = [name for name in names_of(found) if name in names] if unit.endswith(".network") else []
        named = any(entry.section == "Match" and entry.key == "Name" for entry in found)
        lines = text.split("\n")
        changes: dict[int, str | None] = {}
        for entry in section_entries(text):
            if entry.section == "Match" and meant:
                changes[entry.line] = _match(entry, lines[entry.line], names, meant, named=named)
            elif (entry.section, entry.key) in _REFERENCES:
                changes[entry.line] = _words(entry, lines[entry.line], names)
        result[path] = (path, with_macs(edited(text, changes), macs))
    return result


def _match(entry: Entry, line: str, names: Mapping[str, str], meant: list[str], *, named: bool) -> str | None:
    if entry.key == "Name":
        return _words(entry, line, names)
    if entry.key in HARDWARE and not named and meant[0].startswith(f"({entry.key.lower()}:"):
        return f"Name={names[meant[0]]}"
    same = named and names.get(meant[0]) == meant[0]
    return None if entry.key in _OLD_HARDWARE and not same else line


def _words(entry: Entry, line: str, names: Mapping[str, str]) -> str:
    return valued(line, re.sub(r"\S+", lambda match: names.get(match[0], match[0]), entry.value))


# ---------------------------------------------------------------- another address


def change(files: Files, old: NicConfig, new: NicConfig) -> Changed:
    unit = next((path for path in old.sources if path.endswith(".network") and path in files), "")
    if not unit:
        raise refused(f"no .network file is {old.name}'s own")
    names = names_of([entry for _, entry in entries(files, unit)])
    if names != [old.name]:
        raise refused(f"{unit} is for {', '.join(names)} together")
    done: Changed = {}
    for path in [path for path in files if unit_of(path) == unit]:
        done[path] = _stripped(files[path], old, new)
    text = done[unit] or ""
    end = section_end(text, "Network")
    network = list(_network(old, new))
    if end is None:
        text = edited(text, {}, {last_line(text): ["", "[Network]", *network]})
    else:
        text = edited(text, {}, {end: network})
    done[unit] = text
    return done


def _stripped(text: str, old: NicConfig, new: NicConfig) -> str:
    """The file without the words that _network() says anew; routes follow their gateways."""
    lines, pairs = text.split("\n"), moves(old, new)
    changes: dict[int, str | None] = {}
    by_part: dict[int, list[Entry]] = {}
    for entry in section_entries(text):
        by_part.setdefault(entry.part, []).append(entry)
    for part in by_part.values():
        section = part[0].section
        if section == "Address" or (section == "Route" and _is_dropped(part, old, new)):
            _delete_section(changes, lines, part)
            continue
        for entry in part:
            if section == "Network" and _is_said_anew(entry.key, old, new):
                changes[entry.line] = None
            elif section in ("Network", "Route", "RoutingPolicyRule"):
                changes[entry.line] = swapped(lines[entry.line], pairs)
    return edited(text, changes)


def _is_dropped(part: list[Entry], old: NicConfig, new: NicConfig) -> bool:
    values = {entry.key: entry.value for entry in part}
    if values.get("Table", "main") not in ("main", "254"):
        return False
    default = values.get("Destination", "") in _DEFAULTS
    if default and values.get("Gateway", "") in (old.gateway, old.gateway6):
        return True
    return not default and drops_routes(old, new)


def _delete_section(changes: dict[int, str | None], lines: list[str], part: list[Entry]) -> None:
    first = part[0].line
    while first > 0 and not lines[first].lstrip().startswith("["):
        first -= 1
    for index in range(first, part[-1].line + 1):
        changes[index] = None
    if first > 0 and not lines[first - 1].strip():
        changes[first - 1] = None


def _is_said_anew(key: str, old: NicConfig, new: NicConfig) -> bool:
    if key == "DNS":
        return not keeps_dns(old, new)
    if key == "Domains":
        return not keeps_search(old, new)
    return key in ("Address", "Gateway", "DHCP")


def _network(old: NicConfig, new: NicConfig) -> Iterator[str]:
    four, six = new.method is NicMethod.DHCP, new.method6 is NicMethod.DHCP
    words = {(True, True): "yes", (True, False): "ipv4", (False, True): "ipv6", (False, False): "no"}
    if four or six or NicMethod.DHCP in (old.method, old.method6):
        yield f"DHCP={words[four, six]}"
    if new.method6 is NicMethod.AUTO and old.method6 is not NicMethod.AUTO:
        yield "IPv6AcceptRA=yes"
    yield from (f"Address={address}" for address in new.addresses)
    yield from (f"Gateway={gateway}" for gateway in (new.gateway, new.gateway6) if gateway)
    if not keeps_dns(old, new):
        yield from (f"DNS={server}" for server in new.dns)
    if new.search and not keeps_search(old, new):
        yield f"Domains={' '.join(new.search)}"


def _route(route: Route) -> list[str]:
    lines = ["", "[Route]", f"Destination={route.to}"]
    lines += [f"Gateway={route.via}"] if route.via else []
    return lines + ([f"Metric={route.metric}"] if route.metric is not None else [])


def new_files(config: NicConfig, name: str, index: int, files: Files) -> tuple[RenderedFile, ...]:
    lines = ["[Match]", f"Name={name}"]
    lines += ["", "[Link]", f"MTUBytes={config.mtu}"] if config.mtu else []
    lines += ["", "[Network]", *_network(NicConfig(name, NicMethod.NONE), config)]
    for route in config.routes:
        lines += _route(route)
    # Before the guest's own: the first file that matches counts.
    return (RenderedFile("", f"{DIRECTORY}/05-refloat-{index}.network", "\n".join(lines) + "\n"),)
