"""The guest's own tool as a declared fallback: when it runs, when not, and what is left of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from refloat.command import run
from refloat.errors import Failed, Refused
from refloat.guest import adapt as engine
from refloat.guest.adapt import change
from refloat.guest.host import KERNEL as KERNEL_HOST
from refloat.guest.inspect import examine
from refloat.guest.journal import Journal, has_begun
from refloat.guest.linux import cpio, fallback, rebuild
from refloat.guest.linux.rebuild import RebuildFailed
from refloat.guest.tree import Tree
from refloat.guest.undo import undo
from refloat.model import DiskBus, GuestFacts, NicModel
from tests.unit.guest.guests import (
    KERNEL,
    MODULES,
    ORDER,
    file,
    found,
    main_archive,
    make_guest,
    module_path,
    request,
    snapshot,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="new files in a guest belong to root")

INITRD = f"/boot/initrd.img-{KERNEL}"
SIGNED = main_archive() + b"SIGNATURE" * 20


def quiet(step: str, figures: dict[str, object]) -> None:
    pass


def add_tool(root: Path) -> None:
    tool = root / "usr/sbin/mkinitramfs"
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text("#!/bin/sh\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A guest behind whose initramfs nothing can be appended, and which has the tool that made it."""
    guest = make_guest(tmp_path / "guest")
    (guest / INITRD.lstrip("/")).write_bytes(SIGNED)
    add_tool(guest)
    return guest


@pytest.fixture
def tree(root: Path) -> Iterator[Tree]:
    with Tree(root) as opened:
        yield opened


def facts_of(tree: Tree) -> GuestFacts:
    return examine(tree, found(tree), ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)


def with_drivers(names: tuple[str, ...] = tuple(MODULES)) -> bytes:
    """What a tool makes that was told: nothing is left to be added or mended."""
    base = f"usr/lib/modules/{KERNEL}"
    members = [file(f"{base}/{module_path(name)}", b"module") for name in names]
    return main_archive() + cpio.write([*members, file("conf/conf.d/resume", b"")])


class Maker:
    """Stands for the guest's tool: what it makes, and how often it was asked."""

    def __init__(self, content: bytes | Exception) -> None:
        self.content = content
        self.asked: list[tuple[Path, str, str, int]] = []

    def __call__(self, root: Path, tool: str, version: str, work: Path, limits: rebuild.Limits) -> bytes:
        self.asked.append((root, tool, version, limits.output))
        if isinstance(self.content, Exception):
            raise self.content
        return self.content


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    one = Maker(main_archive())
    monkeypatch.setattr(rebuild, "rebuild", one)
    return one


def adapt(tree: Tree, root: Path, directory: Path, facts: GuestFacts) -> Journal:
    """As guest/adapt.py does it, from the first look on."""
    directory.mkdir(exist_ok=True)
    fallback.make(tree, root, facts, request(facts), directory, quiet)
    journal = Journal(directory, tree)
    change(tree, journal, request(facts), facts, quiet)
    return journal


# ---------------------------------------------------------------- when it would have to run


def test_what_only_the_tool_could_mend(tree: Tree) -> None:
    facts = facts_of(tree)
    assert facts.problems == ()
    (kernel,) = facts.kernels
    assert (kernel.initramfs, kernel.missing) == (INITRD, ())
    assert "no archive in a known format" in kernel.cannot_extend
    assert kernel.space == fallback.space(len(SIGNED)) > 96 * 1024 * 1024


@pytest.mark.parametrize("content", [b"", SIGNED[:700], main_archive().replace(b"kmod\0", b"none\0")])
def test_a_broken_one_counts_as_well(root: Path, tree: Tree, content: bytes) -> None:
    (root / INITRD.lstrip("/")).write_bytes(content)
    facts = facts_of(tree)
    assert (facts.problems, len(facts.kernels)) == ((), 1)
    assert facts.kernels[0].cannot_extend


def test_without_the_tool_it_is_a_problem(root: Path, tree: Tree) -> None:
    (root / "usr/sbin/mkinitramfs").unlink()
    facts = facts_of(tree)
    assert facts.kernels == ()
    assert any("append is impossible for this format" in one for one in facts.problems)


def test_no_tool_has_the_module_that_a_kernel_lacks(root: Path, tree: Tree) -> None:
    (root / INITRD.lstrip("/")).write_bytes(main_archive())
    (root / f"usr/lib/modules/{KERNEL}/modules.dep").write_text("")
    facts = facts_of(tree)
    assert facts.kernels == ()
    assert any("has no module virtio_pci" in one for one in facts.problems)


