"""libvirt's daemon, killed and started again: by systemd where that runs it, by hand elsewhere. For tests
that have the machine to themselves: whatever else talks to libvirt loses its connection."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import libvirt

from refloat.command import run

_PID = Path("/run/libvirtd.pid")
_SOCKETS = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket")
_WITHIN = 60.0  # seconds
_URI = "qemu:///system"


def kill() -> None:
    """With SIGKILL, and nothing starts it again until `start` is called."""
    if _by_systemd():
        run(["systemctl", "stop", *_SOCKETS])
        run(["systemctl", "mask", "--runtime", "libvirtd.service"])
    pid = int(_PID.read_text())
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _WITHIN
    while _lives(pid):
        assert time.monotonic() < deadline, "libvirtd does not die"
        time.sleep(0.05)


def start() -> None:
    """Returns when it answers; does nothing where it does so already."""
    if _by_systemd():
        run(["systemctl", "unmask", "--runtime", "libvirtd.service"])
        run(["systemctl", "start", "libvirtd.service", *_SOCKETS])
    elif not _answers():
        run(["libvirtd", "-d"])
    deadline = time.monotonic() + _WITHIN
    while not _answers():
        assert time.monotonic() < deadline, "libvirtd does not come back"
        time.sleep(0.1)


def restart() -> None:
    kill()
    start()


def _by_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _answers() -> bool:
    try:
        libvirt.open(_URI).close()
    except libvirt.libvirtError:
        return False
    return True
