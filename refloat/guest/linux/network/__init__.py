"""A guest's own network configuration: which stack is in use, and what it configures."""

from __future__ import annotations

from collections.abc import Mapping

from refloat.guest.families import ALL_STACKS, IFUPDOWN, Family, NetworkStack
from refloat.guest.linux.network import ifupdown
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import NicConfig


def look(tree: Tree, family: Family | None, notes: Notes) -> tuple[tuple[NicConfig, ...], str]:
    """The interfaces that the guest's own files configure, and the name of the stack in use."""
    in_use = [stack for stack in ALL_STACKS if _is_used(tree, stack)]
    files = ifupdown.ifupdown_files(tree)
    resolver = tree.read_optional("/etc/resolv.conf")
    nics = ifupdown.ifupdown_nics(files, resolver)
    if nics:
        in_use.insert(0, IFUPDOWN)
    for stack in in_use:
        if family and stack not in family.stacks:
            notes.problems.append(f"the network is configured by {stack.name}, which cannot be restored yet")
    if not in_use:
        notes.warnings.append("no network configuration was found")
    notes.warnings += [f"{where} sets a MAC itself" for where in ifupdown.pinned_addresses(files)]
    return nics, in_use[0].name if in_use else ""


def _is_used(tree: Tree, stack: NetworkStack) -> bool:
    """Whether a stack other than ifupdown has a file that configures something."""
    if stack is IFUPDOWN:
        return False
    return any(
        name.endswith((".yaml", ".yml", ".nmconnection", ".network"))
        for path in stack.evidence
        for name in tree.listdir(path)
    )


def files(tree: Tree, stack: str) -> dict[str, str]:
    """The guest's files of this stack: real path -> text, in the order of reading."""
    raise NotImplementedError


def names_used(files: Mapping[str, str], stack: str) -> tuple[str, ...]:
    """The names of physical interfaces on which the configuration depends. None for an interface that
    is found by its MAC or by a pattern."""
    raise NotImplementedError
