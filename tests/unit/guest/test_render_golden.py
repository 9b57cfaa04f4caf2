"""Every stack on a realistic tree: what is read from it, and what its files become in each mode.

What a tree yields is in its expect.txt; `REFLOAT_GOLDEN=write pytest ...` writes them anew, to be read.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace

import pytest

from refloat.errors import RefloatError
from refloat.guest.linux import network
from refloat.guest.linux.render import Rendered, render
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import LinkKind, NetworkMode, NicConfig, NicMethod, Route
from tests.unit.guest.guests import GOLDEN

CASES = sorted(path.name for path in GOLDEN.glob("net-*"))
OLD_MAC, NEW_MAC = "00:50:56:aa:bb:cc", "52:54:00:00:00:01"
_SHORT = ("name", "method", "sources")


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    notes = Notes()
    with Tree(GOLDEN / case / "tree") as tree:
        nics, stack = network.look(tree, None, notes)
        files = network.files(tree, stack)
    lines = [f"stack {stack}", *(f"problem {one}" for one in notes.problems)]
    lines += [f"warning {one}" for one in notes.warnings]
    lines += [f"names {' '.join(network.names_used(files, stack))}", ""]
    lines += [_told(nic) for nic in nics]
    for mode in (NetworkMode.RESTORE, NetworkMode.READDRESS, NetworkMode.DHCP):
        lines += ["", f"======== {mode}", *_rendered(stack, files, plan(nics, mode))]
    text = "".join(f"{line}\n" for line in lines)
    expected = GOLDEN / case / "expect.txt"
    if os.environ.get("REFLOAT_GOLDEN") == "write":
        expected.write_text(text)
    assert text == expected.read_text()


def plan(nics: Sequence[NicConfig], mode: NetworkMode) -> list[Rendered]:
    """All physical interfaces; what is static goes from 10.20.30.0/24 to 10.99.0.0/16 or to DHCP."""
    physical = [nic for nic in nics if nic.kind is LinkKind.ETHERNET]
    above = tuple(_new(nic, mode) for nic in nics if nic.kind is not LinkKind.ETHERNET)
    tied = any(nic.mac == OLD_MAC for nic in physical)
    result = []
    for index, nic in enumerate(physical):
        source_mac = nic.mac or (OLD_MAC if index == 0 and not tied else "")
        # What is found by a pattern and static nowhere needs no other name.
        kept = set(nic.name) & set("*?[") and nic.method is not NicMethod.STATIC
        result.append(
            Rendered(
                index,
                nic.name,
                _new(nic, mode),
                NetworkMode.PRESERVE if kept else mode,
                mac=NEW_MAC if source_mac == OLD_MAC else source_mac,
                source_mac=source_mac,
                above=() if index else above,
            )
        )
    return result


def _new(nic: NicConfig, mode: NetworkMode) -> NicConfig:
    static = NicMethod.STATIC in (nic.method, nic.method6)
    if not static or mode is NetworkMode.RESTORE:
        return nic
    if mode is NetworkMode.DHCP:
        six = NicMethod.AUTO if nic.method6 is NicMethod.STATIC else nic.method6
        return replace(
            nic, method=NicMethod.DHCP, method6=six, addresses=(), gateway="", gateway6="", dns=(), search=(),
            routes=(),
        )  # fmt: skip
    return replace(
        nic,
        addresses=tuple(_moved(one) for one in nic.addresses),
        gateway=_moved(nic.gateway),
        gateway6=_moved(nic.gateway6),
        dns=tuple(_moved(one) for one in nic.dns),
        routes=tuple(Route(one.to, _moved(one.via), one.metric) for one in nic.routes),
    )


def _moved(text: str) -> str:
    if text.startswith("10.20.30."):
        return text.replace("10.20.30.", "10.99.0.").replace("/24", "/16")
    return text.replace("fd00:20::", "fd00:99::")


def _told(nic: NicConfig) -> str:
    rest = {one.name: getattr(nic, one.name) for one in fields(nic) if one.name not in _SHORT}
    default = NicConfig("", NicMethod.NONE)
    said = [f"{key}={_value(value)}" for key, value in rest.items() if value != getattr(default, key)]
    return " ".join((nic.name, nic.method, *said)) + "".join(f"\n    {source}" for source in nic.sources)


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(_value(one) for one in value)
    if isinstance(value, Route):
        return f"{value.to}>{value.via}" + (f"~{value.metric}" if value.metric is not None else "")
    return str(value)


def _rendered(stack: str, files: Mapping[str, str], wanted: Sequence[Rendered]) -> Iterable[str]:
    try:
        done = render(stack, files, wanted)
    except RefloatError as error:
        yield f"{type(error).__name__}: {error}"
        return
    for file in done:
        waits = "at the first boot" if file.waits else "at once"
        where = "" if file.path == file.new_path else f" from {file.path or 'nothing'}"
        if file.text is None:
            yield f"---- {file.path} is removed"
            continue
        yield f"---- {file.new_path}{where} ({waits})"
        before = files.get(file.path, "").split("\n")
        yield from list(difflib.unified_diff(before, file.text.split("\n"), n=0, lineterm=""))[2:]
