"""Waiting for the lab's parts, always with a deadline."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx

from refloat.destinations.base import Destination
from refloat.errors import Failed
from refloat.lab.layout import Lab

BOOT_WITHIN = 300.0  # seconds; about 60 under emulation with both cores free
SYNC_WITHIN = 900.0


def wait_for_banner(destination: Destination, vm: str, address: str, within: float = BOOT_WITHIN) -> None:
    """Waits until sshd behind this address says its first words: the guest is up and holds the address."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(destination.reach(vm, address, 22), timeout=5) as connection,
        ):
            if connection.recv(4) == b"SSH-":
                return
        time.sleep(0.5)
    raise Failed(
        f"{vm} did not answer at {address}:22 within {within:.0f} s",
        code="vm_silent",
        hint="look at its console: `virsh screenshot` or `virsh console`",
    )


def api(lab: Lab) -> httpx.Client:
    """A client of the lab's hub."""
    token = (lab.hub_data / "api-token").read_text().strip()
    return httpx.Client(
        base_url=f"http://{lab.listen}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=30
    )


def wait_for_sync(lab: Lab, target: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Asks for syncs until one is complete; returns the target's status."""
    deadline = time.monotonic() + SYNC_WITHIN
    with api(lab) as client:
        status: dict[str, Any] = client.get(f"/targets/{target}").raise_for_status().json()
        if not status["sync_point"] and not status["holder"]:
            client.post(f"/targets/{target}/sync").raise_for_status()
        while time.monotonic() < deadline:
            status = client.get(f"/targets/{target}").raise_for_status().json()
            if status["sync_point"] and not status["holder"]:
                return status
            if not status["holder"]:
                raise Failed(
                    f"the first sync failed: {status['message']}",
                    code="sync_failed",
                    hint="see the hub's log",
                )
            time.sleep(0.5)
    raise Failed(f"no sync within {SYNC_WITHIN:.0f} s", code="sync_slow", hint=f"see {lab.hub_log}")
