"""ifupdown: the guest's own files with each planned NIC's name replaced by a placeholder.

Only the first boot knows what a NIC is called on the new hardware (ens192 becomes ens4 or enp0s3), so it
puts the live name in the placeholder's place. All else that the operator wrote stays: routes, MTU, hooks.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from refloat.guest.linux.network.ifupdown import INTERFACES, Line, Stanza, logical_lines, stanzas
from refloat.guest.linux.network.texts import edited, last_line, swapped
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
from refloat.guest.linux.render.types import Changed, Files, RenderedFile, placeholder
from refloat.model import NicConfig, NicMethod

__all__ = ("change", "new_files", "placeholder", "rename", "render")

# Lines whose words may be names of interfaces. Commands are among them: "up ip route add ... dev ens192".
_KEYWORDS = frozenset(
    {
        "auto", "iface", "mapping", "rename", "no-auto-down", "no-scripts", "inherits", "requires",
        "bridge-ports", "bridge-hw", "bond-slaves", "bond-members", "bond-primary", "slaves", "primary",
        "vlan-raw-device", "up", "down", "pre-up", "post-up", "pre-down", "post-down",
    }
)  # fmt: skip
_ADDRESS = ("address", "netmask", "broadcast", "network", "gateway", "pointopoint")
_DNS = ("dns-nameservers", "dns-nameserver")
_SEARCH = ("dns-search", "dns-domain")
_HOOKS = ("up", "down", "pre-up", "post-up", "pre-down", "post-down")
_WORDS = {
    NicMethod.STATIC: "static",
    NicMethod.DHCP: "dhcp",
    NicMethod.AUTO: "auto",
    NicMethod.NONE: "manual",
}


def render(files: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The files in which a name occurs, with each name (key) replaced by its placeholder (value).

    A name is replaced only on lines that can name an interface; comments stay.
    """
    rendered = {path: _render(text, names) for path, text in files.items()}
    return {path: text for path, text in rendered.items() if text != files[path]}


