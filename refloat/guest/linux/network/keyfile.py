"""NetworkManager's keyfiles: one connection profile each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from refloat.guest.linux.network.draft import Draft, Parsed, finished, is_address, mac_of, mtu_of, number
from refloat.guest.linux.network.texts import Entry, section_entries
from refloat.guest.tree import Tree
from refloat.model import LinkKind, NicMethod

NAME = "networkmanager"
DIRECTORIES = ("/usr/lib/NetworkManager/system-connections", "/etc/NetworkManager/system-connections")
_FILE_LIMIT = 128
KINDS = {
    "ethernet": LinkKind.ETHERNET,
    "802-3-ethernet": LinkKind.ETHERNET,
    "vlan": LinkKind.VLAN,
    "bond": LinkKind.BOND,
    "bridge": LinkKind.BRIDGE,
}
_METHODS4 = {"manual": NicMethod.STATIC, "auto": NicMethod.DHCP}
_METHODS6 = {"manual": NicMethod.STATIC, "auto": NicMethod.AUTO, "dhcp": NicMethod.DHCP}


def collect(tree: Tree) -> dict[str, str]:
    """path -> text. A profile in /etc hides that of the same file name in /usr/lib."""
    found: dict[str, str] = {}
    for directory in DIRECTORIES:
        for name in tree.listdir(directory):
            path = f"{directory}/{name}"
            if name.startswith(".") or name.endswith(("~", ".bak", ".rpmsave", ".rpmnew")):
                continue
            if len(found) < _FILE_LIMIT and tree.is_file(path):
                found[name] = path
    return {path: tree.read_text(path) for _, path in sorted(found.items())}


def owns(path: str) -> bool:
    return path.startswith(tuple(f"{directory}/" for directory in DIRECTORIES))


class Profile:
    """The entries of a keyfile by section and key; the last of a repeated key counts."""

    def __init__(self, text: str) -> None:
        self.entries: dict[tuple[str, str], Entry] = {}
        for entry in section_entries(text):
            self.entries[_section(entry.section), entry.key] = entry

    def get(self, section: str, key: str) -> str:
        entry = self.entries.get((section, key))
        return entry.value if entry else ""

    def numbered(self, section: str, key: str) -> Iterator[Entry]:
        """address1, address2, ... (and "addresses", "address" without a number) in their order."""
        for (where, name), entry in self.entries.items():
            rest = name.removeprefix(key)
            if where == section and name.startswith(key) and (rest == "" or rest.isdigit()):
                yield entry

    @property
    def kind(self) -> LinkKind | None:
        return KINDS.get(self.get("connection", "type"))

    @property
    def master(self) -> str:
        return self.get("connection", "controller") or self.get("connection", "master")

    @property
    def active(self) -> bool:
        return self.kind is not None and self.get("connection", "autoconnect").lower() not in (
            "false",
            "no",
            "0",
        )

    @property
    def priority(self) -> int:
        text = self.get("connection", "autoconnect-priority")
        return int(text) if text.lstrip("-").isdecimal() and len(text) < 5 else 0

    def tie(self) -> str:
        """What stands for the name where a profile has none."""
        mac = mac_of(self.get("ethernet", "mac-address"))
        return f"mac:{mac}" if mac else "*"

    def name(self) -> str:
        """The interface; empty for a profile that is tied to a MAC or to nothing."""
        name = self.get("connection", "interface-name")
        if not name and self.kind is LinkKind.ETHERNET:
            name = self.get("match", "interface-name").strip(";,")
        return name


def _section(name: str) -> str:
    return {"802-3-ethernet": "ethernet"}.get(name, name)


def parse(files: Mapping[str, str]) -> Parsed:
    """Each active profile is an interface. Of several for one, that with the highest priority counts."""
    profiles = {path: Profile(text) for path, text in files.items() if owns(path)}
    known = {(p.get("connection", "uuid") or path): p.name() for path, p in profiles.items()}
    drafts: dict[str, Draft] = {}
    problems: list[str] = []
    warnings: list[str] = []
    members: dict[str, list[str]] = {}
    for path, profile in sorted(profiles.items(), key=lambda item: -item[1].priority):
        if not profile.active or profile.kind is None:
            continue
        name = profile.name() or profile.tie()
        draft = drafts.setdefault(name, Draft(name))
        if draft.sources:
            warnings.append(f"{path} is another profile for {name}: that of {draft.sources[0]} counts")
            continue
        draft.sources.append(path)
        _take(draft, profile, profile.kind)
        problems += [f"{path}:{wrong}" for wrong in _addresses(draft, profile)]
        if profile.master:
            members.setdefault(known.get(profile.master, profile.master), []).append(name)
        draft.members = [known.get(member, member) for member in draft.members]
    for master, below in members.items():
        if master in drafts:
            drafts[master].members += below
    return finished(drafts, problems, warnings)


def _take(draft: Draft, profile: Profile, kind: LinkKind) -> None:
    draft.kind = kind
    draft.mac = mac_of(profile.get("ethernet", "mac-address"))
    draft.mtu = mtu_of(profile.get("ethernet", "mtu"))
    draft.method = _METHODS4.get(profile.get("ipv4", "method"), NicMethod.NONE)
    draft.method6 = _METHODS6.get(profile.get("ipv6", "method"), NicMethod.NONE)
    if kind is LinkKind.VLAN:
        draft.vlan_id = number(profile.get("vlan", "id"), 0, 4095)
        draft.members = [profile.get("vlan", "parent")] if profile.get("vlan", "parent") else []
    elif kind is LinkKind.BOND:
        draft.bond_mode = profile.get("bond", "mode") or "balance-rr"
    for family in ("ipv4", "ipv6"):
        draft.dns += words(profile.get(family, "dns"))
        draft.search += words(profile.get(family, "dns-search"))


def words(value: str) -> list[str]:
    return [word.strip() for word in value.replace(",", ";").split(";") if word.strip()]


def _listed(value: str) -> list[str]:
    """The addresses or routes of an entry; in the oldest form all of one stands between semicolons."""
    parts = [part.strip() for part in value.split(";") if part.strip()]
    if len(parts) > 1 and parts[1].isdecimal():
        return [",".join((f"{parts[0]}/{parts[1]}", *parts[2:]))]
    return parts


def _addresses(draft: Draft, profile: Profile) -> Iterator[str]:
    for family, prefix in (("ipv4", "24"), ("ipv6", "64")):
        for entry in [*profile.numbered(family, "address"), *profile.numbered(family, "addresses")]:
            for address in _listed(entry.value):
                first, _, gateway = address.partition(",")
                wrong = draft.address(first.strip(), prefix)
                if is_address(gateway.strip()) and gateway.strip() not in ("0.0.0.0", "::"):
                    wrong = wrong or draft.set_gateway(gateway.strip())
                if wrong:
                    yield f"{entry.line + 1} {wrong}"
        gateway = profile.get(family, "gateway")
        if gateway and (wrong := draft.set_gateway(gateway)):
            yield f"{profile.entries[family, 'gateway'].line + 1} {wrong}"
        for entry in [*profile.numbered(family, "route"), *profile.numbered(family, "routes")]:
            for route in _listed(entry.value):
                parts = [part.strip() for part in route.split(",")]
                via = "" if len(parts) < 2 or parts[1] in ("", "0.0.0.0", "::") else parts[1]
                wrong = draft.route(parts[0], via, number(parts[2], 0, 10**9) if len(parts) > 2 else None)
                if wrong:
                    yield f"{entry.line + 1} {wrong}"
