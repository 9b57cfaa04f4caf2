"""Families: who is what, and what is appended to an initramfs of each tool.

The trees are realistic, the archives made in the formats of the tools; nothing here was booted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.guest.families import FAMILIES, family_of, parse_os_release, unsupported
from refloat.guest.journal import Journal
from refloat.guest.linux import cpio
from refloat.guest.linux.tools import TOOLS, tool_in_use
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from tests.unit.guest.archives import module_file
from tests.unit.guest.family_guests import CASES, adapt, look, make, unpacked
from tests.unit.guest.guests import GOLDEN, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="new files in a guest belong to root")


@pytest.fixture(params=CASES)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path, Tree]]:
    root = make(tmp_path / "guest", request.param)
    with Tree(root) as tree:
        yield request.param, root, tree


def described(root: Path, journal: Journal, before: dict[str, tuple[str, int, bytes]]) -> str:
    """The changes, and for each initramfs what was appended to it."""
    parts = []
    for one in journal.changes():
        parts.append(f"== {one.kind.value} {one.path} {one.after.mode:o}\n{one.reason}\n{one.diff}")
        if one.path in before and not one.diff:
            old = len(before[one.path][2])
            with (root / one.path[1:]).open("rb") as handle:
                items = cpio.read(handle, one.after.size, lambda member: True, start=old)
                parts += [_member(item) for item in items if isinstance(item, cpio.Member)]
    return "".join(parts)


def _member(member: cpio.Member) -> str:
    """A line for each, and the text of those that are not depmod's or a module."""
    lines = [f"{member.mode:06o} {member.name}"]
    if member.is_file and "/modules/" not in member.name:
        lines += [f"  | {line}" for line in (member.content or b"").decode().splitlines()]
    return "".join(f"  {line}\n" for line in lines)


def test_golden(guest: tuple[str, Path, Tree], tmp_path: Path) -> None:
    name, root, tree = guest
    case, notes = CASES[name], Notes()
    found = look(tree, name, notes)
    assert notes.problems == []
    assert {kernel.initramfs for kernel in found} == {f"/boot/{path}" for path in case.images}
    assert {kernel.version for kernel in found} == {case.version}
    before = snapshot(root)
    journal = adapt(tree, tmp_path / "run", found)
    text = described(root, journal, before)
    golden = GOLDEN / f"family-{name}" / "changes.txt"
    if os.environ.get("REFLOAT_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()
    after = snapshot(root)
    changed = {path for path in after if before.get(path) != after[path]}
    assert changed == {one.path for one in journal.changes()}
    assert all(after[path][1] == before[path][1] for path in changed & set(before)), "modes are kept"


def test_adapted_archives_hold_what_the_destination_needs(
    guest: tuple[str, Path, Tree], tmp_path: Path
) -> None:
    name, root, tree = guest
    case = CASES[name]
    adapt(tree, tmp_path / "run", look(tree, name, Notes()))
    for path, image in case.images.items():
        members = unpacked(root / "boot" / path)
        prefix = f"{'usr/' if image.merged else ''}lib/modules/{case.version}"
        for module in ("virtio_ring", "virtio", "virtio_pci", "virtio_blk", "virtio_net"):
            member = members[f"{prefix}/{module_file(module, case.suffix)}"]
            assert (
                member.content
                == (root / "lib/modules" / case.version / module_file(module, case.suffix)).read_bytes()
            )
        assert f"{module_file('virtio_blk', case.suffix)}:".encode() in (
            members[f"{prefix}/modules.dep"].content or b""
        )
        if image.merged:
            assert members["lib"].is_symlink and not any(one.startswith("lib/") for one in members)
    assert look(tree, name, again := Notes())[0].missing == () and again.problems == []


def test_repeating_appends_nothing(guest: tuple[str, Path, Tree], tmp_path: Path) -> None:
    name, root, tree = guest
    found = look(tree, name, Notes())
    adapt(tree, tmp_path / "run", found)
    once = snapshot(root)
    adapt(tree, tmp_path / "run", found)
    assert snapshot(root) == once


# ---------------------------------------------------------------- who is what


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ID=debian\n", "debian"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "ubuntu"),
        ("ID=linuxmint\nID_LIKE=debian\n", "debian"),
        ("ID=kali\nID_LIKE=debian\n", "debian"),
        ("ID=devuan\nID_LIKE=debian\n", "debian"),
        ("ID=raspbian\nID_LIKE=debian\n", "debian"),
        ('ID="centos"\nID_LIKE="rhel fedora"\n', "redhat"),
        ('ID="ol"\nID_LIKE="fedora"\n', "redhat"),
        ('ID="virtuozzo"\nID_LIKE="rhel fedora centos"\n', "redhat"),
        ('ID="amzn"\nID_LIKE="centos rhel fedora"\n', "amazon"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "suse"),
        ('ID="endeavouros"\nID_LIKE=arch\n', "arch"),
        ("ID=postmarketos\nID_LIKE=alpine\n", "alpine"),
        ("ID=opensuse-microos\nID_LIKE='suse opensuse'\n", None),
        ("ID=gentoo\n", None),
        ("NAME=nothing\n", None),
    ],
)
def test_family_by_id_then_id_like(text: str, name: str | None) -> None:
    found = family_of(parse_os_release(text))
    assert (found.name if found else None) == name


def test_image_based_relatives_are_refused_with_the_reason() -> None:
    assert "read-only" in (unsupported({"ID": "sl-micro"}) or "")
    assert unsupported({"ID": "sles"}) is None


def test_every_family_has_its_tool_and_no_id_twice() -> None:
    assert all(row.initramfs_tool in TOOLS for row in FAMILIES)
    ids = [identity for row in FAMILIES for identity in row.ids]
    assert len(ids) == len(set(ids))


def test_tool_in_use_is_the_one_that_is_configured() -> None:
    assert tool_in_use({"/etc/dracut.conf.d"}.__contains__, "initramfs-tools") == "dracut"
    both = {"/etc/dracut.conf.d", "/etc/initramfs-tools"}
    assert tool_in_use(both.__contains__, "initramfs-tools") == "initramfs-tools"
    assert tool_in_use(lambda path: False, "mkinitfs") == "mkinitfs"
