"""Windows guests where no kernel of this machine is trusted, and where no firmware knows them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refloat.command import run
from refloat.guest.tree import NTFS_ACL
from tests.windows import disks, driverset, efi
from tests.windows.disks import GUESTS
from tests.windows.host import MtoolsHost

FIRMWARE = Path("/usr/share/OVMF")
UEFI = next(one for one in GUESTS if one.name == "2022-uefi")
LOADER = "this is the boot manager, started as the fallback loader"

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(disks.can_be_made()), reason=disks.can_be_made() or "-"),
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return disks.make(UEFI, tmp_path / "disk.raw", efi.program(LOADER))


@pytest.fixture
def driver_set(tmp_path: Path) -> Path:
    return driverset.write_folder(tmp_path / "drivers", driverset.files(["2k22"]))


def refloat(*words: object) -> Any:
    from refloat.cli.main import app

    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def boots(image: Path, folder: Path) -> str:
    """What a machine says on its serial port until it ends itself, as the loader has it do.

    Its NVRAM is blank: the firmware knows nothing but what is on the disk. Without a loader it waits for
    ever, and this fails.
    """
    nvram = shutil.copy(FIRMWARE / "OVMF_VARS_4M.fd", folder / "nvram.fd")
    code = FIRMWARE / "OVMF_CODE_4M.fd"
    argv = ["qemu-system-x86_64", "-M", "q35,accel=tcg", "-m", "256", "-display", "none", "-nodefaults"]
    argv += ["-serial", "stdio", "-device", f"isa-debug-exit,iobase={efi.EXIT_PORT:#x},iosize=4"]
    argv += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"]
    argv += ["-drive", f"if=pflash,format=raw,unit=1,file={nvram}"]
    argv += ["-drive", f"file={image},format=raw,if=none,id=disk,snapshot=on", "-device", "ide-hd,drive=disk"]
    return run(argv, timeout=90, check=False).stdout.decode(errors="replace")


@pytest.mark.skipif(not (FIRMWARE / "OVMF_CODE_4M.fd").exists(), reason="needs OVMF")
def test_firmware_with_blank_nvram_starts_the_loader_that_was_placed(
    image: Path, driver_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refloat.guest.host.KERNEL", MtoolsHost())
    words = ("--drivers", driver_set, "--evidence", tmp_path / "evidence")
    refloat("guest", "adapt", "--trusted", *words, image)
    assert LOADER in boots(image, tmp_path)


@pytest.mark.timeout(900)
@pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="starts five appliances: with --all only")
@pytest.mark.skipif(importlib.util.find_spec("guestfs") is None, reason="needs python3-guestfs")
def test_the_appliance_adapts_and_undoes(image: Path, driver_set: Path, tmp_path: Path) -> None:
    before = contents(image)
    evidence = tmp_path / "evidence"
    done = refloat("guest", "adapt", "--drivers", driver_set, "--evidence", evidence, image)
    made = {change["path"] for change in done["changes"]}
    assert {"/C/Windows/Refloat/firstboot.cmd", "/ESP/EFI/Boot/bootx64.efi"} <= made
    assert contents(image) != before
    refloat("guest", "undo", "--evidence", evidence, image)
    assert contents(image) == before


def contents(image: Path) -> dict[str, tuple[bytes, bytes]]:
    """The files of Windows' own volume, with their protection, by this machine's ntfs-3g."""
    with disks.mounted(image, *disks.place_of(UEFI, UEFI.system), "ro") as root:
        return {
            str(path.relative_to(root)): (
                path.read_bytes() if path.is_file() else b"",
                os.getxattr(path, NTFS_ACL),
            )
            for path in sorted(root.rglob("*"))
        }
