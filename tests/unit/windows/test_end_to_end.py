"""`refloat guest` on whole disks of Windows guests: looked at, planned, adapted, adapted again, undone.

What is on the disks afterwards is compared with what the change journal says, file by file with its
protection. REFLOAT_GOLDEN=write writes the golden files anew, to be read.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refloat import drivers
from refloat.codec import decode
from refloat.guest import undo
from refloat.guest.adapt import adapt
from refloat.guest.disk import mounted_system
from refloat.guest.journal import Journal
from refloat.guest.systems import WINDOWS
from refloat.guest.tree import Tree
from refloat.guest.windows.adapt import change
from refloat.model import Adaptation, AdaptRequest, Change, GuestFacts, Mount
from refloat.standalone.evidence import Evidence
from tests.unit.windows.test_adapt import as_text
from tests.windows import disks, driverset
from tests.windows.disks import FULL, GUESTS, SERVER, Phony
from tests.windows.host import MtoolsHost
from tests.windows.volumes import CLEAN, page, volume_of

GOLDEN = Path(__file__).parents[2] / "golden" / "windows" / "disks"
HOST = MtoolsHost()
ADAPTER = ("--adapter", f"{disks.MAC}=52:54:00:12:34:56")

# Path -> kind or hash of the content, protection and attributes.
Content = dict[str, tuple[str, ...]]


@pytest.fixture(scope="session")
def driver_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driverset.write_folder(tmp_path_factory.mktemp("drivers"), driverset.files())


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refloat.guest.host.KERNEL", HOST)


def refloat(*words: object, refused: str = "") -> Any:
    """The JSON that a command prints; or, where it is `refused` with that code, what it says."""
    from refloat.cli.main import app

    done = CliRunner().invoke(app, [*map(str, words), *([] if refused else ["--json"])])
    if refused:
        assert done.exit_code != 0 and f"[{refused}]" in done.output, done.output
        assert "what to do:" in done.output
        return done.output
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def guest(command: str, image: Path, *words: object, refused: str = "") -> Any:
    return refloat("guest", command, "--trusted", *words, image, refused=refused)


def content(one: Phony, image: Path, folder: Path) -> Content:
    """All that is on the guest's disk, volume by volume."""
    result: Content = {}
    for number, part in enumerate(disks.parts_of(one), start=1):
        offset, size = disks.place_of(one, number)
        if part.kind == "ntfs":
            with disks.mounted(image, offset, size, "ro") as root, Tree(root) as tree:
                for path, entry in _entries(tree):
                    result[f"{number}{path}"] = entry
        elif part.kind == "vfat":
            copy = folder / "esp"
            copy.mkdir()
            disks.run("mcopy", "-s", "-Q", "-i", f"{image}@@{offset}", "::", str(copy))
            with Tree(copy) as tree:
                result |= {f"{number}{path}": entry[:1] for path, entry in _entries(tree)}
            disks.run("rm", "-r", str(copy))
        else:
            result[f"{number}"] = (_sha256(image.read_bytes()[offset : offset + size]),)
    return result


def _entries(tree: Tree, folder: str = "/") -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in tree.listdir(folder):
        path = f"{folder.rstrip('/')}/{name}"
        kept = [f"{key}={value.hex()}" for key, value in tree.meta(path).xattrs]
        if tree.is_directory(path):
            yield path, ("directory", *kept)
            yield from _entries(tree, path)
        else:
            yield path, (_sha256(tree.read_bytes(path, 1 << 30)), *kept)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest(image: Path) -> str:
    return _sha256(image.read_bytes())


def differing(one: Phony, before: Content, after: Content) -> set[str]:
    """Paths as the journal has them."""
    places = {str(one.system): "/C", "1": "/ESP"}
    paths = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return {f"{places[path[0]]}{path[1:]}" for path in paths}


def again(evidence: Path, image: Path, driver_set: Path, run_dir: Path) -> Adaptation:
    """The same adaptation once more, with a journal of its own."""
    record = Evidence(evidence).load()
    assert record is not None and record.adaptation is not None and record.request.windows is not None
    facts, wanted = record.adaptation.facts, record.request.windows
    assert facts.windows is not None
    drivers.extract(driver_set, wanted.drivers, facts.windows.version, run_dir / "drivers")
    windows = replace(wanted, drivers_dir=str(run_dir / "drivers"))
    request = replace(record.request, windows=windows)
    return adapt(request, {"sda": str(image)}, facts, run_dir, lambda step, figures: None, host=HOST)


