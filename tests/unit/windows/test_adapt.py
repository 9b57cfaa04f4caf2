"""A whole Windows guest, as a folder: what is changed, in which order, and what is refused before that."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from refloat import drivers
from refloat.errors import Refused
from refloat.guest.boundary import Boundary
from refloat.guest.journal import Journal
from refloat.guest.tree import Tree
from refloat.guest.windows import adapt
from refloat.guest.windows.boundary import WINDOWS
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.values import Value
from refloat.guest.windows.versions import VERSIONS, row_of
from refloat.model import AdaptRequest, Change, DiskBus, Firmware, GuestFacts, NicModel
from tests.tree_compare import snapshot
from tests.unit.windows.test_values import rendered
from tests.windows import driverset, small
from tests.windows.hives import at, merged

EVERY = [(row.name, arch) for row in VERSIONS for arch in row.architectures]
BOTH = (Firmware.BIOS, Firmware.UEFI)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driverset.write_folder(tmp_path_factory.mktemp("set"), driverset.files())


@dataclasses.dataclass
class Guest:
    root: Path
    run: Path
    request: AdaptRequest
    facts: GuestFacts

    def change(self, run: str = "run", boundary: Boundary = WINDOWS) -> tuple[Change, ...]:
        with Tree(self.root) as tree:
            journal = Journal(self.run / run, tree, boundary)
            adapt.change(tree, journal, self.request, self.facts, lambda step, figures: None)
            return journal.changes()


def guest(
    whole: Path,
    tmp_path: Path,
    name: str = "2022",
    architecture: str = "amd64",
    firmware: Firmware = Firmware.UEFI,
) -> Guest:
    choice = drivers.choose(whole, name, architecture)
    drivers.extract(whole, choice, name, tmp_path / "drivers")
    return Guest(
        small.tree(tmp_path / "root", row_of(name), firmware),
        tmp_path,
        small.request(choice, tmp_path / "drivers"),
        small.facts(name, architecture, firmware),
    )


@pytest.mark.parametrize("firmware", BOTH)
@pytest.mark.parametrize(("name", "architecture"), EVERY)
def test_every_guest_is_adapted_and_a_second_run_changes_nothing(
    whole: Path, tmp_path: Path, name: str, architecture: str, firmware: Firmware
) -> None:
    one = guest(whole, tmp_path, name, architecture, firmware)
    changes = one.change()
    folder = f"{row_of(name).folders[0]}/{architecture}"
    for driver in ("viostor", "vioscsi"):
        program = driverset.program(f"{driver}.sys", folder, 4096)
        assert (one.root / f"C/Windows/System32/drivers/{driver}.sys").read_bytes() == program
        assert (one.root / f"C/Windows/Refloat/drivers/{driver}/{driver}.sys").read_bytes() == program
    after = snapshot(one.root)
    assert one.change("again") == ()
    assert one.change() == changes
    assert snapshot(one.root) == after


def as_text(changes: tuple[Change, ...]) -> str:
    lines = []
    for change in changes:
        lines.append(f"{change.kind} {change.path}: {change.reason}")
        if change.values:
            lines.append(rendered(change.values))
    return "\n".join(lines).strip() + "\n"


@pytest.mark.parametrize(("name", "firmware"), [("2022", Firmware.UEFI), ("2008 R2", Firmware.BIOS)])
def test_golden(whole: Path, tmp_path: Path, name: str, firmware: Firmware) -> None:
    text = as_text(guest(whole, tmp_path, name, "amd64", firmware).change())
    file = (
        Path(__file__).parents[2] / "golden" / "windows" / f"adapted-{name.replace(' ', '')}-{firmware}.txt"
    )
    if os.environ.get("REFLOAT_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()


def test_the_hives_are_the_last_and_system_the_very_last(whole: Path, tmp_path: Path) -> None:
    changes = guest(whole, tmp_path).change()
    assert [change.path.rpartition("/")[2] for change in changes[-3:]] == ["BCD", "SOFTWARE", "SYSTEM"]
    assert all(change.values for change in changes[-3:])
    assert not any(change.values for change in changes[:-3])


def test_the_launcher_is_a_service_of_the_current_control_set(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path)
    one.change()
    system = Hive.open("SYSTEM", (one.root / "C/Windows/System32/config/SYSTEM").read_bytes())
    start = system.get(f"{small.SET}\\Services\\Refloat", "Start")
    assert start is not None and start.number == 2
    assert not system.has("ControlSet001\\Services\\Refloat")


class Killed(Exception):
    pass


@dataclasses.dataclass(frozen=True)
class Ending(Boundary):
    """Ends a run before it writes one path."""

    path: str = ""

    def check(self, path: str) -> None:
        if path == self.path:
            raise Killed
        super().check(path)


def test_a_run_that_ended_before_any_write_is_finished_by_the_next(whole: Path, tmp_path: Path) -> None:
    unbroken = guest(whole, tmp_path / "unbroken")
    expected = unbroken.change()
    wanted = contents(unbroken.root)
    # All of the last ones, where kinds of files differ; of the drivers' files, which are alike, some.
    for number, change in enumerate((*expected[:-14:9], *expected[-14:])):
        one = guest(whole, tmp_path / f"ended-{number}")
        with pytest.raises(Killed):
            one.change(boundary=Ending(WINDOWS.allowed, WINDOWS.forbidden, change.path))
        assert [(c.path, c.after) for c in one.change()] == [(c.path, c.after) for c in expected]
        assert contents(one.root) == wanted


def contents(root: Path) -> dict[str, object]:
    """What is in the guest, but not when it was written."""
    return {path: dataclasses.replace(entry, modified=0) for path, entry in snapshot(root).items()}


def own_package(path: str, devices: tuple[str, ...] = ("1001", "1042")) -> dict[str, object]:
    """A viostor that the guest's administrator installed; Windows keeps it from starting."""
    service = f"{small.SET}\\Services\\viostor"
    values = {"Start": Value.dword(0), "ImagePath": Value.expand_sz(path)}
    bound = [
        at(f"DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_{one}", {"oem7.inf": Value.binary(b"\2\xff\0\0")})
        for one in devices
    ]
    return merged(at(service, values), at(f"{service}\\StartOverride", {"0": Value.dword(3)}), *bound)


