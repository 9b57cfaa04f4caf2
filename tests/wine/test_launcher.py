"""The launcher and its service, run for real by Wine's cmd.exe and services.exe over several boots.

powershell.exe is a program that runs a .cmd of the test: no PowerShell runs here. Needs Debian's wine64.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from refloat.model import Secrets
from refloat.reports import Lines, parse_report
from tests.wine.machine import JOB, SECRETS, SETTINGS, Machine, available

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("wine"),  # the prefix takes long to make: one for all
    pytest.mark.skipif(not available(), reason="needs the Debian package wine64: script/setup --dev"),
]

CONTROL = "HKLM\\SYSTEM\\CurrentControlSet"
BEGIN = ('>"%S%pid" echo %1', '>"%S%silent" echo 0')
FINISH = (
    '>"%S%final.clean" echo {"v":1}',
    '>"%S%final.left" echo {"v":2}',
    '>"%S%finished" echo succeeded',
    "cmd /d /c C:\\windows\\Refloat\\firstboot.cmd clean",
    ">C:\\clean.txt echo %ERRORLEVEL%",
    '>"%S%delivered" echo 1',
    '>"%S%next" echo done',
)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("wine") / "prefix")
    try:
        machine.install()
        yield machine
    finally:
        machine.power_cut()
        shutil.rmtree(machine.prefix)  # 700 MB


@pytest.fixture
def machine(prefix: Machine) -> Iterator[Machine]:
    yield prefix
    prefix.power_cut()


def _final(machine: Machine) -> dict[str, object]:
    """What went out on the serial line, read by the hub's own reader."""
    lines = list(Lines().feed((machine.drive / "serial.txt").read_bytes()))
    secrets = Secrets(SECRETS["TOKEN"], SECRETS["NONCE"])
    reports = [parse_report(line, JOB, secrets, None) for line in lines]
    assert reports[-1].stage == "final"
    found: dict[str, object] = json.loads(lines[-1])
    return found


def _failed(machine: Machine, reason: str) -> None:
    """The launcher's own end: reported, everything removed, log and status kept."""
    machine.until(machine.removed)
    report = _final(machine)
    assert report["status"] == "failed"
    assert [reason in text for text in report["problems"]] == [True]  # type: ignore[attr-defined]
    assert report["cleaned"] is True
    assert not machine.has_service()
    assert machine.registry("HKLM\\SOFTWARE\\Refloat", "Status") == "failed"
    assert "STATUS=failed" in (machine.folder / "status.txt").read_text()
    assert machine.left() == ["status.txt"]


def test_two_boots_then_it_removes_itself(machine: Machine) -> None:
    """Stage 1, restart, stage 2, removal; what was changed for the time of it is as before."""
    machine.stage(
        (
            *BEGIN,
            "if exist C:\\stage1.txt goto two",
            ">C:\\stage1.txt echo %*",
            '>"%S%next" echo restart',
            "exit /b 0",
            ":two",
            ">C:\\stage2.txt echo 2",
            *FINISH,
        ),
        replace(SETTINGS, restart_wait=60),
    )
    machine.boot()
    machine.until(lambda: machine.number("restarts") == 1)
    arguments = (machine.drive / "stage1.txt").read_text()
    assert "-NoProfile -NonInteractive -ExecutionPolicy Bypass -File" in arguments
    assert not (machine.drive / "stage2.txt").exists()
    machine.power_off()
    machine.boot()
    machine.until(machine.removed)
    assert (machine.drive / "clean.txt").read_text().strip() == "0"
    assert not machine.has_service()
    assert machine.registry(f"{CONTROL}\\Control\\CrashControl", "AutoReboot") == "0x1"
    assert machine.registry(f"{CONTROL}\\Services\\partmgr\\Parameters", "SanPolicy") == ""
    current = "HKLM\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion"
    # Wine expands what a variable expands to once more; Windows does not.
    assert machine.registry(current, "DevicePath").lower() in ("%systemroot%\\inf", "c:\\windows\\inf")
    assert machine.left() == ["status.txt"]
    assert "boot 2" in machine.log()


def test_a_script_that_always_dies_is_started_as_often_as_stages_allow(machine: Machine) -> None:
    machine.stage((*BEGIN, ">>C:\\count.txt echo 1", "exit /b 1"), replace(SETTINGS, runs=5))
    machine.boot()
    _failed(machine, "started 5 times without an end")
    assert len((machine.drive / "count.txt").read_text().split()) == 5


def test_a_powershell_that_does_nothing_is_given_three_chances(machine: Machine) -> None:
    machine.stage((">>C:\\count.txt echo %*", "exit /b 1"))
    machine.boot()
    _failed(machine, "began no stage in 3 starts")
    # Each time as a file, and then as a command.
    assert (machine.drive / "count.txt").read_text().count("-Command -") == 3


def test_without_powershell_it_says_so(machine: Machine) -> None:
    machine.stage(())
    (machine.drive / "powershell.exe").unlink()
    machine.boot()
    _failed(machine, "this Windows has no PowerShell")


