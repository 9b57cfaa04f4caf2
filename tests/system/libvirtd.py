"""A libvirtd of the tests' own, beside the machine's: to be killed and started again while nobody else talks
to it. It has the machine's files and network, but everything of libvirt's in a directory of its own, which a
mount namespace puts where libvirtd looks for it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import libvirt

from refloat.command import run

_WITHIN = 60.0  # seconds
_PLACES = {"run": "/run/libvirt", "lib": "/var/lib/libvirt", "etc": "/etc/libvirt", "log": "/var/log/libvirt"}
# Words: the directory, then libvirtd's command line.
_INSIDE = "\n".join(
    ("set -eu", *(f'mount --bind "$0/{own}" {place}' for own, place in _PLACES.items()), 'exec "$@"')
)
_QEMU = 'stdio_handler = "file"\n'  # else it would need a virtlogd, too


class Libvirtd:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.uri = f"qemu+unix:///system?socket={directory}/run/libvirt-sock"

    @property
    def _pid(self) -> Path:
        return self.directory / "libvirtd.pid"

    def start(self) -> None:
        """Returns when it answers; does nothing where it does so already."""
        if self._answers():
            return
        for own, place in _PLACES.items():
            (self.directory / own).mkdir(parents=True, exist_ok=True)
            Path(place).mkdir(parents=True, exist_ok=True)
        (self.directory / "etc" / "qemu.conf").write_text(_QEMU)
        daemon = ["libvirtd", "--daemon", "--pid-file", str(self._pid)]
        run(["unshare", "--mount", "sh", "-c", _INSIDE, str(self.directory), *daemon])
        deadline = time.monotonic() + _WITHIN
        while not self._answers():
            assert time.monotonic() < deadline, "libvirtd does not come up"
            time.sleep(0.1)

    def kill(self) -> None:
        """With SIGKILL; nothing starts it again until `start` is called. Its VMs go on."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.kill()
        self.start()

    def remove(self) -> None:
        """Once it has no VM any more."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self.directory)

    def _end(self, how: signal.Signals) -> None:
        pid = int(self._pid.read_text())
        os.kill(pid, how)
        deadline = time.monotonic() + _WITHIN
        while _lives(pid):
            assert time.monotonic() < deadline, "libvirtd does not end"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            libvirt.open(self.uri).close()
        except libvirt.libvirtError:
            return False
        return True


def processes(vm: str) -> list[int]:
    """Every QEMU that runs this VM, by what libvirt calls it on the command line."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = one.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(b"guest=%b," % vm.encode()) for word in words):
            found.append(int(one.parent.name))
    return found


def kill_vm(vm: str) -> None:
    """Kill -9 of the VM's QEMU."""
    (pid,) = processes(vm)
    os.kill(pid, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
