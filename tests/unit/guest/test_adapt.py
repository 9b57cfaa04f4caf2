"""A whole guest: what is found, what is changed (golden), and that kills and repetitions change nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from refloat import codec
from refloat.errors import Refused
from refloat.guest.adapt import _facts_before as facts_before
from refloat.guest.adapt import change, check
from refloat.guest.inspect import examine
from refloat.guest.journal import Journal
from refloat.guest.tree import Tree
from refloat.model import Change, ChangeKind, DiskBus, GuestFacts, NetworkMode, NicModel
from tests.unit.guest.guests import GOLDEN, KERNEL, ORDER, TOKEN, found, make_guest, request, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="new files in a guest belong to root")

CASE = "debian-vmware"
INITRD = f"/boot/initrd.img-{KERNEL}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_guest(tmp_path / "guest", CASE)


@pytest.fixture
def tree(root: Path) -> Iterator[Tree]:
    with Tree(root) as opened:
        yield opened


def facts_of(tree: Tree, bus: DiskBus = DiskBus.VIRTIO_BLK) -> GuestFacts:
    return examine(tree, found(tree), ORDER, bus, NicModel.VIRTIO)


def quiet(step: str, figures: dict[str, object]) -> None:
    pass


def as_text(changes: tuple[Change, ...]) -> str:
    """What a golden file holds. Content without a diff stands by its size alone: depmod may differ."""
    parts = []
    for one in changes:
        what = f"{one.kind.value} {one.path} {one.after.mode:o} {one.after.target}".rstrip()
        parts.append(f"== {what}\n{one.reason}\n{one.diff}")
    return "".join(parts)


def test_golden(tree: Tree, root: Path, tmp_path: Path) -> None:
    facts = facts_of(tree)
    assert facts.problems == ()
    before = snapshot(root)
    journal = Journal(tmp_path / "run", tree)
    change(tree, journal, request(facts), facts, quiet)
    text = as_text(journal.changes())
    golden = GOLDEN / CASE / "changes.txt"
    if os.environ.get("REFLOAT_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()
    _assert_difference(before, snapshot(root), journal.changes())


def _assert_difference(
    before: dict[str, tuple[str, int, bytes]],
    after: dict[str, tuple[str, int, bytes]],
    changes: tuple[Change, ...],
) -> None:
    """What differs between the two trees is exactly what the journal lists."""
    assert set(before) <= set(after), "nothing is removed"
    differing = {name for name in after if before.get(name) != after[name]}
    assert differing == {one.path for one in changes}
    for one in changes:
        kind, mode, content = after[one.path]
        assert kind == one.kind.value
        if one.kind is ChangeKind.FILE:
            assert (len(content), mode) == (one.after.size, one.after.mode)


def test_facts(tree: Tree) -> None:
    facts = facts_of(tree)
    assert (facts.family, facts.os_version, facts.architecture) == ("debian", "12", "x86_64")
    assert facts.kernels[0].missing == (
        "virtio_ring", "virtio", "virtio_pci", "virtio_blk", "net_failover", "virtio_net",
    )  # fmt: skip
    assert "/etc/fstab:5 /dev/sda1" in facts.unstable_names
    assert codec.decode(GuestFacts, codec.encode(facts)) == facts


def test_repeating_changes_nothing(tree: Tree, root: Path, tmp_path: Path) -> None:
    facts = facts_of(tree)
    journal = Journal(tmp_path / "run", tree)
    change(tree, journal, request(facts), facts, quiet)
    first, listed = snapshot(root), journal.changes()
    again = Journal(tmp_path / "run", tree)
    change(tree, again, request(facts), facts, quiet)
    assert snapshot(root) == first
    assert again.changes() == listed


class Killed(BaseException):
    """Stands for kill -9."""


def test_a_guest_is_looked_at_anew_until_something_was_changed(tree: Tree, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    early = facts_of(tree)
    later = replace(early, hostname="renamed since")
    with pytest.raises(Refused, match="broken"):
        facts_before(run, lambda: replace(early, problems=("/etc/fstab:1: broken",)))
    assert facts_before(run, lambda: early) == early, "what was refused has been mended"
    assert facts_before(run, lambda: later) == later, "it ran in between"
    Journal(run, tree).directory("/etc/refloat", "first boot")
    assert facts_before(run, lambda: early) == later


def test_kill_at_every_write_ends_the_same(tmp_path: Path) -> None:
    reference = make_guest(tmp_path / "reference")
    with Tree(reference) as tree:
        facts = facts_of(tree)
        whole = Journal(tmp_path / "run-reference", tree)
        change(tree, whole, request(facts), facts, quiet)
    wanted, count = snapshot(reference), len(whole.changes())

    root = make_guest(tmp_path / "guest")
    run_dir = tmp_path / "run"
    for moment in range(count):
        # Each life of the process gets one write further: killed before it, or right after it.
        with Tree(root) as tree:
            _kill_at(tree, 2 if moment % 2 else 1, after=bool(moment % 3))
            with pytest.raises(Killed):
                change(tree, Journal(run_dir, tree), request(facts), facts, quiet)
                raise Killed
    with Tree(root) as tree:
        journal = Journal(run_dir, tree)
        change(tree, journal, request(facts), facts, quiet)
    assert snapshot(root) == wanted
    assert journal.changes() == whole.changes()


def _kill_at(tree: Tree, moment: int, *, after: bool) -> None:
    count = 0
    for name in ("replace_file", "make_directory", "make_symlink"):
        real = getattr(tree, name)

        def write(*arguments: object, real: object = real) -> None:
            nonlocal count
            count += 1
            if count == moment and not after:
                raise Killed
            assert callable(real)
            real(*arguments)
            if count == moment:
                raise Killed

        setattr(tree, name, write)


def test_secrets_are_in_the_guest_alone(tree: Tree, root: Path, tmp_path: Path) -> None:
    facts = facts_of(tree)
    change(tree, Journal(tmp_path / "run", tree), request(facts), facts, quiet)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert TOKEN.encode() not in kept
    assert (root / "etc/refloat/secrets").stat().st_mode & 0o777 == 0o600
    assert not [path for path in root.rglob("*") if path.is_file() and path.name != "secrets"
                and TOKEN.encode() in path.read_bytes()]  # fmt: skip


def test_preserve_stages_the_reporter_alone(tree: Tree, root: Path, tmp_path: Path) -> None:
    facts = facts_of(tree)
    change(tree, Journal(tmp_path / "run", tree), request(facts, mode=NetworkMode.PRESERVE), facts, quiet)
    assert (root / "etc/refloat/network/files").read_text() == ""
    assert (root / "etc/refloat/nics").read_text() == "0 00:50:56:aa:bb:cc - -\n"


def test_other_addresses_are_refused(tree: Tree, tmp_path: Path) -> None:
    facts = facts_of(tree)
    ask = request(facts)
    config = replace(facts.nics[0], addresses=("192.0.2.1/24",))
    ask = replace(ask, nics=(replace(ask.nics[0], config=config),))
    with pytest.raises(Refused, match="other addresses"):
        change(tree, Journal(tmp_path / "run", tree), ask, facts, quiet)


@pytest.mark.parametrize(
    ("path", "content", "problem"),
    [
        ("etc/os-release", "ID=gentoo\n", "gentoo is none of the supported"),
        ("etc/fstab", "/dev/sdb1 / ext4\n", "says that / is /dev/sdb1, but it was found on disk-a"),
        ("etc/fstab", "/dev/sda1 / ext4\n/dev/sdd1 /x ext4\n", "/dev/sdd1 is on none of the disks"),
        ("etc/fstab", "proc /proc proc\n", "has no entry for /"),
        ("etc/crypttab", "x /dev/sda5 none swap\n", "encrypted"),
        ("etc/network/interfaces", "iface e inet static\n address x\n", "interfaces:2 'x' is no address"),
        ("boot/grub/grub.cfg", "set default=0\n", "no file of grub2 starts a kernel"),
        ("usr/bin/sh", "#!/bin/true\n", "architecture is unknown"),
        (f"boot/initrd.img-{KERNEL}", "no archive", "no archive in a known format"),
        (f"usr/lib/modules/{KERNEL}/modules.dep", "", "has no module virtio_pci"),
    ],
)
def test_problems(tree: Tree, root: Path, path: str, content: str, problem: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content)
    facts = facts_of(tree)
    assert any(problem in one for one in facts.problems), facts.problems
    with pytest.raises(Refused, match="cannot be adapted"):
        check(facts)


def test_missing_systemd_grub_and_kernel(tree: Tree, root: Path) -> None:
    (root / "usr/lib/systemd/systemd").unlink()
    shutil.rmtree(root / "boot")
    (root / "boot").mkdir()
    problems = " | ".join(facts_of(tree).problems)
    for words in ("init system is not known", "no boot loader was found", "no kernel was found"):
        assert words in problems


def test_full_boot_filesystem_is_found_before(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "free_space", lambda path: 1_000_000)
    assert any("/boot has 1000000 bytes free" in one for one in facts_of(tree).problems)


def test_hostile_guest_is_refused_without_a_trace(tree: Tree, root: Path, tmp_path: Path) -> None:
    facts = facts_of(tree)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/fstab").rename(root / "etc/real")
    (root / "etc/fstab").symlink_to("real")
    before = snapshot(root)
    with pytest.raises(Exception, match="refusing to change the guest's /etc/real"):
        change(tree, Journal(tmp_path / "run", tree), request(facts), facts, quiet)
    assert snapshot(root) == before
