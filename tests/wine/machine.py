"""A Wine prefix as a small Windows: it boots, starts its services, and its power can be cut."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from refloat.guest.firstboot.windows import staging
from refloat.guest.firstboot.windows.plan import pairs
from tests.wine.standin import program

WINE = Path("/usr/lib/wine/wine64")
SERVER = Path("/usr/lib/wine/wineserver64")
SECRETS = {"TOKEN": "token-1", "NONCE": "nonce-1"}
JOB = "job-1"
POWERSHELL = "C:\\powershell.exe"
SERIAL = "C:\\serial.txt"
SETTINGS = staging.Launcher(
    600, powershell=POWERSHELL, ports="\\\\.\\", tick=1, pause=0, restart_wait=1, repeats=1, repeat_wait=0
)


def available() -> bool:
    return WINE.exists() and SERVER.exists()


@dataclass
class Machine:
    """One prefix. `settings` are those of the launcher that `stage` puts in."""

    prefix: Path

    @property
    def drive(self) -> Path:
        return self.prefix / "drive_c"

    @property
    def folder(self) -> Path:
        return self.drive / "windows" / "Refloat"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    # ------------------------------------------------------------ making

    def install(self) -> None:
        """Some seconds: Wine makes its system folder."""
        self.prefix.mkdir(parents=True)
        self.run("wineboot", "-i", seconds=100)
        # On a busy machine Wine kills a server that does not end soon enough: that one writes nothing.
        for _ in range(5):
            self._register()
            self.power_off()
            if "Services\\\\Refloat]" in (self.prefix / "system.reg").read_text(errors="replace"):
                break
        else:
            raise AssertionError("the registry was not written in five attempts")
        for name in ("system.reg", "user.reg"):
            shutil.copy(self.prefix / name, self.prefix / f"{name}.new-machine")

    def stage(self, standin: Sequence[str], settings: staging.Launcher = SETTINGS) -> None:
        """A machine as the adaptation leaves it, but that `standin` (lines of a .cmd) is its PowerShell."""
        self.power_cut()
        for name in ("system.reg", "user.reg"):
            shutil.copy(self.prefix / f"{name}.new-machine", self.prefix / name)
        shutil.rmtree(self.folder, ignore_errors=True)
        for old in self.drive.glob("*.*"):
            old.unlink()
        (self.folder / "drivers" / "viostor").mkdir(parents=True)
        (self.folder / "drivers" / "viostor" / "viostor.inf").write_bytes(b"[Version]\r\n")
        plan = {"FORMAT": "1", "JOB": JOB, "CRASH_REBOOT": "1", "SAN_POLICY": "-"}
        files = {
            "firstboot.cmd": staging.launcher(settings),
            "firstboot.ps1": staging.script(),
            "plan.txt": pairs(plan),
            "secrets.txt": pairs(SECRETS),
            "delivery.txt": pairs({"CHANNEL": "", "SERIAL": SERIAL, "CALLBACK": ""}),
            "status.txt": pairs({"STATUS": "scheduled"}),
        }
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        (self.drive / "powershell.exe").write_bytes(program())
        head = ("@echo off", "set S=C:\\windows\\Refloat\\state\\", *standin)
        (self.drive / "standin.cmd").write_bytes("".join(f"{line}\r\n" for line in head).encode())

    def _register(self) -> None:
        """The service and what the adaptation changes for the time of the first boots, by reg import."""
        control = "HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet"
        version = "HKEY_LOCAL_MACHINE\\SOFTWARE\\Microsoft\\Windows\\CurrentVersion"
        lines = ["Windows Registry Editor Version 5.00"]
        for row in staging.service():
            lines += ["", f"[{control}\\Services\\{row.key}]", f'"{row.name}"={row.value.text}']
        lines += ["", f"[{control}\\Control\\CrashControl]", '"AutoReboot"=dword:00000000']
        lines += ["", f"[{control}\\Services\\partmgr\\Parameters]", '"SanPolicy"=dword:00000001']
        path = "%SystemRoot%\\inf;%SystemRoot%\\Refloat\\drivers".encode("utf-16-le") + b"\0\0"
        lines += ["", f"[{version}]", f'"DevicePath"=hex(2):{path.hex(",")}', ""]
        file = self.drive / "service.reg"
        file.write_bytes("\r\n".join(lines).encode("utf-16"))
        said = self.run("reg", "import", "C:\\service.reg")
        assert self.has_service(), f"the service was not registered: {said}"

    # ------------------------------------------------------------ running

    def boot(self) -> None:
        """Returns when Wine's services.exe has been started; it starts the service of the launcher."""
        self.run("cmd", "/d", "/c", "rem")

    def start_again(self) -> None:
        """The launcher once more beside the one that runs."""
        self.run("cmd", "/d", "/c", "C:\\windows\\Refloat\\firstboot.cmd")

    def run(self, *words: str, seconds: float = 90) -> str:
        """What the program writes. A file, no pipe: the services that it starts keep it open."""
        with tempfile.TemporaryFile() as output:
            subprocess.run(
                [str(WINE), *words],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
            output.seek(0)
            return output.read().decode(errors="replace")

    def until(self, holds: Callable[[], bool], seconds: float = 100) -> None:
        """Waits for an event inside; fails with what the launcher wrote and what is there."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"not within {seconds} s\n{self._account()}"
            time.sleep(0.02)

    def _account(self) -> str:
        there = sorted(str(path.relative_to(self.drive)) for path in self.folder.rglob("*"))
        running = f"processes: {len(self._processes())}, service: {self.has_service()}"
        return f"{self.log()}\n{running}, files: {there}"

    def power_cut(self) -> None:
        """Every process of the machine ends at once; what they have written is there."""
        end = time.monotonic() + 20
        while running := self._processes():
            assert time.monotonic() < end, f"these processes do not end: {running}"
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)

    def power_off(self) -> None:
        """As Windows does it: the registry is written."""
        subprocess.run([str(SERVER), "-k"], env=self._environment(), check=False, timeout=60)
        subprocess.run([str(SERVER), "-w"], env=self._environment(), check=False, timeout=60)
        self.power_cut()

    def _processes(self) -> list[int]:
        """Those of this prefix, the server among them: Wine's own way leaves services behind."""
        mark = f"WINEPREFIX={self.prefix}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            # It may just have ended; what was killed but not yet reaped has no environment.
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    # ------------------------------------------------------------ looking

    def number(self, name: str) -> int:
        """A counter of the launcher; 0 where there is none, also while it is replaced."""
        try:
            return int((self.state / name).read_text() or "0")
        except (OSError, ValueError):
            return 0

    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def registry(self, key: str, name: str) -> str:
        """A value as reg.exe shows it; empty where it is not there."""
        lines = self.run("reg", "query", key, "/v", name).splitlines()
        return next((line.split(None, 2)[2] for line in lines if line.strip().startswith(name)), "")

    def has_service(self) -> bool:
        return "Refloat" in self.run("reg", "query", "HKLM\\SYSTEM\\CurrentControlSet\\Services\\Refloat")

    def removed(self) -> bool:
        return not (self.folder / "firstboot.cmd").exists()

    def left(self) -> list[str]:
        """Of what was staged or made; logs apart."""
        return sorted(path.name for path in self.folder.iterdir() if path.suffix != ".log")

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | {
            "WINEPREFIX": str(self.prefix),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            # No offers to install what is not needed here.
            "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe=",
        }
