"""What a simulated guest does: it boots from its first disk, and reports what its platform gave it.

On its disks lie two records, as a real guest's files would: its facts (what an inspection finds) and, once
it is adapted, its program (what the first boot works from). Both come and go with the disk's content: they
are replicated by syncs, and a rollback takes the program away again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from refloat.codec import DecodeError, decode, encode
from refloat.destinations.simulated import SimulatedDestination
from refloat.durable import write_durably
from refloat.errors import Failed
from refloat.model import GuestFacts, PlannedDisk, PlannedNic, PowerState, Secrets

FACTS_AT = 64 * 1024  # bytes from the start of the root disk
PROGRAM_AT = 256 * 1024
RECORD = 64 * 1024  # bytes that a record may have
_AGAIN = 0.5  # seconds after which a report that was not acknowledged is sent again
_MAGIC = b"REFLOAT-SIMULATED\n"

T = TypeVar("T")


@dataclass(frozen=True)
class Program:
    """What an adaptation leaves in the guest."""

    job: str
    secrets: Secrets
    disks: tuple[PlannedDisk, ...]
    nics: tuple[PlannedNic, ...]


@dataclass(frozen=True)
class Behaviour:
    """How a guest differs from one in which everything works. Times are seconds since its start.

    `says` replaces fields of its reports, `each` those of the first, the second, ...; `raw` replaces them
    whole. A guest that `ends` is off then, with that reason; `stages` are the reports that it gives.
    """

    delay: float = 0.0
    stages: tuple[str, ...] = ("configured", "final")
    says: dict[str, Any] = field(default_factory=dict)
    each: tuple[dict[str, Any], ...] = ()
    raw: str = ""
    ends: str = ""


def record(kind: type[T], content: bytes) -> T | None:
    """The record that lies in these bytes of a disk; None where there is none that can be read."""
    if not content.startswith(_MAGIC):
        return None
    try:
        return decode(kind, json.loads(content[len(_MAGIC) :].rstrip(b"\0")))
    except (DecodeError, ValueError):
        return None


def recorded(value: object) -> bytes:
    """The bytes of a record, as long as all are."""
    content = _MAGIC + json.dumps(encode(value)).encode()
    if len(content) > RECORD:
        raise Failed(f"a simulated guest's record has {len(content)} bytes", code="simulated")
    return content.ljust(RECORD, b"\0")


class Guests:
    """The guests of one platform. Asked whenever somebody listens to one."""

    def __init__(self, platform: SimulatedDestination, directory: Path) -> None:
        self._platform = platform
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def behave(self, vm: str, behaviour: Behaviour) -> None:
        write_durably(self._directory / f"{vm}.json", json.dumps(encode(behaviour)).encode())

    def behaviour(self, vm: str) -> Behaviour:
        file = self._directory / f"{vm}.json"
        return decode(Behaviour, json.loads(file.read_bytes())) if file.exists() else Behaviour()

    def speak(self, vm: str, channel: str) -> None:
        """Says what the guest would have said by now. Nothing where it has not been adapted."""
        state = self._platform.state(vm)
        if state.power is not PowerState.RUNNING or not state.hardware.disks:
            return
        uptime, behaviour = time.time() - state.started, self.behaviour(vm)
        root = state.hardware.disks[0].serial
        program = record(Program, self._platform.guest_reads(vm, root, PROGRAM_AT, RECORD))
        if program is None or uptime < behaviour.delay:
            return
        if behaviour.ends:
            self._platform.guest_ends(vm, PowerState.OFF, behaviour.ends)
            return
        heard = self._platform.guest_heard(vm, channel)
        waiting = [
            (number, stage)
            for number, stage in enumerate(behaviour.stages, start=1)
            if f"ack {number}\n".encode() not in heard
        ]
        if waiting and self._platform.may_speak(vm, channel, _AGAIN):
            number, stage = waiting[0]
            own = behaviour.each[number - 1] if number <= len(behaviour.each) else {}
            report = self._report(vm, program, number, stage) | behaviour.says | own
            line = behaviour.raw or json.dumps(report)
            self._platform.guest_says(vm, channel, b"\n" + line.encode() + b"\n")

    def _report(self, vm: str, program: Program, number: int, stage: str) -> dict[str, Any]:
        """What is true in this VM: of what the platform attached, not of what was planned."""
        state = self._platform.state(vm)
        facts = record(
            GuestFacts, self._platform.guest_reads(vm, state.hardware.disks[0].serial, FACTS_AT, RECORD)
        )
        configs = {nic.mac: nic.config for nic in program.nics}
        keys = {disk.serial: disk.key for disk in program.disks}
        present = {keys[disk.serial] for disk in state.hardware.disks if disk.serial in keys}
        gateway = next((config.gateway for config in configs.values() if config and config.gateway), "")
        return {
            "v": 1,
            "job": program.job,
            "token": program.secrets.token,
            "nonce": program.secrets.nonce,
            "seq": number,
            "boot_id": f"{vm}-{state.boots}",
            "stage": stage,
            "uptime": round(time.time() - state.started, 3),
            "clock": int(time.time()),
            "root_device": "/dev/vda1",
            "kernel": facts.kernels[0].version if facts and facts.kernels else "",
            "system_state": "running",
            "mounts": [
                {"mountpoint": one.mountpoint, "mounted": one.disk in present, "device": f"/dev/{one.disk}"}
                for one in (facts.filesystems if facts else ())
                if one.mountpoint
            ],
            "nics": [
                {
                    "mac": nic.mac,
                    "name": f"eth{index}",
                    "up": True,
                    "addresses": list(config.addresses if (config := configs.get(nic.mac)) else ()),
                    "driver": "virtio_net",
                }
                for index, nic in enumerate(state.hardware.nics)
            ],
            "gateway": gateway,
            "gateway_answers": bool(gateway),
            "dns": [server for config in configs.values() if config for server in config.dns],
            "drivers": ["virtio_blk", "virtio_net"],
            "cleaned": stage == "final",
        }
