"""A guest's own network configuration: which stack is in use, and what it configures."""

from __future__ import annotations

from collections.abc import Mapping

from refloat.guest.families import Family
from refloat.guest.linux.network import resolver, stacks
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import LinkKind, NicConfig

_PATTERN = "*?[:"


def look(tree: Tree, family: Family | None, notes: Notes) -> tuple[tuple[NicConfig, ...], str]:
    """The interfaces that the guest's own files configure, and the name of the stack in use.

    Several stacks may share a guest: "ifupdown+networkmanager". Empty where it is not certain.
    """
    stack, said = stacks.in_use(tree)
    notes.warnings += said
    if not stack:
        return (), ""
    notes.problems += [
        f"{path} is a symlink to {tree.real(path)}: it cannot be restored"
        for name in stacks.stacks_of(stack)
        for path in stacks.DIALECTS[name].collect(tree)
        if not stacks.DIALECTS[name].owns(tree.real(path))
    ]
    parsed = stacks.read(stack, files(tree, stack))
    notes.problems += [f"cannot understand {problem}" for problem in parsed.problems]
    notes.warnings += parsed.warnings
    return parsed.nics, stack


def files(tree: Tree, stack: str) -> dict[str, str]:
    """The guest's files of this stack: real path -> text, in the order of reading."""
    found: dict[str, str] = {}
    for name in stacks.stacks_of(stack):
        for path, text in stacks.DIALECTS[name].collect(tree).items():
            found.setdefault(tree.real(path), text)
    return found | resolver.collect(tree)


def names_used(files: Mapping[str, str], stack: str) -> tuple[str, ...]:
    """The names of physical interfaces on which the configuration depends. None for an interface that
    is found by its MAC or by a pattern."""
    nics = stacks.read(stack, files).nics
    physical = [nic.name for nic in nics if nic.kind is LinkKind.ETHERNET]
    return tuple(name for name in physical if not set(name) & set(_PATTERN))
