"""netplan files with other names, other addresses, or new: edits at the places of the values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from refloat.guest.linux.network import yamlite
from refloat.guest.linux.network.draft import DEFAULT_ROUTES
from refloat.guest.linux.network.netplan import Definition, definitions, interface_name, owns
from refloat.guest.linux.network.texts import edited, swapped
from refloat.guest.linux.render.common import (
    drops_routes,
    is_automatic,
    keeps_dns,
    keeps_search,
    moves,
    refused,
    with_macs,
)
from refloat.guest.linux.render.types import Changed, Files, RenderedFile
from refloat.model import NicConfig, NicMethod

_OLD_HARDWARE = ("driver", "path")


@dataclass
class _Edit:
    """Edits of one text: values replaced where they stand, lines deleted, lines added before a line."""

    text: str
    values: list[tuple[yamlite.Scalar, str]] = field(default_factory=list)
    deleted: set[int] = field(default_factory=set)
    added: dict[int, list[str]] = field(default_factory=dict)

    def done(self) -> str:
        lines = self.text.split("\n")
        changes: dict[int, str | None] = {}
        for scalar, value in sorted(self.values, key=lambda item: -item[0].start):
            line = changes.get(scalar.line) or lines[scalar.line]
            new = f"{scalar.quote}{value}{scalar.quote}"
            changes[scalar.line] = line[: scalar.start] + new + line[scalar.end :]
        changes |= dict.fromkeys(self.deleted)
        return edited(self.text, changes, self.added)

    def delete(self, first: int, last: int) -> None:
        self.deleted.update(range(first, last + 1))


def _all(files: Files) -> list[Definition]:
    """Every definition. Raises Refused for a file that cannot be understood."""
    found = []
    for path, text in files.items():
        try:
            found += list(definitions(path, text)) if owns(path) else []
        except yamlite.YamlError as error:
            raise refused(f"cannot understand {path}:{error.line} {error.words}") from error
    return found


# ---------------------------------------------------------------- other names


def rename(files: Files, names: Mapping[str, str], macs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """An interface without a `match` is called as its key says: the key and what refers to it change."""
    found = _all(files)
    matched = {one.key.value for one in found if one.match.entries}
    keys = {one.key.value: names[one.key.value] for one in found if one.key.value in names}
    keys = {key: name for key, name in keys.items() if key not in matched}
    edits = {path: _Edit(text) for path, text in files.items()}
    for definition in found:
        edit = edits[definition.path]
        for scalar in _references(definition):
            if scalar.value in keys:
                edit.values.append((scalar, keys[scalar.value]))
        new = names.get(interface_name(definition))
        if new:
            edit.values += _matched(definition, new)
    result = {}
    for path, text in files.items():
        done = with_macs(edits[path].done(), macs, ("#",))
        hidden = path.startswith(("/usr/lib/", "/lib/")) and done != text
        result[path] = (f"/etc/netplan/{path.rpartition('/')[2]}" if hidden else path, done)
    return result


def _references(definition: Definition) -> Iterator[yamlite.Scalar]:
    """Where keys of interfaces stand: its own, those of what it is stacked on, a bond's primary."""
    yield definition.key
    places = [definition.body.get("link"), definition.body.mapping("parameters").get("primary")]
    yield from (place for place in places if isinstance(place, yamlite.Scalar))
    yield from (item for item in definition.body.items("interfaces") if isinstance(item, yamlite.Scalar))


def _matched(definition: Definition, new: str) -> Iterator[tuple[yamlite.Scalar, str]]:
    """A match by name gets the new one; one by the old driver or slot becomes one by name."""
    match = definition.match
    named = match.get("name")
    if isinstance(named, yamlite.Scalar):
        yield named, new
    if match.get("macaddress") or new == interface_name(definition):
        return
    for key in _OLD_HARDWARE:
        if key in match.entries:
            word, value = match.entries[key]
            if named is not None or not isinstance(value, yamlite.Scalar):
                raise refused(f"{definition.path}:{word.line + 1} matches by {key} and by something else")
            yield word, "name"
            yield value, new