def test_for_an_older_kernel_it_never_runs(root: Path, tree: Tree) -> None:
    """A warning, as ever: another kernel boots."""
    (root / f"boot/vmlinuz-{KERNEL.replace('6.1', '6.0')}").write_bytes(b"kernel")
    (root / f"usr/lib/modules/{KERNEL.replace('6.1', '6.0')}").mkdir()
    (root / f"boot/initrd.img-{KERNEL.replace('6.1', '6.0')}").write_bytes(SIGNED)
    (root / INITRD.lstrip("/")).write_bytes(main_archive())
    facts = facts_of(tree)
    assert [kernel.version for kernel in facts.kernels] == [KERNEL]
    assert not facts.kernels[0].cannot_extend
    assert any("the older kernel 6.0.0-1-amd64 will not boot" in one for one in facts.warnings)


def test_too_little_room_says_what_for(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "free_space", lambda path: 50 * 1024 * 1024)
    (problem,) = facts_of(tree).problems
    assert problem.startswith("/boot has 52428800 bytes free")
    assert f"{INITRD} would be made anew" in problem


# ---------------------------------------------------------------- whether it may


def test_it_must_be_allowed(tree: Tree) -> None:
    with pytest.raises(Refused, match="nobody allowed that") as caught:
        fallback.check(facts_of(tree), allowed=False, possible=True)
    assert caught.value.code == "rebuild_not_allowed"
    for word in ("`rebuild: allowed`", "--rebuild", f"update-initramfs -u -k {KERNEL}"):
        assert word in caught.value.hint


def test_the_appliance_runs_no_program_of_a_guest(tree: Tree) -> None:
    with pytest.raises(Refused, match="the appliance runs no program") as caught:
        fallback.check(facts_of(tree), allowed=True, possible=False)
    assert caught.value.code == "rebuild_not_here"
    assert "--trusted" in caught.value.hint and "controller" in caught.value.hint


def test_where_it_is_not_needed_nothing_is_asked(tree: Tree) -> None:
    facts = facts_of(tree)
    fallback.check(facts, allowed=True, possible=True)
    plain = replace(facts, kernels=(replace(facts.kernels[0], cannot_extend=""),))
    fallback.check(plain, allowed=False, possible=False)


def test_the_last_look_asks_again(tree: Tree, root: Path) -> None:
    """A guest that was sound when it was inspected, and whose kernel was updated since."""
    there = found(tree)
    facts = replace(facts_of(tree), kernels=())
    host = KERNEL_HOST
    with pytest.raises(Refused, match="nobody allowed that"):
        engine._look_again(tree, there, request(facts), facts, host)
    allowed = replace(request(facts), rebuild=True)
    assert engine._look_again(tree, there, allowed, facts, host).kernels[0].cannot_extend


# ---------------------------------------------------------------- what comes of it


def test_the_new_one_takes_the_place_with_the_drivers_behind_it(
    tree: Tree, root: Path, tmp_path: Path, maker: Maker
) -> None:
    facts = facts_of(tree)
    journal = adapt(tree, root, tmp_path / "run", facts)
    assert maker.asked == [(root, "initramfs-tools", KERNEL, 96 * 1024 * 1024)]
    (entry,) = [one for one in journal.changes() if one.path == INITRD]
    content = (root / INITRD.lstrip("/")).read_bytes()
    assert content.startswith(main_archive()) and b"virtio_blk" in content
    for word in ("made anew", "no archive in a known format", f"mkinitramfs {KERNEL}", "without capabilities",
                 "drivers appended: virtio_ring"):  # fmt: skip
        assert word in entry.reason
    after = facts_of(tree).kernels[0]
    assert (after.missing, after.cannot_extend) == ((), "")


def test_one_that_has_all_gets_nothing_appended(tree: Tree, root: Path, tmp_path: Path, maker: Maker) -> None:
    maker.content = with_drivers()
    journal = adapt(tree, root, tmp_path / "run", facts_of(tree))
    assert (root / INITRD.lstrip("/")).read_bytes() == maker.content
    assert not any("appended" in one.reason for one in journal.changes() if one.path == INITRD)


def test_names_of_the_old_bus_in_the_new_one_are_mended(
    tree: Tree, root: Path, tmp_path: Path, maker: Maker
) -> None:
    maker.content = with_drivers() + cpio.write([file("conf/conf.d/resume", b"RESUME=/dev/sda5\n")])
    journal = adapt(tree, root, tmp_path / "run", facts_of(tree))
    (entry,) = [one for one in journal.changes() if one.path == INITRD]
    assert "names that follow the bus mended in conf/conf.d/resume" in entry.reason
    assert b"RESUME=UUID=33333333" in (root / INITRD.lstrip("/")).read_bytes()


def test_every_byte_comes_back(tree: Tree, root: Path, tmp_path: Path, maker: Maker) -> None:
    before = snapshot(root)
    journal = adapt(tree, root, tmp_path / "run", facts_of(tree))
    assert snapshot(root) != before
    assert INITRD in undo(tree, journal)
    assert snapshot(root) == before


