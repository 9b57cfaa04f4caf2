"""A phony Windows fails over through the hub, SSH, a real controller VM and the lab's libvirt.

No Windows runs here: first nothing at all speaks on the started VM, then a boot sector does, in place of
Windows' boot code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from refloat import drivers
from refloat.command import run
from refloat.errors import RefloatError
from refloat.lab.estate import DATA_SERIAL, SYSTEM_SERIAL, TARGET
from refloat.lab.hub import start_hub
from refloat.lab.lab import down, make
from refloat.lab.layout import SOURCE_ADDRESS, SOURCE_MAC, Lab
from refloat.model import NicConfig, NicMethod, PowerState, Remediation
from tests.system.rig import Rig
from tests.unit.windows_world import SimulatedGuest
from tests.windows import bootguest, disks, driverset
from tests.windows.engine import staged_secrets

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: disks are made and mounted"),
    pytest.mark.skipif(bool(disks.can_be_made()), reason=disks.can_be_made() or "-"),
]

R = Remediation
SILENCE = 30  # seconds after which a started Windows that said nothing has failed
GATEWAY, DNS = "10.20.30.2", "10.20.30.3"
NETWORK = disks.Network(SOURCE_MAC, SOURCE_ADDRESS, "255.255.255.0", GATEWAY, DNS)
LEFT_OUT = 26  # MiB of the disk that are not Windows' own volume: its table, its boot volume and its end


@pytest.fixture(scope="module")
def phony(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, disks.Phony, Path]]:
    """A lab of its own whose source, which never runs, has a Windows Server 2022 on its system disk."""
    lab = Lab("refloat-test-windows", Path("/var/lib/refloat-test-windows"), "127.0.0.1:8429")
    folder = tmp_path_factory.mktemp("windows")
    try:
        down(lab, print)
    except RefloatError as error:
        pytest.skip(f"needs libvirt: {error}")
    try:
        make(lab, print)
        one = put_windows_on(lab, folder)
        driver_set = driverset.write_folder(folder / "virtio-win", driverset.files(["2k22", "2k19"]))
        lab.config.write_text(yaml.safe_dump(load(lab.config) | {"drivers": str(driver_set)}))
        wait_for_a_report(lab, SILENCE)
        rig = Rig(lab)
        rig.destination.start(lab.controller_vm)
        start_hub(lab)
        yield rig, one, driver_set
    finally:
        if not os.environ.get("REFLOAT_KEEP_LAB"):
            down(lab, print)


def load(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


def wait_for_a_report(lab: Lab, seconds: int) -> None:
    """As the policy says it: of how long Windows may be silent. Nothing else is asked of it from outside."""
    estate = load(lab.estate)
    estate["policies"]["lab"] |= {"windows": {"report_deadline": seconds}, "probes": []}
    lab.estate.write_text(yaml.safe_dump(estate, sort_keys=False))


def put_windows_on(lab: Lab, folder: Path) -> disks.Phony:
    """In place of the content of the source's system disk, to the byte of the same size and in its format."""
    volume = lab.images / "source-sda.qcow2"
    size = json.loads(run(["qemu-img", "info", "--output=json", str(volume)]).text)["virtual-size"]
    one = replace(disks.SERVER, system_mib=size // disks.MIB - LEFT_OUT, network=NETWORK)
    raw = disks.make(one, folder / "system.raw")
    assert raw.stat().st_size == size
    run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(volume)])
    raw.unlink()
    return one


def test_scheduled_then_silence_is_failed_and_is_taken_back(
    phony: tuple[Rig, disks.Phony, Path],
) -> None:
    rig, _, driver_set = phony
    rig.post(f"/targets/{TARGET}/sync", {"full": True}).raise_for_status()
    status = rig.wait_for_target()
    assert status["sync_point"] and status["state"] == "ready", status
    before = rig.replica_hashes()
    assert before == rig.source_hashes()

    job = rig.start_failover()
    facts = rig.wait_for_state(job, "awaiting_commit")
    evidence = rig.get(f"/jobs/{job}/evidence")
    assert facts["verdict"]["word"] == "failed", facts["verdict"]
    assert [one["status"] for one in evidence["remediation"]] == [R.SCHEDULED, R.FAILED]
    assert not evidence["reports"] and evidence["unproven"]
    assert {step["step"]: step["attempts"] for step in facts["steps"]}["start-vm"] == 1
    adapted_in_the_controller(evidence, driver_set)
    runs_from_the_replica(rig)
    taken_back(rig, job, before)