@pytest.mark.parametrize("one", GUESTS, ids=lambda one: one.name)
def test_a_guest_is_adapted_and_undone(
    one: Phony, disk_of: Callable[[Phony], Path], driver_set: Path, tmp_path: Path
) -> None:
    image = disk_of(one)
    pristine = _digest(image)
    facts = decode(GuestFacts, guest("inspect", image))
    assert facts.windows is not None and not facts.problems
    assert (facts.windows.version, facts.firmware) == (one.version, one.firmware)
    assert facts.nics[0].addresses == (f"{disks.ADDRESS}/24",)
    words = ("--drivers", driver_set, *ADAPTER)
    planned = decode(Adaptation, guest("plan", image, *words)) if one.version == SERVER.version else None
    assert _digest(image) == pristine  # neither of them changed a byte

    before = content(one, image, tmp_path)
    evidence = tmp_path / "evidence"
    done = decode(Adaptation, guest("adapt", image, "--evidence", evidence, *words))
    text = as_text(done.changes)
    assert planned is None or text == as_text(planned.changes)
    _check_golden(one, text)
    after = content(one, image, tmp_path)
    assert differing(one, before, after) == {change.path for change in done.changes}

    second = again(evidence, image, driver_set, tmp_path / "second")
    assert second.changes == () and content(one, image, tmp_path) == after
    guest("undo", image, "--evidence", evidence)
    assert content(one, image, tmp_path) == before


def _check_golden(one: Phony, text: str) -> None:
    file = GOLDEN / f"{one.name}.txt"
    if os.environ.get("REFLOAT_GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


# ---------------------------------------------------------------- refused before anything is touched


def no_drivers(image: Path) -> None: ...


def hibernated(image: Path) -> None:
    volume_of(SERVER, image).hibernate()


def left_open(image: Path) -> None:
    volume_of(SERVER, image).leave_open()


def left_running(image: Path) -> None:
    volume_of(SERVER, image).leave_open((2, 0))


def with_hive(change: Callable[[bytes], bytes], name: str = "SYSTEM") -> Callable[[Path], None]:
    def damage(image: Path) -> None:
        volume = volume_of(SERVER, image)
        with disks.mounted(image, volume.offset, volume.size) as root:
            hive = root / "Windows/System32/config" / name
            hive.write_bytes(change(hive.read_bytes()))

    return damage


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (hibernated, "guest_hibernated"),
        (left_open, "guest_dirty"),
        (left_running, "guest_dirty"),
        (with_hive(lambda hive: hive[:8192] + bytes(len(hive) - 8192)), "hive_damaged"),
        (with_hive(lambda hive: b"nothing", "SOFTWARE"), "hive_damaged"),
        (no_drivers, "drivers_missing"),
    ],
)
def test_what_is_refused_is_refused_untouched(
    break_it: Callable[[Path], None],
    code: str,
    disk_of: Callable[[Phony], Path],
    driver_set: Path,
    tmp_path: Path,
) -> None:
    image = disk_of(SERVER)
    break_it(image)
    pristine = _digest(image)
    words = () if break_it is no_drivers else ("--drivers", driver_set)
    guest("adapt", image, "--evidence", tmp_path / "evidence", *words, refused=code)
    assert _digest(image) == pristine


def test_a_volume_without_space_is_refused_and_its_files_stay(
    disk_of: Callable[[Phony], Path], driver_set: Path, tmp_path: Path
) -> None:
    """That is known once it is mounted for writing."""
    image = disk_of(FULL)
    before = content(FULL, image, tmp_path)
    words = ("--evidence", tmp_path / "evidence", "--drivers", driver_set)
    guest("adapt", image, *words, refused="guest_space")
    assert content(FULL, image, tmp_path) == before


@pytest.mark.parametrize(
    ("break_it", "allowed"),
    [
        (hibernated, "--discard-hibernation"),
        (left_open, "--repair-ntfs"),
        (left_running, "--repair-ntfs"),
    ],
)
def test_what_the_operator_allows_is_repaired_and_adapted(
    break_it: Callable[[Path], None],
    allowed: str,
    disk_of: Callable[[Phony], Path],
    driver_set: Path,
    tmp_path: Path,
) -> None:
    image = disk_of(SERVER)
    break_it(image)
    words = ("--evidence", tmp_path / "evidence", "--drivers", driver_set, allowed)
    done = decode(Adaptation, guest("adapt", image, *words))
    after = content(SERVER, image, tmp_path)
    assert any(change.path.endswith("/config/SYSTEM") for change in done.changes)
    assert "2/Windows/Refloat/firstboot.cmd" in after and "2/hiberfil.sys" not in after
    guest("undo", image, "--evidence", tmp_path / "evidence")
    assert "2/Windows/Refloat" not in content(SERVER, image, tmp_path)