STORE = "FileRepository\\viostor.inf_amd64_520417bbc533faba\\viostor.sys"
OWN = "C/Windows/System32/drivers/viostor.sys"


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("\\SystemRoot\\System32\\drivers\\viostor.sys", OWN),
        ("System32\\drivers\\viostor.sys", OWN),
        ("%SystemRoot%\\system32\\DRIVERS\\VioStor.sys", OWN),
        (f"System32\\DriverStore\\{STORE}", "C/Windows/System32/DriverStore/" + STORE.replace("\\", "/")),
    ],
)
def test_a_driver_that_the_guest_has_is_kept_and_only_made_to_start(
    whole: Path, tmp_path: Path, path: str, file: str
) -> None:
    one = guest(whole, tmp_path)
    hive = small.system(row_of("2022"), own_package(path))
    (one.root / "C/Windows/System32/config/SYSTEM").write_bytes(hive)
    (one.root / file).parent.mkdir(parents=True, exist_ok=True)
    (one.root / file).write_bytes(b"MZ the guest's own")
    changes = one.change()
    values = [value for value in changes[-1].values if "viostor" in f"{value.key}{value.name}".lower()]
    assert (one.root / file).read_bytes() == b"MZ the guest's own"
    assert {(value.key.rpartition("\\")[2], value.name, value.after) for value in values} == {
        ("StartOverride", None, None),
        ("StartOverride", "0", None),
    }
    assert (one.root / "C/Windows/System32/drivers/vioscsi.sys").exists()
    assert one.change("again") == ()


@pytest.mark.parametrize(
    ("path", "devices", "there"),
    [
        ("System32\\drivers\\viostor.sys", ("1001", "1042"), False),
        ("System32\\drivers\\viostor.sys", ("1001",), True),
        ("\\??\\D:\\viostor.sys", ("1001", "1042"), True),
        ("System32\\..\\drivers\\viostor.sys", ("1001", "1042"), True),
    ],
)
def test_a_driver_that_is_not_whole_is_replaced(
    whole: Path, tmp_path: Path, path: str, devices: tuple[str, ...], there: bool
) -> None:
    one = guest(whole, tmp_path)
    content = small.system(row_of("2022"), own_package(path, devices=devices))
    (one.root / "C/Windows/System32/config/SYSTEM").write_bytes(content)
    program = one.root / "C/Windows/System32/drivers/viostor.sys"
    if there:
        program.write_bytes(b"MZ old")
    one.change()
    assert program.read_bytes() == driverset.program("viostor.sys", "2k22/amd64", 4096)
    system = Hive.open("SYSTEM", (one.root / "C/Windows/System32/config/SYSTEM").read_bytes())
    assert system.get(f"{small.SET}\\Services\\viostor", "ImagePath") == Value.expand_sz(
        "system32\\drivers\\viostor.sys"
    )
    assert system.has("DriverDatabase\\DriverInfFiles\\viostor.inf")


# ---------------------------------------------------------------- UEFI


def test_the_fallback_loader_is_windows_own(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path)
    one.change()
    assert (one.root / "ESP/EFI/Boot/bootx64.efi").read_bytes() == small.MANAGER


