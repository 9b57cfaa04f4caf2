"""The hives of a guest: found in any spelling, completed from their logs, written whole and in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from refloat.errors import NotFound, Refused
from refloat.guest.boundary import Boundary, Rule
from refloat.guest.journal import Conflict, Journal
from refloat.guest.tree import Tree
from refloat.guest.windows import registry as registry_module
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.regf import HiveDamaged
from refloat.guest.windows.registry import Registry
from refloat.guest.windows.values import Value
from refloat.model import ValueChange
from tests.unit.windows.test_hivelog import KEY, dirty, new, old, two_logs
from tests.windows.hives import at, hive, merged

CONFIG = "C/Windows/System32/config"
BOUNDARY = Boundary((Rule("/**", "a test"),), ())
DEVICE_PATH = "Microsoft\\Windows\\CurrentVersion"
ELEMENT = "Objects\\{x}\\Elements\\16000046"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A guest of Windows 7's spelling."""
    content = {
        f"{CONFIG}/SYSTEM": hive(merged(at("Select", {"Current": Value.dword(1)}), at(KEY))),
        f"{CONFIG}/software": hive(at(DEVICE_PATH), "SOFTWARE"),
        "ESP/EFI/Microsoft/Boot/BCD": hive(at(ELEMENT), "BCD"),
    }
    for name, data in content.items():
        path = tmp_path / "guest" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "guest"


def journal(root: Path, tree: Tree) -> Journal:
    return Journal(root.parent / "journal", tree, BOUNDARY)


def test_the_changed_hives_are_written_with_their_values_and_system_last(root: Path) -> None:
    with Tree(root) as tree:
        registry, written = Registry(tree), journal(root, tree)
        registry.system.set(f"{registry.control_set}\\Services\\viostor", "Start", Value.dword(0))
        registry.software.set(DEVICE_PATH, "DevicePath", Value.sz("x"))
        assert registry.bcd is not None
        registry.bcd.delete_key(ELEMENT)
        registry.commit(written, "a reason")
        changes = written.changes()
    assert [change.path for change in changes] == [
        "/ESP/EFI/Microsoft/Boot/BCD",
        f"/{CONFIG}/software",
        f"/{CONFIG}/SYSTEM",
    ]
    assert changes[2].values == (ValueChange(f"SYSTEM\\{KEY}", "Start", None, "dword:00000000"),)
    with Tree(root) as tree:
        again = Registry(tree)
        assert again.system.get(KEY, "Start") == Value.dword(0)
        assert again.software.get(DEVICE_PATH, "DevicePath") == Value.sz("x")


def test_what_is_not_changed_is_not_written(root: Path) -> None:
    with Tree(root) as tree:
        registry, written = Registry(tree), journal(root, tree)
        assert registry.bcd is not None
        registry.software.set(DEVICE_PATH, "DevicePath", Value.sz("x"))
        registry.software.delete_value(DEVICE_PATH, "DevicePath")
        assert registry.control_set == "ControlSet001"
        registry.commit(written, "a reason")
        assert written.changes() == ()


def test_a_second_run_finds_nothing_to_do(root: Path) -> None:
    for _ in range(2):
        with Tree(root) as tree:
            registry, written = Registry(tree), journal(root, tree)
            registry.system.set(KEY, "Start", Value.dword(0))
            registry.commit(written, "a reason")
    assert len(written.changes()) == 1


def test_a_dirty_hive_is_completed_and_written_whole_only_with_a_change(root: Path) -> None:
    path = root / CONFIG / "SYSTEM"
    path.write_bytes(dirty(old()))
    for number, log in enumerate(two_logs(), 1):
        (root / CONFIG / f"System.Log{number}").write_bytes(log)
    with Tree(root) as tree:
        registry, written = Registry(tree), journal(root, tree)
        assert registry.system.get(KEY, "ImagePath") == Value.binary(b"x" * 5000)
        registry.commit(written, "a reason")
        assert path.read_bytes() == dirty(old()), "Windows completes it by itself"
        registry.system.set(KEY, "Start", Value.dword(0))
        registry.commit(written, "a reason")
        kept = written.backup_of(written.changes()[0])
    assert kept is not None
    assert kept.read_bytes() == dirty(old()), "undo gives back what was there, dirty as it was"
    complete = Hive.open("SYSTEM", path.read_bytes())
    assert complete.get(KEY, "ImagePath") == Hive.open("SYSTEM", new()).get(KEY, "ImagePath")


def test_a_dirty_hive_without_its_logs_is_refused(root: Path) -> None:
    (root / CONFIG / "SYSTEM").write_bytes(dirty(old()))
    with Tree(root) as tree, pytest.raises(HiveDamaged, match="no log completes it"):
        _ = Registry(tree).system


def test_nothing_is_written_when_one_hive_cannot_be_made(root: Path) -> None:
    long = hive(at(KEY, {"long": Value.binary(b"x" * 20000)}))
    (root / CONFIG / "SYSTEM").write_bytes(long)
    with Tree(root) as tree:
        registry, written = Registry(tree), journal(root, tree)
        registry.software.set(DEVICE_PATH, "DevicePath", Value.sz("x"))
        registry.system.set(KEY, "Start", Value.dword(0))
        with pytest.raises(Refused, match="20000 bytes"):
            registry.commit(written, "a reason")
        assert written.changes() == ()


def test_hives_that_were_prepared_are_made_once_and_again_after_a_change(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    content = Hive.content

    def counted(self: Hive) -> bytes:
        made.append(self.name)
        return content(self)

    monkeypatch.setattr(Hive, "content", counted)
    with Tree(root) as tree:
        registry, written = Registry(tree), journal(root, tree)
        registry.system.set(KEY, "Start", Value.dword(3))
        registry.prepare()
        registry.prepare()
        assert made == ["SYSTEM"]
        registry.system.set(KEY, "Start", Value.dword(0))
        registry.commit(written, "a reason")
        assert made == ["SYSTEM", "SYSTEM"]
        assert Registry(tree).system.get(KEY, "Start") == Value.dword(0)


def test_a_hive_that_another_changed_meanwhile_is_not_overwritten(root: Path) -> None:
    with Tree(root) as tree:
        registry, written = Registry(tree), journal(root, tree)
        registry.system.set(KEY, "Start", Value.dword(0))
        (root / CONFIG / "SYSTEM").write_bytes(hive(at(KEY)))
        with pytest.raises(Conflict):
            registry.commit(written, "a reason")


def test_a_hive_that_is_too_large_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "HIVE_LIMIT", 4096)
    with Tree(root) as tree, pytest.raises(Refused, match="more than the 4096"):
        _ = Registry(tree).system


def test_a_missing_hive_is_said(root: Path) -> None:
    (root / CONFIG / "software").unlink()
    with Tree(root) as tree, pytest.raises(NotFound, match="no registry hive SOFTWARE"):
        _ = Registry(tree).software


def test_a_bios_guest_has_no_boot_configuration_here(root: Path) -> None:
    (root / "ESP/EFI/Microsoft/Boot/BCD").unlink()
    with Tree(root) as tree:
        assert Registry(tree).bcd is None