def test_undo_of_a_windows_that_has_run_is_refused(
    disk_of: Callable[[Phony], Path], driver_set: Path, tmp_path: Path
) -> None:
    image, evidence = disk_of(SERVER), tmp_path / "evidence"
    guest("adapt", image, "--evidence", evidence, "--drivers", driver_set)
    volume_of(SERVER, image).log(page(flags=CLEAN), page(900))  # as Windows leaves it
    adapted = _digest(image)
    guest("undo", image, "--evidence", evidence, refused="guest_has_run")
    assert _digest(image) == adapted


# ---------------------------------------------------------------- killed


_KILLED = """
import os, signal, sys
from refloat.cli.main import app
from refloat.guest.tree import Tree
writes = 0
def mortal(original):
    def one(self, *arguments):
        global writes
        writes += 1
        if writes == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, *arguments)
    return one
for name in ("replace_file", "make_directory"):
    setattr(Tree, name, mortal(getattr(Tree, name)))
app(sys.argv[2:], prog_name="refloat")
"""


@pytest.mark.parametrize("at", [1, 20, 44, 45])
def test_a_killed_adaptation_is_finished_or_undone(
    at: int, disk_of: Callable[[Phony], Path], driver_set: Path, tmp_path: Path
) -> None:
    """At the first write, in the middle, and before each of the hives."""
    image, evidence = disk_of(SERVER), tmp_path / "evidence"
    before = content(SERVER, image, tmp_path)
    words = ["guest", "adapt", "--trusted", "--drivers", driver_set, "--evidence", evidence, image]
    argv = [sys.executable, "-c", _KILLED, str(at), *map(str, words)]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == -signal.SIGKILL
    if at % 2:
        done = decode(Adaptation, guest("adapt", image, "--evidence", evidence, "--drivers", driver_set))
        after = content(SERVER, image, tmp_path)
        assert differing(SERVER, before, after) == {change.path for change in done.changes}
    guest("undo", image, "--evidence", evidence)
    assert content(SERVER, image, tmp_path) == before


class Killed(BaseException):
    pass


@pytest.fixture
def planned(
    disk_of: Callable[[Phony], Path], driver_set: Path, tmp_path: Path
) -> tuple[Path, AdaptRequest, GuestFacts, tuple[Change, ...]]:
    """A guest's disk as it was, with an adaptation's request and its changes."""
    image, evidence = disk_of(SERVER), tmp_path / "evidence"
    done = decode(
        Adaptation, guest("adapt", image, "--evidence", evidence, "--drivers", driver_set, *ADAPTER)
    )
    guest("undo", image, "--evidence", evidence)
    record = Evidence(evidence).load()
    assert record is not None and record.request.windows is not None and done.facts.windows is not None
    folder = tmp_path / "extracted"
    drivers.extract(driver_set, record.request.windows.drivers, done.facts.windows.version, folder)
    windows = replace(record.request.windows, drivers_dir=str(folder))
    return image, replace(record.request, windows=windows), done.facts, done.changes


def test_every_write_may_be_the_last(
    planned: tuple[Path, AdaptRequest, GuestFacts, tuple[Change, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On NTFS, ended before or after each write: undo gives back what was there."""
    image, request, facts, changes = planned
    found = replace(volume_of(SERVER, image).found(), filesystem=replace(facts.root, mounts=(Mount("/C"),)))
    with mounted_system([found], tmp_path / "mnt", writable=True) as tree:
        before = dict(_entries(tree, "/C/Windows"))
        for number in range(len(changes)):
            run_dir = tmp_path / f"run{number}"
            journal = Journal(run_dir, tree, WINDOWS.boundary, WINDOWS.labels(tree))
            with monkeypatch.context() as patch:
                _end_at(patch, number)
                with pytest.raises(Killed):
                    change(tree, journal, request, facts, lambda step, figures: None)
            undo.undo(tree, Journal(run_dir, tree, WINDOWS.boundary))
            assert dict(_entries(tree, "/C/Windows")) == before, f"ended at {number}"


def _end_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Raises before the write with this number, or after it where that is odd."""
    count = 0

    def mortal(original: Callable[..., None]) -> Callable[..., None]:
        def one(*arguments: Any) -> None:
            nonlocal count
            last = count == number
            count += 1
            if last and number % 2 == 0:
                raise Killed
            original(*arguments)
            if last:
                raise Killed

        return one

    for name in ("replace_file", "make_directory"):
        patch.setattr(Tree, name, mortal(getattr(Tree, name)))