def adapted_in_the_controller(evidence: dict[str, Any], driver_set: Path) -> None:
    """By the plan: with these drivers, and each change said."""
    plan = evidence["plan"]
    chosen = drivers.choose(driver_set, "2022", "amd64")
    assert plan["decision"]["action"] == "adapt", plan["decision"]
    assert (plan["drivers"]["sha256"], plan["drivers"]["folder"]) == (chosen.sha256, "2k22")
    assert plan["report_deadline"] == SILENCE
    (nic,) = plan["nics"]
    assert nic["config"]["addresses"] == [f"{SOURCE_ADDRESS}/24"], nic
    changed = {change["path"]: change for change in evidence["adaptation"]["changes"]}
    assert "/C/Windows/System32/drivers/viostor.sys" in changed
    values = changed["/C/Windows/System32/config/SYSTEM"]["values"]
    assert any(value["key"].endswith(r"Services\viostor") for value in values), values


def runs_from_the_replica(rig: Rig) -> None:
    vm, there = rig.lab.controller_vm, rig.destination
    hardware = there.hardware(vm)
    assert there.power_state(vm) is PowerState.RUNNING
    assert [disk.serial for disk in hardware.disks][:2] == [SYSTEM_SERIAL, DATA_SERIAL]
    assert not hardware.clock_utc, "Windows keeps local time"
    assert [(nic.mac, nic.network) for nic in hardware.nics] == [(SOURCE_MAC, "production")]


def taken_back(rig: Rig, job: str, before: dict[str, str]) -> None:
    answer = rig.post(f"/jobs/{job}/rollback", {"discard_writes": True, "reason": "test"})
    assert answer.is_success, answer.text
    rig.wait_for_state(job, "rolled_back")
    assert rig.replica_hashes() == before
    assert not list(rig.lab.images.glob("*.refloat-*"))
    assert rig.source.power_state(rig.lab.source_vm) is PowerState.OFF, "it was off before"
    assert rig.wait_for_target()["state"] == "ready"


@pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="takes minutes: script/test --all")
def test_what_speaks_from_its_adapted_disk_succeeds(
    phony: tuple[Rig, disks.Phony, Path], tmp_path: Path
) -> None:
    """It restarts for real. Its reports have the token of its disk."""
    rig, one, _ = phony
    before = rig.replica_hashes()
    wait_for_a_report(rig.lab, 180)
    rig.restart_hub({"REFLOAT_KILL_AT": "start-vm:before"})
    job = rig.start_failover()
    rig.wait_for_death()
    system = Path(rig.destination.hardware(rig.lab.controller_vm).disks[0].volume)
    put_boot_sector_on(system, one, job, tmp_path)
    rig.revive_hub()

    facts = rig.wait_for_state(job, "awaiting_commit")
    evidence = rig.get(f"/jobs/{job}/evidence")
    said = [found["status"] for found in evidence["remediation"]]
    assert said == [R.SCHEDULED, R.RUNNING, R.AWAITING_REBOOT, R.SUCCEEDED], facts["verdict"]
    assert facts["verdict"]["word"] == "succeeded", facts["verdict"]
    assert [report["status"] for report in evidence["reports"]] == said[1:]
    taken_back(rig, job, before)


def put_boot_sector_on(overlay: Path, one: disks.Phony, job: str, folder: Path) -> None:
    """On what was adapted and is not started yet, in place of Windows' boot code."""
    raw = folder / "adapted.raw"
    run(["qemu-img", "convert", "-O", "raw", str(overlay), str(raw)])
    config = NicConfig("Ethernet0", NicMethod.STATIC, (f"{SOURCE_ADDRESS}/24",), GATEWAY, (DNS,))
    secrets = staged_secrets(one, raw)
    lines = [
        b"".join(
            SimulatedGuest(
                None, job, *rows, mac=SOURCE_MAC, disk=SYSTEM_SERIAL, config=config, secrets=secrets
            ).speak()
        )
        for rows in (((R.RUNNING, 1, 0, 1), (R.AWAITING_REBOOT, 1, 1, 5)), ((R.SUCCEEDED, 2, 1, 7),))
    ]
    # Nobody listens in the first seconds, in which a real Windows is not up yet: so long it only starts.
    starting = [b"Starting Windows\r\n"] * (bootguest.BOOTS - len(lines))
    bootguest.write(raw, starting + lines)
    head = folder / "head"
    with raw.open("rb") as disk:
        head.write_bytes(disk.read(disks.START))
    raw.unlink()
    run(["qemu-io", "-f", "qcow2", "-c", f"write -s {head} 0 {disks.START}", str(overlay)])