def test_a_fallback_loader_in_any_spelling_is_left_alone(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path)
    there = one.root / "ESP/EFI/BOOT/BOOTX64.EFI"
    there.parent.mkdir()
    there.write_bytes(b"shim")
    changes = one.change()
    assert there.read_bytes() == b"shim" and not any("BOOTX64" in change.path.upper() for change in changes)


def test_no_loader_at_all_is_refused(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path)
    (one.root / "ESP/EFI/Microsoft/Boot/bootmgfw.efi").unlink()
    _refused(one, "no_boot_loader", "bcdboot")


@pytest.mark.parametrize("architecture", ["amd64", "ARM64"])
def test_the_loader_is_named_for_its_processor(whole: Path, tmp_path: Path, architecture: str) -> None:
    one = guest(whole, tmp_path, "11", architecture)
    one.change()
    name = {"amd64": "bootx64.efi", "ARM64": "bootaa64.efi"}[architecture]
    assert os.listdir(one.root / "ESP/EFI/Boot") == [name]


# ---------------------------------------------------------------- refused before anything is touched


def _refused(one: Guest, code: str, words: str) -> None:
    before = snapshot(one.root)
    with pytest.raises(Refused, match=words) as caught:
        one.change()
    assert caught.value.code == code
    assert snapshot(one.root) == before
    assert not (one.run / "run" / "journal.jsonl").exists()


def test_a_driver_file_that_was_changed(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path)
    (tmp_path / "drivers/NetKVM/netkvm.sys").write_bytes(b"other")
    _refused(one, "drivers_changed", r"netkvm\.sys is not the one that was chosen")


def test_drivers_for_another_architecture(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path, "10", "x86")
    one.facts = small.facts("10", "amd64", Firmware.UEFI)
    _refused(one, "drivers_missing", "are for x86, but the guest is amd64")


def test_drivers_for_another_version(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path, "2019")
    one.facts = small.facts("2022", "amd64", Firmware.UEFI)
    _refused(one, "drivers_missing", "are for 2k19 amd64, but the guest is Windows Server 2022")


def test_not_enough_space(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = guest(whole, tmp_path)
    monkeypatch.setattr(Tree, "free_space", lambda self, path: 1 << 20)
    _refused(one, "guest_space", "has 1 MiB free, but .* MiB are needed")


def test_a_damaged_hive(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path)
    hive = one.root / "C/Windows/System32/config/SOFTWARE"
    hive.write_bytes(b"regf" + hive.read_bytes()[4:5000])
    _refused(one, "hive_damaged", "SOFTWARE")


def test_a_next_start_from_another_control_set(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path)
    content = small.system(row_of("2022"), at("Select", {"Default": Value.dword(1)}))
    (one.root / "C/Windows/System32/config/SYSTEM").write_bytes(content)
    _refused(one, "hive_damaged", "from another control set")


@pytest.mark.parametrize(
    ("name", "bus"), [("2022", DiskBus.PVSCSI), ("2008 R2", DiskBus.NVME), ("2012", DiskBus.NVME)]
)
def test_hardware_that_this_windows_does_not_start_on(
    whole: Path, tmp_path: Path, name: str, bus: DiskBus
) -> None:
    one = guest(whole, tmp_path, name)
    one.request = dataclasses.replace(one.request, disk_bus=bus)
    _refused(one, "guest_not_capable", f"cannot run on {bus}")


def test_an_adapter_that_it_has_no_driver_for(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path, "2008 R2")
    one.request = dataclasses.replace(one.request, nic_model=NicModel.E1000E)
    _refused(one, "guest_not_capable", "with e1000e")


def test_a_request_without_drivers(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path)
    one.request = dataclasses.replace(one.request, windows=None)
    _refused(one, "plan_invalid", "no request for a Windows guest")


# ---------------------------------------------------------------- capabilities


def test_capabilities(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path)
    caps = adapt.caps(one.request, one.facts)
    assert caps.disk_buses == (DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_SCSI, DiskBus.SATA, DiskBus.NVME)
    assert caps.nic_models == (NicModel.VIRTIO, NicModel.E1000E)
    assert not caps.clock_utc and caps.reporter and caps.remediation == "scheduled"
    assert caps.modules_added[:3] == ("viostor", "vioscsi", "NetKVM")


def test_the_journal_says_every_hash(whole: Path, tmp_path: Path) -> None:
    one = guest(whole, tmp_path)
    for change in one.change():
        if change.kind == "file":
            content = (one.root / change.path.lstrip("/")).read_bytes()
            assert hashlib.sha256(content).hexdigest() == change.after.sha256