def rename(files: Files, names: Mapping[str, str], macs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """path -> (path, text) with names and MACs replaced."""
    return {path: (path, with_macs(_render(text, names), macs, ("#",))) for path, text in files.items()}


def _render(text: str, names: Mapping[str, str]) -> str:
    lines = text.split("\n")
    for line in logical_lines(text):
        if line.keyword in _KEYWORDS or line.keyword.startswith("allow-"):
            for index in range(line.first, line.last + 1):
                lines[index] = renamed(lines[index], names)
    return "\n".join(lines)


# ---------------------------------------------------------------- another address


@dataclass
class _Edit:
    """The edits of one file."""

    changes: dict[int, str | None] = field(default_factory=dict)
    added: dict[int, list[str]] = field(default_factory=dict)

    def delete(self, line: Line) -> None:
        for index in range(line.first, line.last + 1):
            self.changes[index] = None


def change(files: Files, old: NicConfig, new: NicConfig) -> Changed:
    """The files with `old` configured as `new` says. Raises Refused where that has no words here."""
    edits = {path: _Edit() for path in files}
    done: set[int] = set()
    last = ""
    for path, text in files.items():
        for stanza in [one for one in stanzas(text) if one.base == old.name]:
            version, last = (6 if stanza.six else 4), path
            if ":" in stanza.name or version in done:
                _drop(edits[path], text, stanza, path, old, new)
            else:
                _rewrite(edits[path], text, stanza, old, new)
            done.add(version)
        _without_aliases(edits[path], text, old.name)
    if not done:
        raise refused(f"the guest's network files have no stanza for {old.name}")
    for version in {4, 6} - done:
        if lines := _fresh(new, version, ""):
            edits[last].added.setdefault(last_line(files[last]), []).extend(lines)
    return {path: edited(text, edits[path].changes, edits[path].added) for path, text in files.items()}


def _drop(edit: _Edit, text: str, stanza: Stanza, path: str, old: NicConfig, new: NicConfig) -> None:
    """A further stanza only adds addresses: the new ones come with the first. Its hooks stay."""
    lines, pairs, kept = text.split("\n"), moves(old, new), False
    for line in stanza.options:
        if line.keyword in (*_ADDRESS, *_DNS, *_SEARCH) or (drops_routes(old, new) and _is_route(line)):
            edit.delete(line)
        elif ":" in stanza.name or not stanza.method:
            raise refused(f"{path}:{line.first + 1} {line.keyword} in another stanza of {stanza.base}")
        else:
            kept = True
            for index in range(line.first, line.last + 1):
                edit.changes[index] = swapped(lines[index], pairs)
    if kept:
        edit.changes[stanza.head.first] = _with_method(lines[stanza.head.first], stanza, NicMethod.NONE)
    else:
        edit.delete(stanza.head)


def _without_aliases(edit: _Edit, text: str, name: str) -> None:
    """Aliases have no stanza any more: "auto eth0 eth0:1" names the first alone."""
    for line in logical_lines(text):
        if line.keyword != "auto" and not line.keyword.startswith("allow-"):
            continue
        kept = [word for word in line.words if not word.startswith(f"{name}:")]
        if len(kept) == len(line.words):
            continue
        edit.delete(line)
        if len(kept) > 1:
            edit.changes[line.first] = " ".join(kept)


def _rewrite(edit: _Edit, text: str, stanza: Stanza, old: NicConfig, new: NicConfig) -> None:
    version = 6 if stanza.six else 4
    lines = text.split("\n")
    strip = [*_ADDRESS]
    strip += [] if keeps_dns(old, new) else _DNS
    strip += [] if keeps_search(old, new) else _SEARCH
    pairs = moves(old, new)
    for line in stanza.options:
        if line.keyword in strip or (drops_routes(old, new) and _is_route(line)):
            edit.delete(line)
        elif line.keyword in _HOOKS:
            for index in range(line.first, line.last + 1):
                edit.changes[index] = swapped(lines[index], pairs)
    indent = _indent(lines, stanza)
    head = lines[stanza.head.first]
    rest = [line for line in stanza.options if edit.changes.get(line.first, "") is not None]
    method = new.method6 if version == 6 else new.method
    if stanza.method:
        edit.changes[stanza.head.first] = _with_method(head, stanza, method)
    for line in stanza.options:
        if line.words[:2] == ("use", "dhcp"):
            edit.delete(line)
    fresh = _fresh(new, version, indent, dns=not keeps_dns(old, new), search=not keeps_search(old, new))
    if not fresh and not rest and version == 6:
        edit.delete(stanza.head)
    if not stanza.method and method is NicMethod.DHCP:
        fresh[1:1] = [f"{indent}use dhcp"]
    own = next((at for at, line in enumerate(fresh[1:], 1) if line.startswith("iface ")), len(fresh))
    edit.added.setdefault(stanza.head.last + 1, []).extend(fresh[1:own])
    after = (stanza.options[-1] if stanza.options else stanza.head).last + 1
    edit.added.setdefault(after, []).extend(fresh[own:])


def _with_method(head: str, stanza: Stanza, method: NicMethod) -> str:
    start = head.rindex(stanza.method)
    return f"{head[:start]}{_WORDS[method]}{head[start + len(stanza.method) :]}"


def _is_route(line: Line) -> bool:
    """A hook that does nothing but set or unset a route."""
    words = [word for word in line.words[1:] if not word.startswith("-")]
    program = posixpath.basename(words[0]) if words else ""
    plain = line.keyword in _HOOKS and not any(set(word) & set("|&;<>()`") for word in words)
    return plain and (program == "route" or (program == "ip" and words[1:2] == ["route"]))


def _indent(lines: Sequence[str], stanza: Stanza) -> str:
    if not stanza.options:
        return "    "
    first = lines[stanza.options[0].first]
    return first[: len(first) - len(first.lstrip())] or "    "


def _fresh(new: NicConfig, version: int, indent: str, *, dns: bool = True, search: bool = True) -> list[str]:
    """The stanzas of one family; further addresses have one each. None where there is nothing to say."""
    method = new.method6 if version == 6 else new.method
    family = "inet6" if version == 6 else "inet"
    indent = indent or "    "
    if method is NicMethod.NONE:
        return []
    lines = [f"iface {new.name} {family} {_WORDS[method]}"]
    addresses = of_version(new.addresses, version)
    lines += [f"{indent}address {address}" for address in addresses[:1]]
    gateway = new.gateway6 if version == 6 else new.gateway
    lines += [f"{indent}gateway {gateway}"] if gateway else []
    # Servers are named once, with IPv4 where there is any.
    if version == (4 if new.method is not NicMethod.NONE else 6):
        lines += [f"{indent}dns-nameservers {' '.join(new.dns)}"] if new.dns and dns else []
        lines += [f"{indent}dns-search {' '.join(new.search)}"] if new.search and search else []
    for address in addresses[1:]:
        lines += [f"iface {new.name} {family} static", f"{indent}address {address}"]
    return lines


# ---------------------------------------------------------------- a new file


def new_files(config: NicConfig, name: str, index: int, files: Files) -> tuple[RenderedFile, ...]:
    lines = list(_new_lines(config, name))
    main = files.get(INTERFACES, "")
    sourced = [line.words for line in logical_lines(main) if line.keyword.startswith("source")]
    if any("interfaces.d" in word for words in sourced for word in words[1:]):
        # Two patterns are in use: "*.cfg" and run-parts' names, which have no dot.
        suffix = ".cfg" if any(word.endswith(".cfg") for words in sourced for word in words) else ""
        return (RenderedFile("", f"{INTERFACES}.d/refloat-{index}{suffix}", "\n".join(lines) + "\n"),)
    text = edited(main, {}, {last_line(main): lines}) if main else "\n".join(lines) + "\n"
    return (
        RenderedFile(INTERFACES if main else "", INTERFACES, text if text.endswith("\n") else text + "\n"),
    )


def _new_lines(config: NicConfig, name: str) -> Iterator[str]:
    yield f"auto {name}"
    for version in (4, 6):
        fresh = _fresh(config, version, "    ")
        if not fresh and version == 4:
            fresh = [f"iface {config.name} inet manual"]
        own = next((at for at, line in enumerate(fresh[1:], 1) if line.startswith("iface ")), len(fresh))
        if fresh:
            fresh[own:own] = _route_lines(config, name, version)
        if config.mtu and version == 4:
            fresh.insert(1, f"    mtu {config.mtu}")
        for line in fresh:
            yield line.replace(f"iface {config.name} ", f"iface {name} ", 1)


def _route_lines(config: NicConfig, name: str, version: int) -> Iterator[str]:
    """The routes of a family; those of IPv6 need its stanza, and stand with IPv4's where there is none."""
    six = config.method6 is not NicMethod.NONE
    for route in config.routes:
        if (6 if six and ":" in route.to + route.via else 4) != version:
            continue
        via = f" via {route.via}" if route.via else ""
        metric = f" metric {route.metric}" if route.metric is not None else ""
        yield f"    up ip route add {route.to}{via} dev {name}{metric}"
