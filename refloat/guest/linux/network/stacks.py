"""The network stacks by name, which of them a guest has enabled, and what their files say together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from refloat.guest.families import ALL_STACKS, IFCFG, WICKED, NetworkStack
from refloat.guest.linux.network import ifcfg, ifupdown, keyfile, netplan, networkd, resolver, wicked
from refloat.guest.linux.network.draft import Parsed, natural
from refloat.guest.tree import Tree
from refloat.model import NicConfig

_UNITS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_RUNLEVELS = re.compile(r"rc[S2-5]\.d")
_SYSV = ("/etc", "/etc/rc.d", "/etc/init.d")
_IFCFG_PLUGIN = ("/usr/lib64/NetworkManager", "/usr/lib/NetworkManager")
_IFCFG_PLUGIN_NAME = "libnm-settings-plugin-ifcfg-rh.so"
# What new configuration is written for where nothing is configured yet.
_FOR_NEW = ("netplan", "networkmanager", "networkd", "wicked", "ifupdown", "ifcfg")
_DIRECTORY_LIMIT = 1024


@dataclass(frozen=True)
class Dialect:
    """How a stack's files are found, told apart and read."""

    collect: Callable[[Tree], dict[str, str]]
    owns: Callable[[str], bool]
    parse: Callable[[Mapping[str, str]], Parsed]


_NAMED = {
    netplan.NAME: Dialect(netplan.collect, netplan.owns, netplan.parse),
    ifcfg.NAME: Dialect(ifcfg.collect, ifcfg.owns, ifcfg.parse),
    wicked.NAME: Dialect(wicked.collect, wicked.owns, wicked.parse),
    networkd.NAME: Dialect(networkd.collect, networkd.owns, networkd.parse),
    keyfile.NAME: Dialect(keyfile.collect, keyfile.owns, keyfile.parse),
}


def _owned_by_none(path: str) -> bool:
    """ifupdown's files may source others, wherever these are."""
    return not resolver.owns(path) and not any(dialect.owns(path) for dialect in _NAMED.values())


DIALECTS = {
    **_NAMED,
    ifupdown.NAME: Dialect(ifupdown.ifupdown_files, _owned_by_none, ifupdown.parse),
}


def stacks_of(stack: str) -> tuple[str, ...]:
    """The parts of a stack's name: "ifupdown+networkmanager"."""
    return tuple(name for name in stack.split("+") if name in DIALECTS)


def owned(name: str, files: Mapping[str, str]) -> dict[str, str]:
    return {path: text for path, text in files.items() if DIALECTS[name].owns(path)}


def read(stack: str, files: Mapping[str, str]) -> Parsed:
    """What the files of these stacks say together. An interface belongs to the first that has it."""
    nics: dict[str, NicConfig] = {}
    problems: list[str] = []
    warnings: list[str] = []
    for name in stacks_of(stack):
        parsed = DIALECTS[name].parse(owned(name, files))
        problems += parsed.problems
        warnings += parsed.warnings
        for nic in parsed.nics:
            if nic.name in nics and nic.sources:
                warnings.append(f"{nic.name} is configured by {name} as well: {', '.join(nic.sources)}")
            nics.setdefault(nic.name, nic)
    ordered = sorted(nics.values(), key=lambda nic: natural(nic.name))
    return Parsed(resolver.supplemented(ordered, files), tuple(problems), tuple(warnings))


# ---------------------------------------------------------------- what is in use


def in_use(tree: Tree) -> tuple[str, list[str]]:
    """The stack in use, "" where that is not certain; and what is to be said about it.

    Enabled is what counts. A guest of whose services nothing is known is taken by its files.
    """
    configured = [stack for stack in ALL_STACKS if _configures(tree, stack)]
    enabled = [stack for stack in ALL_STACKS if is_enabled(tree, stack)]
    used = [stack for stack in configured if stack in enabled]
    if used:
        return "+".join(stack.name for stack in used), []
    if len(configured) == 1 and not enabled:
        return configured[0].name, []
    names = ", ".join(stack.name for stack in configured)
    if configured and not enabled:
        return "", [f"files of {names} configure the network: which of them is in use is not certain"]
    if configured:
        services = ", ".join(stack.name for stack in enabled)
        return _new(enabled), [f"the network files of {names} are not used: {services} is enabled"]
    return _new(enabled), ["no network configuration was found"]


def _new(enabled: Sequence[NetworkStack]) -> str:
    names = {stack.name for stack in enabled}
    return next((name for name in _FOR_NEW if name in names), "")


def _configures(tree: Tree, stack: NetworkStack) -> bool:
    dialect = DIALECTS[stack.name]
    parsed = dialect.parse(dialect.collect(tree))
    return bool(parsed.nics or parsed.problems)


def is_enabled(tree: Tree, stack: NetworkStack) -> bool:
    if not stack.services:
        return any(tree.is_file(path) for path in stack.programs)
    if stack is IFCFG:
        manager = service_enabled(tree, "NetworkManager") and _has_ifcfg_plugin(tree)
        return manager or (service_enabled(tree, "network") and not _alias(tree, "network"))
    if stack is WICKED and _alias(tree, "network") == "wicked.service":
        return True
    return any(service_enabled(tree, service) for service in stack.services)


def _has_ifcfg_plugin(tree: Tree) -> bool:
    """From RHEL 10 and Fedora 36 on NetworkManager reads no ifcfg files by itself."""
    directories = [path for path in _IFCFG_PLUGIN if tree.is_directory(path)]
    for directory in directories:
        for version in tree.listdir(directory)[:_DIRECTORY_LIMIT]:
            if tree.is_file(f"{directory}/{version}/{_IFCFG_PLUGIN_NAME}"):
                return True
    # A tree without any of its libraries says nothing.
    return not any(tree.listdir(directory) for directory in directories)


def _alias(tree: Tree, service: str) -> str:
    """The unit that a service is only another name of."""
    target = tree.readlink(f"/etc/systemd/system/{service}.service") or ""
    return target.rpartition("/")[2]


def service_enabled(tree: Tree, service: str) -> bool:
    """By the links of systemd, OpenRC or the runlevels. A masked service is not enabled."""
    if _alias(tree, service) == "null":
        return False
    return any(
        f"{service}.service" in tree.listdir(directory)[:_DIRECTORY_LIMIT] for directory in _wants(tree)
    ) or any(_starts(tree, directory, service) for directory in _runlevels(tree))


def _wants(tree: Tree) -> Iterator[str]:
    for units in _UNITS:
        for name in tree.listdir(units)[: 16 * _DIRECTORY_LIMIT]:
            if name.endswith((".wants", ".requires")):
                yield f"{units}/{name}"


def _runlevels(tree: Tree) -> Iterator[str]:
    for parent in _SYSV:
        yield from (f"{parent}/{name}" for name in tree.listdir(parent) if _RUNLEVELS.fullmatch(name))
    yield from (f"/etc/runlevels/{name}" for name in tree.listdir("/etc/runlevels"))


def _starts(tree: Tree, directory: str, service: str) -> bool:
    names = tree.listdir(directory)[:_DIRECTORY_LIMIT]
    return any(name == service or re.fullmatch(rf"S\d\d{re.escape(service)}", name) for name in names)