def test_a_policy_against_scripts_is_answered_by_a_command(machine: Machine) -> None:
    """As a file nothing runs; the command comes by standard input, in one line."""
    machine.stage(('if "%7"=="-File" exit /b 1', "set /p X=", ">C:\\command.txt set X", *BEGIN, *FINISH))
    machine.boot()
    machine.until(machine.removed)
    command = (machine.drive / "command.txt").read_text().strip()
    assert command.startswith(
        'X=Invoke-Expression ((Get-Content -LiteralPath "$env:REFLOAT_DIR\\firstboot.ps1")'
    )


def test_restarts_are_capped(machine: Machine) -> None:
    """Windows does not restart here, the launcher goes on after its wait: the fourth wish is refused."""
    machine.stage((*BEGIN, '>"%S%next" echo restart'), replace(SETTINGS, restart_wait=0))
    machine.boot()
    _failed(machine, "asked for more than 3 restarts")


def test_a_hang_is_ended_and_counted(machine: Machine) -> None:
    hang = (*BEGIN, '>"%S%watch" echo 2 drivers 1', "ping -n 60 127.0.0.1 >nul")
    machine.stage(hang, replace(SETTINGS, runs=2))
    machine.boot()
    _failed(machine, "started 2 times without an end")
    assert machine.log().count("over its limit: 2 drivers 1") == 2


def test_a_second_start_finds_the_first(machine: Machine) -> None:
    machine.stage((*BEGIN, ":wait", "if not exist C:\\go.txt ping -n 2 127.0.0.1 >nul & goto wait", *FINISH))
    machine.boot()
    machine.until(lambda: machine.number("runs") == 1)
    machine.start_again()
    (machine.drive / "go.txt").touch()
    machine.until(machine.removed)
    assert machine.log().count("start 1 of the script") == 1
    assert "start 2" not in machine.log()
    assert machine.log().count("boot 1") == 1


def test_power_cuts_are_counted_over_boots(machine: Machine) -> None:
    machine.stage((*BEGIN, "ping -n 60 127.0.0.1 >nul"), replace(SETTINGS, runs=2))
    for number in (1, 2):
        machine.boot()
        machine.until(lambda number=number: machine.number("runs") == number)  # type: ignore[misc]
        machine.power_cut()
    machine.boot()
    _failed(machine, "started 2 times without an end")


def test_a_removal_that_was_interrupted_is_finished(machine: Machine) -> None:
    """The script came to its end and its last report is on the disk; then the power was cut."""
    machine.stage(())
    machine.state.mkdir()
    (machine.state / "finished").write_text("succeeded\r\n")
    secret = '"token":"token-1","nonce":"nonce-1","job":"job-1"'
    for name, flag in (("clean", "true"), ("left", "false")):
        line = f'\r\n{{"v":1,{secret},"seq":7,"stage":"final","uptime":1,"cleaned":{flag}}}\r\n'
        (machine.state / f"final.{name}").write_text(line, newline="")
    machine.boot()
    machine.until(machine.removed)
    assert _final(machine)["cleaned"] is True
    assert not machine.has_service()


def test_what_cannot_be_removed_is_said(machine: Machine) -> None:
    """A file of the drivers is in use; the script has left the removal to the launcher."""
    end = '"token":"token-1","nonce":"nonce-1","job":"job-1","seq":7,"stage":"final","uptime":1,"cleaned":'
    machine.stage(
        (
            *BEGIN,
            'start "" /b cmd /d /c "ping -n 60 127.0.0.1 >C:\\windows\\Refloat\\drivers\\held.txt"',
            ":wait",
            "if not exist C:\\windows\\Refloat\\drivers\\held.txt goto wait",
            f'>"%S%final.clean" echo {{"v":1,{end}true}}',
            f'>"%S%final.left" echo {{"v":1,{end}false}}',
            '>"%S%finished" echo succeeded',
            '>"%S%next" echo done',
        )
    )
    machine.boot()
    machine.until(machine.removed)
    assert _final(machine)["cleaned"] is False
    assert not machine.has_service()


def test_the_command_that_exchanges_a_report_is_one(machine: Machine) -> None:
    """As the script runs it. A file stands for the port: what is read back is what was written."""
    machine.stage(())
    machine.state.mkdir()
    (machine.folder / "delivery.txt").write_text("CHANNEL=C:\\port.txt\r\n", newline="")
    (machine.state / "outgoing").write_text("ack 7\r\n", newline="")
    folder = "C:\\windows\\Refloat\\"
    (machine.drive / "run.cmd").write_text(
        f'@cmd.exe /d /c ""{folder}firstboot.cmd" exchange "{folder}state\\outgoing""\r\n', newline=""
    )
    machine.run("cmd", "/d", "/c", "C:\\run.cmd")
    assert (machine.drive / "port.txt").read_text().strip() == "ack 7"
    assert (machine.state / "ack").read_text().strip() == "ANSWER=ack 7"


def test_a_damaged_count_ends_it(machine: Machine) -> None:
    """It must never begin to count anew."""
    machine.stage(BEGIN)
    machine.state.mkdir()
    (machine.state / "runs").write_bytes(b"\0\0\0")
    machine.boot()
    _failed(machine, "counters could not be read")
