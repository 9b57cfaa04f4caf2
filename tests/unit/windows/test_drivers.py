"""Choosing drivers from sets of every layout, and loading them with their checksums proven."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
from pathlib import Path

import pytest

from refloat import drivers
from refloat.errors import Refused
from refloat.guest.windows import drivers as guest_drivers
from refloat.guest.windows.versions import VERSIONS, row_of
from refloat.model import DriverChoice, DriverFile
from tests.windows import driverset
from tests.windows.driverset import by_driver, by_os, files, flat, write_folder, write_iso

ALL = ("viostor", "vioscsi", "NetKVM", "vioserial", "Balloon", "viorng", "pvpanic")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("set"), files())


@pytest.mark.parametrize(
    ("name", "architecture", "folder"),
    [(row.name, arch, row.folders[0]) for row in VERSIONS for arch in row.architectures],
)
def test_every_version_and_architecture_has_its_drivers(
    whole: Path, name: str, architecture: str, folder: str
) -> None:
    choice = drivers.choose(whole, name, architecture)
    assert (choice.folder, choice.architecture) == (folder, architecture)
    assert choice.drivers() == ALL
    inside = driverset.program("viostor.sys", f"{folder}/{architecture}", 4096)
    file = next(file for file in choice.files if file.path == "viostor/viostor.sys")
    assert file == DriverFile("viostor/viostor.sys", 4096, hashlib.sha256(inside).hexdigest())


def test_the_choice_has_what_the_inf_files_name_and_nothing_else(whole: Path) -> None:
    choice = drivers.choose(whole, "2022", "amd64")
    names = [file.path for file in choice.files]
    assert [name for name in names if name.startswith("NetKVM/")] == [
        "NetKVM/netkvm.inf",
        "NetKVM/netkvm.cat",
        "NetKVM/netkvm.sys",
        "NetKVM/netkvmco.exe",
    ]
    assert not any(name.endswith(".pdb") for name in names)
    assert choice.agent() == "guest-agent/qemu-ga-x86_64.msi"
    assert choice.versions["viostor"] == driverset.RELEASE


@pytest.mark.parametrize("layout", [by_driver, by_os, flat])
@pytest.mark.parametrize(("name", "architecture"), [("2022", "amd64"), ("10", "x86"), ("11", "ARM64")])
def test_every_layout(tmp_path: Path, layout: driverset.Layout, name: str, architecture: str) -> None:
    root = write_folder(tmp_path / "virtio-win-0.1.266", files(layouts=(layout,)))
    for path in (root, tmp_path):
        assert drivers.choose(path, name, architecture).drivers() == ALL


def test_names_in_capitals(tmp_path: Path) -> None:
    content = {path.upper(): data for path, data in files(["w10"]).items()}
    choice = drivers.choose(write_folder(tmp_path, content), "10", "amd64")
    assert choice.drivers() == ALL


@pytest.mark.parametrize(
    ("rock_ridge", "joliet"), [(True, True), (False, True), (True, False), (False, False)]
)
def test_an_iso_gives_the_same_as_a_folder(tmp_path: Path, rock_ridge: bool, joliet: bool) -> None:
    content = files(["2k22"], (by_driver, flat))
    iso = write_iso(tmp_path / "set.iso", content, rock_ridge=rock_ridge, joliet=joliet)
    folder = write_folder(tmp_path / "folder", content)
    one, two = drivers.choose(iso, "2022", "amd64"), drivers.choose(folder, "2022", "amd64")
    hashes = [sorted((file.path.lower(), file.sha256) for file in choice.files) for choice in (one, two)]
    assert hashes[0] == hashes[1] and one.drivers() == ALL
    assert one.sha256 == hashlib.sha256(iso.read_bytes()).hexdigest()


def test_utf16(tmp_path: Path) -> None:
    root = write_folder(tmp_path, files(["w11"], utf16=True))
    assert drivers.choose(root, "11", "amd64").drivers() == ALL


def test_a_set_without_this_build_is_refused_with_what_it_has(tmp_path: Path) -> None:
    root = write_folder(tmp_path, files(["2k19", "w10"]))
    with pytest.raises(Refused) as caught:
        drivers.choose(root, "2022", "amd64")
    assert caught.value.code == "drivers_missing"
    assert "viostor/2k22/amd64/viostor.inf" in caught.value.message
    assert "viostor/2k19/amd64" in caught.value.message and "viostor/w10/x86" in caught.value.message


def test_windows_7_is_told_the_last_release_that_has_it(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"0\.1\.173-9"):
        drivers.choose(write_folder(tmp_path, files(["2k22"])), "7", "x86")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"has no viostor\.inf"):
        drivers.choose(tmp_path, "2022", "amd64")


def test_an_architecture_that_the_version_never_had(whole: Path) -> None:
    with pytest.raises(Refused, match="Windows Server 2022 for ARM64 is not supported"):
        drivers.choose(whole, "2022", "ARM64")


def test_an_architecture_that_the_set_lacks(tmp_path: Path) -> None:
    content = {path: data for path, data in files(["w10"]).items() if "/ARM64/" not in path}
    with pytest.raises(Refused, match="looked for viostor/w10/ARM64"):
        drivers.choose(write_folder(tmp_path, content), "10", "ARM64")


def test_optional_drivers_may_be_missing(tmp_path: Path) -> None:
    content = {
        path: data for path, data in files(["2k16"]).items() if not path.startswith(("Balloon", "guest-"))
    }
    choice = drivers.choose(write_folder(tmp_path, content), "2016", "amd64")
    assert "Balloon" not in choice.drivers() and choice.agent() == ""


@pytest.mark.parametrize("driver", ["viostor", "vioscsi", "NetKVM"])
def test_required_drivers_may_not(tmp_path: Path, driver: str) -> None:
    content = {path: data for path, data in files(["2k16"]).items() if not path.startswith(driver)}
    with pytest.raises(Refused, match=f"no driver {driver}"):
        drivers.choose(write_folder(tmp_path, content), "2016", "amd64")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace("DEV_1042", "DEV_1099"), "does not know the device"),
        (lambda text: text.replace("AddService = viostor", "AddService = other"), "no service viostor"),
        (lambda text: text[:200], "damaged"),
        (lambda text: text.replace("viostor.sys = 1", "gone.sys = 1"), "not complete: .* has no gone.sys"),
    ],
)
def test_a_damaged_required_driver_is_refused(tmp_path: Path, change: object, why: str) -> None:
    content = files(["2k22"])
    path = "viostor/2k22/amd64/viostor.inf"
    content[path] = change(content[path].decode()).encode()  # type: ignore[operator]
    with pytest.raises(Refused, match=why) as caught:
        drivers.choose(write_folder(tmp_path, content), "2022", "amd64")
    assert caught.value.code == "drivers_damaged"


def test_two_releases_below_one_folder_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "old", files(["2k22"], release="100.85.104.20000"))
    write_folder(tmp_path / "new", files(["2k22"]))
    with pytest.raises(Refused, match="several drivers") as caught:
        drivers.choose(tmp_path, "2022", "amd64")
    assert caught.value.code == "drivers_ambiguous"


def test_signatures_that_windows_7_may_not_trust_are_said(tmp_path: Path) -> None:
    new = write_folder(tmp_path / "new", files(["w7"]))
    old = write_folder(tmp_path / "old", files(["w7"], release="61.77.104.17300"))
    assert "KB4474419" in drivers.choose(new, "7", "amd64").warnings[0]
    assert drivers.choose(old, "7", "amd64").warnings == ()


# ---------------------------------------------------------------- hostile sets


def test_symlinks_are_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", files(["2k22"]))
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (root / "viostor/2k22/amd64/viostor.sys").unlink()
    (root / "viostor/2k22/amd64/viostor.sys").symlink_to(secret)
    (root / "loop").symlink_to(root)
    with pytest.raises(Refused, match=r"has no viostor\.sys"):
        drivers.choose(root, "2022", "amd64")


def test_a_file_that_became_a_symlink_is_not_followed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", files(["2k22"]))
    with drivers.opened(root) as one:
        path = "viostor/2k22/amd64/viostor.sys"
        (root / path).unlink()
        (root / path).symlink_to("/etc/passwd")
        with pytest.raises(Refused) as caught:
            one.read(path, 1 << 20)
    assert caught.value.code == "drivers_source"


def test_a_folder_too_deep(tmp_path: Path) -> None:
    (tmp_path / "/".join("x" * (drivers.DEPTH + 2))).mkdir(parents=True)
    with pytest.raises(Refused, match="no driver set has"):
        drivers.choose(tmp_path, "2022", "amd64")


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "FILES", 20)
    with pytest.raises(Refused, match="more than 20 files"):
        drivers.choose(write_folder(tmp_path / "set", files(["2k22"])), "2022", "amd64")
    with pytest.raises(Refused, match="more than 20 files"):
        drivers.choose(write_iso(tmp_path / "set.iso", files(["2k22"])), "2022", "amd64")


def test_a_file_too_large(tmp_path: Path) -> None:
    root = write_folder(tmp_path, files(["2k22"]))
    with (root / "viostor/2k22/amd64/viostor.sys").open("r+b") as file:
        file.truncate(guest_drivers.FILE_LIMIT + 1)
    with pytest.raises(Refused, match="too large"):
        drivers.choose(root, "2022", "amd64")


@pytest.mark.parametrize("content", [b"", b"no ISO" * 10_000, b"\0" * 70_000])
def test_no_iso(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "set.iso"
    path.write_bytes(content)
    with pytest.raises(Refused, match="bsdtar") as caught:
        drivers.choose(path, "2022", "amd64")
    assert caught.value.code == "drivers_source"


def test_an_iso_whose_download_was_cut(tmp_path: Path) -> None:
    content = {path: data for path, data in files(["2k22"]).items() if not path.endswith(".pdb")}
    path = write_iso(tmp_path / "set.iso", content)
    whole = path.read_bytes()
    last = max(
        whole.find(data) for name, data in content.items() if name.endswith(("r.sys", "i.sys", "m.sys"))
    )
    path.write_bytes(whole[: last + 100])
    with pytest.raises(Refused, match=r"cut off.*compare its checksum") as caught:
        drivers.choose(path, "2022", "amd64")
    assert caught.value.code == "drivers_source"


@pytest.mark.parametrize(("rock_ridge", "joliet"), [(True, True), (False, True), (False, False)])
def test_an_iso_with_any_bytes_changed_is_read_or_refused(
    tmp_path: Path, rock_ridge: bool, joliet: bool
) -> None:
    whole = write_iso(tmp_path / "whole.iso", files(["2k22"], size=200), rock_ridge=rock_ridge, joliet=joliet)
    content, path = whole.read_bytes(), tmp_path / "changed.iso"
    for seed in range(30):
        chosen = random.Random(seed)
        changed = bytearray(content)
        for _ in range(chosen.choice((1, 4, 30))):
            # The descriptors and folders: from sector 16 on.
            changed[chosen.randrange(16 * 2048, 60 * 2048)] = chosen.choice(
                (0, 1, 255, chosen.randrange(256))
            )
        path.write_bytes(changed)
        with contextlib.suppress(Refused):
            drivers.choose(path, "2022", "amd64")


def test_no_set_at_all(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="download virtio-win"):
        drivers.choose(tmp_path / "none.iso", "2022", "amd64")


# ---------------------------------------------------------------- extracting and loading


def _extracted(whole: Path, tmp_path: Path) -> tuple[DriverChoice, Path]:
    choice = drivers.choose(whole, "2022", "amd64")
    drivers.extract(whole, choice, "2022", tmp_path / "out")
    return choice, tmp_path / "out"


def test_what_is_extracted_loads(whole: Path, tmp_path: Path) -> None:
    choice, out = _extracted(whole, tmp_path)
    loaded = guest_drivers.load(choice, out, row_of("2022"))
    assert tuple(package.name for package in loaded.packages) == ALL
    assert set(loaded.package("viostor").files) == {"viostor.inf", "viostor.cat", "viostor.sys"}
    assert set(loaded.files) == {file.path for file in choice.files}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(loaded.files)


def test_a_set_that_changed_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", files(["2k22"]))
    choice = drivers.choose(root, "2022", "amd64")
    (root / "viostor/2k22/amd64/viostor.sys").write_bytes(b"other")
    with pytest.raises(Refused) as caught:
        drivers.extract(root, choice, "2022", tmp_path / "out")
    assert caught.value.code == "drivers_changed" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["other", "longer", "missing", "symlink", "fifo"])
def test_every_file_is_proven(whole: Path, tmp_path: Path, damage: str) -> None:
    choice, out = _extracted(whole, tmp_path)
    path = out / "vioscsi/vioscsi.sys"
    content = path.read_bytes()
    path.unlink()
    if damage == "other":
        path.write_bytes(b"X" + content[1:])
    elif damage == "longer":
        path.write_bytes(content + b"x")
    elif damage == "symlink":
        (tmp_path / "same").write_bytes(content)
        path.symlink_to(tmp_path / "same")
    elif damage == "fifo":
        os.mkfifo(path)
    with pytest.raises(Refused) as caught:
        guest_drivers.load(choice, out, row_of("2022"))
    assert caught.value.code == "drivers_changed"


def test_a_program_for_another_processor_is_refused(tmp_path: Path) -> None:
    content = files(["w10"])
    content["vioscsi/w10/amd64/vioscsi.sys"] = content["vioscsi/w10/x86/vioscsi.sys"]
    root = write_folder(tmp_path / "set", content)
    choice = drivers.choose(root, "10", "amd64")
    drivers.extract(root, choice, "10", tmp_path / "out")
    with pytest.raises(Refused, match=r"vioscsi/vioscsi\.sys is not one for amd64") as caught:
        guest_drivers.load(choice, tmp_path / "out", row_of("10"))
    assert caught.value.code == "drivers_damaged"


def test_drivers_for_another_windows_are_refused(whole: Path, tmp_path: Path) -> None:
    choice, out = _extracted(whole, tmp_path)
    with pytest.raises(Refused, match="but the guest is Windows Server 2019"):
        guest_drivers.load(choice, out, row_of("2019"))


@pytest.mark.parametrize(
    "path", ["../evil/x.sys", "viostor/../../x", "/etc/passwd", "viostor/a/b.sys", "viostor"]
)
def test_a_choice_cannot_lead_out_of_its_folder(whole: Path, tmp_path: Path, path: str) -> None:
    choice, out = _extracted(whole, tmp_path)
    planted = dataclasses.replace(choice, files=(*choice.files, DriverFile(path, 1, "0" * 64)))
    with pytest.raises(Refused, match="no plain name"):
        guest_drivers.load(planted, out, row_of("2022"))


def test_a_choice_without_a_required_driver_is_refused(whole: Path, tmp_path: Path) -> None:
    choice, out = _extracted(whole, tmp_path)
    fewer = tuple(file for file in choice.files if not file.path.startswith("NetKVM"))
    with pytest.raises(Refused, match="no driver NetKVM"):
        guest_drivers.load(dataclasses.replace(choice, files=fewer), out, row_of("2022"))
