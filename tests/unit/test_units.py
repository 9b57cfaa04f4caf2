"""The systemd units: systemd itself reads them, and the commands in them are Refloat's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from refloat.cli.main import app

UNITS = Path(__file__).parents[2] / "systemd"
INSTALLED = "/opt/refloat/.venv/bin/refloat"
MOST_EXPOSED = "30"  # of 100: what `systemd-analyze security` calls OK

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    argv = ["systemd-analyze", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace(INSTALLED, sys.executable))
    for unit in sorted(tmp_path.iterdir()):
        done = analyze("verify", "--man=no", str(unit))
        assert done.returncode == 0 and tmp_path.name not in done.stderr, done.stderr
    wrong = tmp_path / "wrong.service"
    wrong.write_text((UNITS / "refloat.service").read_text() + "ProtectEverything=yes\n")
    assert "wrong.service" in analyze("verify", "--man=no", str(wrong)).stderr


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.name)
def test_how_much_a_service_may(unit: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(unit))
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.name)
def test_the_commands_are_refloats(unit: Path) -> None:
    found = re.search(rf"{INSTALLED} (\w+)((?: --\w+)*)", unit.read_text())
    assert found
    shown = CliRunner().invoke(app, [found[1], "--help"])
    assert shown.exit_code == 0 and all(option in shown.stdout for option in found[2].split())
