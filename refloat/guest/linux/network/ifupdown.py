"""ifupdown: /etc/network/interfaces and what it sources. Debian's words, busybox' and ifupdown-ng's."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from refloat.guest.linux.network.draft import Draft, Parsed, finished, mtu_of, number
from refloat.guest.tree import Tree
from refloat.model import LinkKind, NicMethod

NAME = "ifupdown"
INTERFACES = "/etc/network/interfaces"
_FILE_LIMIT = 64
# run-parts(8) names, as source-directory takes them.
_RUN_PARTS = re.compile(r"[A-Za-z0-9_-]+")
# Options by which an interface is stacked on others; "_" and "-" are the same to ifupdown.
_BONDED = ("bond-slaves", "bond-members", "slaves")
_BRIDGED = ("bridge-ports",)
_NO_MEMBERS = frozenset({"none", "auto", "all"})
_VLAN = re.compile(r"(?:(?P<parent>[^.:]+)\.|vlan)0*(?P<id>[0-9]{1,4})")
_HOOKS = ("up", "post-up")
_METHODS = {
    "static": NicMethod.STATIC,
    "dhcp": NicMethod.DHCP,
    "bootp": NicMethod.DHCP,
    "auto": NicMethod.AUTO,
}


@dataclass(frozen=True)
class Line:
    """A logical line: `first` and `last` are the physical ones, from 0."""

    first: int
    last: int
    words: tuple[str, ...]

    @property
    def keyword(self) -> str:
        return self.words[0].replace("_", "-")


@dataclass(frozen=True)
class Stanza:
    """ "iface NAME FAMILY METHOD" and its options."""

    head: Line
    options: tuple[Line, ...]

    @property
    def name(self) -> str:
        return self.head.words[1]

    @property
    def base(self) -> str:
        """An alias ("eth0:1") only adds addresses to its interface."""
        return self.name.partition(":")[0]

    @property
    def six(self) -> bool:
        return self.head.words[2:3] == ("inet6",)

    @property
    def method(self) -> str:
        """Empty for ifupdown-ng's short form, which tells it by the options."""
        return self.head.words[3] if len(self.head.words) > 3 else ""


# ---------------------------------------------------------------- files


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
    for line in logical_lines(text):
        if line.keyword == "source" and len(line.words) > 1:
            yield from _glob(tree, posixpath.join(posixpath.dirname(path), line.words[1]))
        elif line.keyword == "source-directory" and len(line.words) > 1:
            directory = posixpath.join(posixpath.dirname(path), line.words[1])
            names = tree.listdir(directory)
            yield from (f"{directory.rstrip('/')}/{name}" for name in names if _RUN_PARTS.fullmatch(name))


def _glob(tree: Tree, pattern: str) -> Iterator[str]:
    """Files matching a pattern whose wildcards are in the last component, as is usual."""
    directory, name = posixpath.split(posixpath.normpath(pattern))
    for entry in tree.listdir(directory):
        # As in a shell: no wildcard matches a leading dot.
        if fnmatch.fnmatchcase(entry, name) and not (entry.startswith(".") and not name.startswith(".")):
            yield f"{directory}/{entry}"


# ---------------------------------------------------------------- lines and stanzas


def logical_lines(text: str) -> Iterator[Line]:
    """Lines with continued ones joined; comments and empty lines are left out."""
    joined, first = "", 0
    for index, physical in enumerate(text.split("\n")):
        if not joined:
            first = index
        # A comment ends with its line, whatever that ends with.
        comment = not joined and physical.lstrip().startswith("#")
        if physical.endswith("\\") and not comment:
            joined += physical[:-1] + " "
            continue
        words = (joined + physical).split()
        joined = ""
        if words and not words[0].startswith("#"):
            yield Line(first, index, tuple(words))


def stanzas(text: str) -> Iterator[Stanza]:
    head: Line | None = None
    options: list[Line] = []
    for line in logical_lines(text):
        keyword = line.keyword
        other = keyword in ("auto", "mapping", "source", "source-directory", "no-auto-down", "no-scripts")
        if keyword != "iface" and not other and not keyword.startswith("allow-"):
            options.append(line)
            continue
        if head is not None:
            yield Stanza(head, tuple(options))
        head, options = (line if keyword == "iface" and len(line.words) > 1 else None), []
    if head is not None:
        yield Stanza(head, tuple(options))


# ---------------------------------------------------------------- what they say


def parse(files: Mapping[str, str]) -> Parsed:
    """Every interface of the files; aliases are part of theirs."""
    drafts: dict[str, Draft] = {}
    problems: list[str] = []
    for path, text in files.items():
        for stanza in stanzas(text):
            draft = drafts.setdefault(stanza.base, Draft(stanza.base))
            draft.sources.append(path)
            _method(draft, stanza)
            problems += _options(draft, stanza, path)
    for draft in drafts.values():
        _stack(draft)
    return finished(drafts, problems, _own_macs(files))