# ---------------------------------------------------------------- other addresses


def change(files: Files, old: NicConfig, new: NicConfig) -> Changed:
    own = [one for one in _all(files) if interface_name(one) == old.name]
    if not own:
        raise refused(f"no netplan file says anything of {old.name}")
    for definition in own:
        kept = definition.body.mapping("networkmanager").mapping("passthrough")
        gone = is_automatic(new) or (old.gateway and not new.gateway) or (old.gateway6 and not new.gateway6)
        if gone and any(key.startswith(("ipv4.", "ipv6.")) for key in kept.entries):
            raise refused(f"{definition.path}:{kept.line + 1} NetworkManager's own words say otherwise")
    edits = {path: _Edit(files[path]) for path in {one.path for one in own}}
    for definition in own:
        _strip(edits[definition.path], definition, old, new)
    first = next((one for one in own if one.body.column >= 0 and one.body.entries), own[0])
    if first.body.column < 0:
        raise refused(f"{first.path}:{first.key.line + 1} {first.key.value} stands in braces, or is empty")
    lines = _fresh(old, new, _added_routes(old, new), " " * first.body.column)
    if any("routes" in one.body.entries for one in own):
        lines = _into_routes(edits, own, old, new, first)
    edit = edits[first.path]
    edit.added.setdefault(first.key.line + 1, []).extend(lines)
    return {path: edit.done() for path, edit in edits.items()}


def _into_routes(
    edits: Mapping[str, _Edit], own: Sequence[Definition], old: NicConfig, new: NicConfig, first: Definition
) -> list[str]:
    """A gateway that is new beside routes that stay is one item more of theirs."""
    lines = _fresh(old, new, (), " " * first.body.column)
    for definition in own:
        routes = definition.body.get("routes")
        if not isinstance(routes, yamlite.Sequence):
            continue
        if definition.body.entries["routes"][0].line in edits[definition.path].deleted:
            continue
        added = _added_routes(old, new)
        if added and routes.column < 0:
            raise refused(f"{definition.path}:{routes.line + 1} the routes stand in brackets")
        for gateway in added:
            item = [
                f"{' ' * routes.column}- to: {_default(gateway)}",
                f"{' ' * routes.column}  via: {gateway}",
            ]
            edits[definition.path].added.setdefault(routes.last + 1, []).extend(item)
        return lines
    return _fresh(old, new, _added_routes(old, new), " " * first.body.column)


def _added_routes(old: NicConfig, new: NicConfig) -> list[str]:
    """The gateways that no word of the old configuration becomes."""
    pairs = ((old.gateway, new.gateway), (old.gateway6, new.gateway6))
    return [now for was, now in pairs if now and not was]


def _default(gateway: str) -> str:
    # "default" came with netplan 0.103; this form every version knows.
    return "::/0" if ":" in gateway else "0.0.0.0/0"


def _strip(edit: _Edit, definition: Definition, old: NicConfig, new: NicConfig) -> None:
    body, pairs = definition.body, moves(old, new)
    gone = ["addresses", "dhcp4", "dhcp6"]
    gone += ["gateway4"] if not new.gateway else []
    gone += ["gateway6"] if not new.gateway6 else []
    gone += ["accept-ra"] if new.method6 is NicMethod.AUTO and old.method6 is not NicMethod.AUTO else []
    servers = body.mapping("nameservers")
    if not (keeps_dns(old, new) and keeps_search(old, new)):
        gone.append("nameservers")
    if set(gone) & set(body.entries) and body.column < 0:
        raise refused(f"{definition.path}:{body.line + 1} {definition.key.value} stands in braces")
    for key in gone:
        if key in body.entries:
            word, value = body.entries[key]
            edit.delete(word.line, value.last)
    _strip_routes(edit, definition, old, new)
    kept = [value for key, (_, value) in body.entries.items() if key not in gone and value is not servers]
    for scalar in [scalar for value in kept for scalar in yamlite.scalars(value)]:
        moved = swapped(scalar.value, pairs)
        if moved != scalar.value and scalar.line not in edit.deleted:
            edit.values.append((scalar, moved))


