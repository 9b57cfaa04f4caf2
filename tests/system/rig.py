"""One lab for all system tests: real VMs, the hub as a process of its own that can be killed."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import httpx

from refloat.command import run
from refloat.destinations.libvirt import LibvirtDestination
from refloat.errors import Failed
from refloat.estate import load_estate
from refloat.lab.estate import TARGET
from refloat.lab.hub import hub_pid, start_hub, stop_hub
from refloat.lab.layout import SOURCE_ADDRESS, Lab
from refloat.lab.waiting import api, wait_for_banner
from refloat.platforms import Platforms
from refloat.sources.base import Source

WITHIN = 420.0  # seconds for anything that boots a guest
FINAL = ("refused", "committed", "rolled_back", "blocked", "awaiting_commit")


class Rig:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.platforms = Platforms(load_estate(lab.estate), lab.hub_data / "tests")
        found = self.platforms.destination("lab-recovery")
        assert isinstance(found, LibvirtDestination)
        self.destination = found
        self.source: Source = self.platforms.source("lab-source")

    # ------------------------------------------------------------ the hub

    def get(self, path: str) -> Any:
        with api(self.lab) as client:
            return client.get(path).raise_for_status().json()

    def post(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        with api(self.lab) as client:
            return client.post(path, json=body)

    def start_failover(self, mode: str = "planned", **more: str) -> str:
        answer = self.post(f"/targets/{TARGET}/failover", {"mode": mode, **more})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def wait_for_state(self, job: str, *states: str) -> dict[str, Any]:
        deadline = time.monotonic() + WITHIN
        while True:
            facts: dict[str, Any] = self.get(f"/jobs/{job}")
            if facts["state"] in states:
                return facts
            assert facts["state"] not in FINAL or facts["state"] == "awaiting_commit", facts
            assert time.monotonic() < deadline, facts
            time.sleep(0.5)

    def sync(self) -> dict[str, Any]:
        """One more sync; returns the target's status."""
        before = self.target()["sync_point"]
        self.post(f"/targets/{TARGET}/sync").raise_for_status()
        status = self.wait_for_target()
        assert status["sync_point"] != before, status
        return status

    def target(self) -> dict[str, Any]:
        status: dict[str, Any] = self.get(f"/targets/{TARGET}")
        return status

    def wait_for_target(self) -> dict[str, Any]:
        deadline = time.monotonic() + WITHIN
        while (status := self.target())["holder"]:
            assert time.monotonic() < deadline, status
            time.sleep(0.2)
        return status

    def restart_hub(self, environment: dict[str, str]) -> None:
        stop_hub(self.lab)
        start_hub(self.lab, environment)

    def wait_for_death(self) -> None:
        deadline = time.monotonic() + WITHIN
        while hub_pid(self.lab) is not None:
            assert time.monotonic() < deadline, "the hub was to kill itself"
            time.sleep(0.1)

    def revive_hub(self, *points: str) -> None:
        """Starts the hub again. It may die at its next point before it has answered once."""
        try:
            start_hub(self.lab, {"REFLOAT_KILL_AT": ",".join(points)})
        except Failed as error:
            if error.code != "hub_ended":
                raise

    # ------------------------------------------------------------ guests and disks

    def wait_for_guest(self, vm: str) -> None:
        wait_for_banner(self.destination, vm, SOURCE_ADDRESS)

    def in_guest(self, vm: str, command: str) -> str:
        """A shell command in the source or in the recovered VM: both hold the same address and keys."""
        host, port = self.destination.reach(vm, SOURCE_ADDRESS, 22)
        options = (
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=30",
        )
        argv = ["ssh", "-F", "none", "-i", str(self.lab.keys / "source"), "-p", str(port)]
        argv += [part for option in options for part in ("-o", option)]
        return run([*argv, f"root@{host}", command], timeout=120).text

    def replica_hashes(self) -> dict[str, str]:
        return {file.name: sha256(file) for file in sorted(self.lab.images.glob("replica-sd?.raw"))}

    def source_hashes(self) -> dict[str, str]:
        """Of the content of the source's disks, under the replicas' names; the source must be off."""
        hashes = {}
        for file in sorted(self.lab.images.glob("source-sd?.qcow2")):
            raw = file.with_suffix(".compare")
            run(["qemu-img", "convert", "-O", "raw", str(file), str(raw)])
            hashes[file.name.replace("source", "replica").replace("qcow2", "raw")] = sha256(raw)
            raw.unlink()
        return hashes


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
