"""The lab's hub: `refloat serve` as a process of its own, found again by its pid file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from refloat.errors import Failed
from refloat.lab.layout import Lab

START_WITHIN = 60.0  # seconds
STOP_WITHIN = 30.0


def start_hub(lab: Lab, extra_environment: dict[str, str] | None = None) -> int:
    """Starts the hub where it does not run, and waits until it answers; returns its pid."""
    running = hub_pid(lab)
    if running is not None:
        return running
    with lab.hub_log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "refloat", "serve", "--config", str(lab.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(extra_environment or {})},
        )
    lab.hub_pid.write_text(f"{process.pid} {_start_time(process.pid)}\n")
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(
                f"the hub ended: {_last_line(lab.hub_log)}", code="hub_ended", hint=f"see {lab.hub_log}"
            )
        try:
            httpx.get(f"http://{lab.listen}/api/v1/health", timeout=2).raise_for_status()
            return process.pid
        except httpx.HTTPError:
            time.sleep(0.1)
    raise Failed(
        f"the hub did not answer within {START_WITHIN:.0f} s", code="hub_silent", hint=f"see {lab.hub_log}"
    )


def hub_pid(lab: Lab) -> int | None:
    """The running hub's pid: the recorded process, not one that got its number later."""
    try:
        pid, started = lab.hub_pid.read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) == started else None


def stop_hub(lab: Lab) -> None:
    pid = hub_pid(lab)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_WITHIN
        while hub_pid(lab) is not None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    lab.hub_pid.unlink(missing_ok=True)


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat; empty for a process that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a message"