def _strip_routes(edit: _Edit, definition: Definition, old: NicConfig, new: NicConfig) -> None:
    routes = definition.body.get("routes")
    if not isinstance(routes, yamlite.Sequence):
        return
    gone = []
    for index, item in enumerate(routes.items):
        to = item.text("to") if isinstance(item, yamlite.Mapping) else ""
        via = item.text("via") if isinstance(item, yamlite.Mapping) else ""
        if to in DEFAULT_ROUTES:
            dropped = via in (old.gateway, old.gateway6) and not (new.gateway6 if ":" in via else new.gateway)
        else:
            dropped = drops_routes(old, new)
        if dropped:
            gone.append(index)
    if gone and len(gone) == len(routes.items):
        edit.delete(definition.body.entries["routes"][0].line, routes.last)
    elif gone and routes.column < 0:
        raise refused(f"{definition.path}:{routes.line + 1} the routes stand in brackets")
    else:
        for index in gone:
            edit.delete(routes.lines[index], routes.items[index].last)


def _fresh(old: NicConfig, new: NicConfig, gateways: Sequence[str], indent: str) -> list[str]:
    lines = []
    if new.method is NicMethod.DHCP or old.method is NicMethod.DHCP:
        lines.append(f"dhcp4: {'true' if new.method is NicMethod.DHCP else 'false'}")
    if new.method6 is NicMethod.DHCP or old.method6 is NicMethod.DHCP:
        lines.append(f"dhcp6: {'true' if new.method6 is NicMethod.DHCP else 'false'}")
    if new.method6 is NicMethod.AUTO and old.method6 is not NicMethod.AUTO:
        lines.append("accept-ra: true")
    if new.addresses:
        lines += ["addresses:", *(f'  - "{address}"' for address in new.addresses)]
    if not (keeps_dns(old, new) and keeps_search(old, new)):
        dns = new.dns or (() if new.method is NicMethod.DHCP else old.dns)
        search = new.search or (() if new.method is NicMethod.DHCP else old.search)
        lines += ["nameservers:"] if dns or search else []
        lines += ["  addresses:", *(f'    - "{server}"' for server in dns)] if dns else []
        lines += ["  search:", *(f'    - "{domain}"' for domain in search)] if search else []
    if gateways:
        lines.append("routes:")
        for gateway in gateways:
            lines += [f'  - to: "{_default(gateway)}"', f'    via: "{gateway}"']
    return [f"{indent}{line}" for line in lines]


def new_files(config: NicConfig, name: str, index: int, files: Files) -> tuple[RenderedFile, ...]:
    nothing = NicConfig(name, NicMethod.NONE)
    gateways = [gateway for gateway in (config.gateway, config.gateway6) if gateway]
    lines = ["network:", "  version: 2", "  ethernets:", f"    {name}:"]
    lines += [f"      mtu: {config.mtu}"] if config.mtu else []
    lines += _fresh(nothing, config, gateways, "      ")
    if config.routes:
        lines += [] if gateways else ["      routes:"]
        for route in config.routes:
            lines.append(f'        - to: "{route.to}"')
            lines += [f'          via: "{route.via}"'] if route.via else ["          scope: link"]
            lines += [f"          metric: {route.metric}"] if route.metric is not None else []
    # netplan complains of files that others may read.
    path = f"/etc/netplan/90-refloat-{index}.yaml"
    return (RenderedFile("", path, "\n".join(lines) + "\n", 0o600),)