USELESS: dict[str, tuple[bytes | Exception, str]] = {
    "the tool fails": (RebuildFailed("the guest's initramfs-tools: no such module"), "no such module"),
    "no archive": (b"#!/bin/sh\n", "no archive in a known format"),
    "the old one": (SIGNED, "no archive in a known format"),
    "nothing": (b"", "empty"),
    "no program that loads a driver": (main_archive().replace(b"kmod\0", b"none\0"), "no program"),
    "cut short": (with_drivers()[:-700], "."),
}


@pytest.mark.parametrize("what", USELESS)
def test_what_nobody_can_use_changes_nothing(
    what: str, tree: Tree, root: Path, tmp_path: Path, maker: Maker
) -> None:
    made, why = USELESS[what]
    maker.content = made
    before, facts = snapshot(root), facts_of(tree)
    with pytest.raises(Refused, match=f"{INITRD} could not be made anew: .*{why}") as caught:
        adapt(tree, root, tmp_path / "run", facts)
    assert "it is as it was" in caught.value.hint
    assert snapshot(root) == before
    assert not has_begun(tmp_path / "run")
    maker.content = with_drivers()
    adapt(tree, root, tmp_path / "run", facts)
    assert (root / INITRD.lstrip("/")).read_bytes() == with_drivers()


def test_more_than_there_is_room_for(
    tree: Tree, root: Path, tmp_path: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fallback, "_APPENDED", 0)
    facts = facts_of(tree)
    facts = replace(facts, kernels=(replace(facts.kernels[0], space=len(main_archive())),))
    with pytest.raises(Refused, match="there is room for"):
        adapt(tree, root, tmp_path / "run", facts)


# ---------------------------------------------------------------- kills


class Killed(BaseException):
    """Stands for kill -9."""


def kill_at(tree: Tree, moment: int) -> None:
    done = 0
    for name in ("replace_file", "make_directory", "make_symlink"):
        real = getattr(tree, name)

        def write(*arguments: object, real: object = real) -> None:
            nonlocal done
            done += 1
            if done == moment:
                raise Killed
            assert callable(real)
            real(*arguments)

        setattr(tree, name, write)


MOMENTS = range(1, 16, 2)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_anywhere_and_taken_back(moment: int, root: Path, tmp_path: Path, maker: Maker) -> None:
    before = snapshot(root)
    with Tree(root) as tree:
        kill_at(tree, moment)
        with pytest.raises(Killed):
            adapt(tree, root, tmp_path / "run", facts_of(tree))
    with Tree(root) as tree:
        undo(tree, Journal(tmp_path / "run", tree))
    assert snapshot(root) == before


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_anywhere_and_run_again(moment: int, root: Path, tmp_path: Path, maker: Maker) -> None:
    """The tool would make another file each time: it ran once, before the first change."""
    directory = tmp_path / "run"
    with Tree(root) as tree:
        facts = facts_of(tree)
        kill_at(tree, moment)
        with pytest.raises(Killed):
            adapt(tree, root, directory, facts)
    assert has_begun(directory)
    maker.content = with_drivers()
    with Tree(root) as tree:
        journal = adapt(tree, root, directory, facts)
        assert len(maker.asked) == 1
        assert [one.path for one in journal.changes()].count(INITRD) == 1
        assert facts_of(tree).kernels[0].cannot_extend == ""
    assert (root / INITRD.lstrip("/")).read_bytes().startswith(main_archive())


def test_until_something_was_changed_it_is_made_anew(
    tree: Tree, root: Path, tmp_path: Path, maker: Maker
) -> None:
    """The guest may have run in between, and have another kernel."""
    facts, directory = facts_of(tree), tmp_path / "run"
    directory.mkdir()
    for _ in range(2):
        fallback.make(tree, root, facts, request(facts), directory, quiet)
    assert len(maker.asked) == 2


def test_what_a_killed_run_left_mounted_goes(tree: Tree, root: Path, tmp_path: Path, maker: Maker) -> None:
    """Also where the guest needs no tool any more."""
    place = tmp_path / "run/rebuild/root"
    place.mkdir(parents=True)
    run(["mount", "--bind", str(root), str(place)])
    facts = replace(facts_of(tree), kernels=())
    fallback.make(tree, root, facts, request(facts), tmp_path / "run", quiet)
    assert list(place.iterdir()) == [] and maker.asked == []


def test_a_failure_after_the_first_change_says_so(
    tree: Tree, root: Path, tmp_path: Path, maker: Maker
) -> None:
    facts, directory = facts_of(tree), tmp_path / "run"
    adapt(tree, root, directory, facts)
    for path in (directory / "rebuilt").iterdir():
        path.unlink()
    maker.content = b"rubbish"
    with pytest.raises(Failed, match="could not be made anew") as caught:
        fallback.make(tree, root, facts, request(facts), directory, quiet)
    assert not isinstance(caught.value, Refused)
