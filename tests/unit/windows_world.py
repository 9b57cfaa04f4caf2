"""A Windows guest in the world in memory: its facts, its drivers, and one that says what it is told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from refloat.model import (
    Firmware,
    GuestFacts,
    NicConfig,
    NicMethod,
    Remediation,
    Secrets,
    WindowsAdapter,
)
from refloat.policy import Policy, WindowsPolicy
from tests.unit.builders import MAC, replace
from tests.unit.fakes import World
from tests.windows import driverset, small

NIC = NicConfig(
    "Ethernet0", NicMethod.STATIC, ("10.20.30.40/24", "10.20.30.41/24"), "10.20.30.2", ("10.20.30.3",)
)
STAGES = ("ready", "drivers", "disks", "agent", "stale", "network", "verify")
REQUIRED = ("drivers", "disks", "network", "verify")


def windows_facts(**changes: Any) -> GuestFacts:
    """A Server 2022; `changes` are of its WindowsFacts."""
    facts = small.facts("2022", "amd64", Firmware.BIOS)
    assert facts.windows is not None
    adapter = WindowsAdapter("{00000000-0000-0000-0000-000000000001}", NIC.name, mac=MAC)
    windows = replace(facts.windows, adapters=(adapter,), **changes)
    return replace(facts, nics=(replace(NIC, mac=MAC),), windows=windows)


def with_windows(world: World, deadline: int = 20, **changes: Any) -> World:
    """The world's guest is a Windows now, and the operator has drivers for it."""
    world.controller.facts = windows_facts(**changes)
    world.drivers = driverset.write_folder(world.directory / "virtio-win", driverset.files(["2k22"]))
    world.policy = Policy(windows=WindowsPolicy(report_deadline=deadline))
    return world


class SimulatedGuest:
    """Writes reports as the staged script does, one for each row, numbered over all its boots.

    A row: (status, boot, restarts asked for, stages done). `states` overrides the state of stages.
    """

    def __init__(
        self,
        world: World | None,
        job: str,
        *rows: tuple[Remediation, int, int, int],
        mac: str = MAC,
        disk: str = "rf-sda",
        config: NicConfig = NIC,
        secrets: dict[str, str] | None = None,
    ) -> None:
        self._world, self._job, self._rows = world, job, list(rows)
        self._mac, self._disk, self._config = mac, disk, config
        self._given = secrets
        self._states: dict[str, str] = {}

    def stage_is(self, name: str, state: str) -> SimulatedGuest:
        self._states[name] = state
        return self

    def speak(self) -> list[bytes]:
        """What comes over a channel that is opened now, read by read."""
        rows, self._rows = self._rows, []
        return [part for number, row in enumerate(rows, 1) for part in (b"\n", self._line(number, row))]

    def speak_on_serial(self) -> list[bytes]:
        """The same where other things speak, too."""
        return [b"SeaBIOS (version 1.16.2)\r\n\x1b[2J", *(b"\0" + part for part in self.speak())]

    def _line(self, number: int, row: tuple[Remediation, int, int, int]) -> bytes:
        status, boot, reboots, done = row
        addresses = list(self._config.addresses)
        secrets = self._given or self._known_to_the_hub()
        data = {
            "v": 1,
            "token": secrets["TOKEN"],
            "nonce": secrets["NONCE"],
            "job": self._job,
            "seq": boot * 1000 + number,
            "stage": STAGES[min(done, len(STAGES) - 1)],
            "status": status,
            "reboots": reboots,
            "stages": self._stages(done),
            "boot_id": f"boot-{boot}-20260131120001",
            "uptime": 61,
            "root_device": "C:",
            "kernel": "10.0.20348",
            "mounts": [{"mountpoint": "C:", "mounted": True, "device": self._disk}],
            "nics": [{"mac": self._mac.upper(), "name": "Ethernet", "up": True, "addresses": addresses}],
            "gateway": self._config.gateway,
            "gateway_answers": True,
            "dns": list(self._config.dns),
            "drivers": ["viostor", "netkvm"],
            "problems": [],
            "cleaned": status not in (Remediation.RUNNING, Remediation.AWAITING_REBOOT),
        }
        return json.dumps(data).encode() + b"\r\n"

    def _known_to_the_hub(self) -> dict[str, str]:
        """Where no disk holds them. Asked when the guest speaks: a job makes them in preflight."""
        assert self._world is not None, "the secrets are to be given, or to be found in a world"
        found = self._world.store.load(self._job, "secrets", Secrets)
        assert found is not None
        return {"TOKEN": found.token, "NONCE": found.nonce}

    def _stages(self, done: int) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "state": self._states.get(name, "done" if number < done else "pending"),
                "required": name in REQUIRED,
                "attempts": 1,
                "text": "",
            }
            for number, name in enumerate(STAGES)
        ]


def set_of(directory: Path, *folders: str) -> Path:
    """A driver set for other versions of Windows only."""
    return driverset.write_folder(directory / "others", driverset.files(list(folders)))