def _own_macs(files: Mapping[str, str]) -> Iterator[str]:
    """Where a file sets a MAC itself, which works against the MAC of the plan."""
    for path, text in files.items():
        for line in logical_lines(text):
            if line.keyword == "hwaddress":
                yield f"{path}: {' '.join(line.words)} sets a MAC itself"


def _method(draft: Draft, stanza: Stanza) -> None:
    method = _METHODS.get(stanza.method, NicMethod.NONE)
    if not stanza.method and any(line.words[:2] == ("use", "dhcp") for line in stanza.options):
        method = NicMethod.DHCP
    if stanza.six:
        draft.method6 = method if draft.method6 is NicMethod.NONE else draft.method6
    elif draft.method is NicMethod.NONE:
        draft.method = NicMethod.DHCP if method is NicMethod.AUTO else method


def _options(draft: Draft, stanza: Stanza, path: str) -> Iterator[str]:
    netmask = next(
        (line.words[1] for line in stanza.options if line.keyword == "netmask" and line.words[1:]), ""
    )
    for line in stanza.options:
        wrong = ""
        values = line.words[1:]
        if line.keyword in _HOOKS:
            wrong = _hook(draft, values)
        elif values and line.keyword == "address":
            wrong = draft.address(values[0], netmask)
        elif values and line.keyword == "gateway":
            wrong = draft.set_gateway(values[0])
        elif values:
            _option(draft, line.keyword, values)
        if wrong:
            yield f"{path}:{line.first + 1} {wrong}"


def _option(draft: Draft, keyword: str, values: tuple[str, ...]) -> None:
    if keyword in ("dns-nameservers", "dns-nameserver"):
        draft.dns += values
    elif keyword in ("dns-search", "dns-domain"):
        draft.search += values
    elif keyword == "mtu":
        draft.mtu = mtu_of(values[0])
    elif keyword in _BONDED or keyword in _BRIDGED:
        draft.kind = LinkKind.BOND if keyword in _BONDED else LinkKind.BRIDGE
        named = values[: values.index("regex")] if "regex" in values else values
        draft.members += [value for value in named if value not in _NO_MEMBERS]
    elif keyword == "bond-mode":
        draft.kind, draft.bond_mode = LinkKind.BOND, values[0]
    elif keyword == "vlan-raw-device":
        draft.kind, draft.members = LinkKind.VLAN, [values[0]]
    elif keyword == "vlan-id":
        draft.vlan_id = number(values[0], 0, 4095)


def _stack(draft: Draft) -> None:
    """A VLAN that is known by its name alone ("eth0.10", "vlan10")."""
    match = _VLAN.fullmatch(draft.name)
    if not match or draft.kind in (LinkKind.BOND, LinkKind.BRIDGE):
        return
    if match["parent"] and not draft.members:
        draft.kind, draft.members = LinkKind.VLAN, [match["parent"]]
    if draft.kind is LinkKind.VLAN and draft.vlan_id is None:
        draft.vlan_id = number(match["id"], 0, 4095)


def _hook(draft: Draft, words: tuple[str, ...]) -> str:
    """Routes of the usual commands. All else that a hook does stays unknown, and stays."""
    plain = [word for word in words if word not in ("-4", "-6")]
    program = posixpath.basename(plain[0]) if plain else ""
    if program == "ip" and plain[1:3] in (["route", "add"], ["route", "replace"]):
        return _ip_route(draft, plain[3:])
    if program == "route" and plain[1:2] == ["add"]:
        return _old_route(draft, plain[2:])
    return ""


def _ip_route(draft: Draft, words: list[str]) -> str:
    options = dict(zip(words[1::2], words[2::2], strict=False))
    known = len(words) % 2 == 1 and not set(options) - {"via", "dev", "metric"}
    if not known or _foreign(words) or options.get("dev", draft.name) not in (draft.name, "$IFACE"):
        return ""
    return draft.route(words[0], options.get("via", ""), number(options.get("metric", ""), 0, 10**7))


def _old_route(draft: Draft, words: list[str]) -> str:
    words = [word for word in words if word not in ("-net", "-host")]
    options = dict(zip(words[1::2], words[2::2], strict=False))
    if len(words) % 2 != 1 or set(options) - {"gw", "dev", "netmask", "metric"} or _foreign(words):
        return ""
    to = f"{words[0]}/{options['netmask']}" if "netmask" in options else words[0]
    return draft.route(to, options.get("gw", ""), number(options.get("metric", ""), 0, 10**7))


def _foreign(words: Iterable[str]) -> bool:
    """Whether a command has words that only a shell could tell."""
    return any(set(word) & set("|&;<>()`") or ("$" in word and word != "$IFACE") for word in words)
