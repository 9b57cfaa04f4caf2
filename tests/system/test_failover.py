"""Real VMs: a VMware-like source, a real controller, real NBD, real boots. Run in this order: each scenario
leaves the lab replicating, the last one commits it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from refloat.command import run
from refloat.config import load_config
from refloat.destinations.base import Destination
from refloat.destinations.libvirt import LibvirtDestination
from refloat.estate import load_estate
from refloat.hub import Hub
from refloat.lab.estate import DATA_SERIAL, SYSTEM_SERIAL, TARGET
from refloat.lab.hub import start_hub, stop_hub
from refloat.lab.layout import SOURCE_ADDRESS
from refloat.model import AttachedNic, JobState, Mode, PowerState, Verdict, Word
from refloat.platforms import Platforms
from tests.system.libvirtd import Libvirtd, kill_vm
from tests.system.machine import boots_to
from tests.system.rig import Rig

pytestmark = pytest.mark.timeout(900)

# What must be the same after a failover: who the guest is, and who may enter.
IDENTITY = (
    "hostname; cat /etc/machine-id; sha256sum /etc/passwd /etc/shadow /etc/group /etc/ssh/ssh_host_*; "
    "dpkg-query -W | sha256sum"
)


def test_the_unadapted_replica_does_not_boot(rig: Rig, tmp_path: Path) -> None:
    """The negative control: without adaptation the guest on virtio does not reach its root."""
    copy = tmp_path / "replica.raw"
    run(["cp", "--sparse=always", str(rig.lab.images / "replica-sda.raw"), str(copy)])
    seen = boots_to(copy, tmp_path, good=b"lab-web login:", bad=b"ALERT!  /dev/sda1 does not exist")
    assert seen == b"ALERT!  /dev/sda1 does not exist"
    copy.unlink()


def test_a_source_killed_in_the_middle_of_a_sync_leaves_the_last_point(rig: Rig) -> None:
    before, point = rig.replica_hashes(), rig.target()["sync_point"]
    rig.in_guest(rig.lab.source_vm, "head -c 100M /dev/urandom >/root/much; sync")
    rig.post(f"/targets/{TARGET}/sync").raise_for_status()
    deadline = time.monotonic() + 120
    while ((rig.target()["progress"] or {}).get("bytes_done") or 0) < 1 << 20:
        assert time.monotonic() < deadline, rig.target()
        time.sleep(0.05)
    kill_vm(rig.lab.source_vm)
    status = rig.wait_for_target()
    assert "last sync failed" in status["message"], status
    assert status["sync_point"] == point
    assert rig.replica_hashes() == before

    rig.source.power_on(rig.lab.source_vm)
    status = rig.sync()
    # The bitmap was not closed: nothing but a full compare may be believed.
    assert status["sync_point"]["how"] == "compared", status
    rig.wait_for_guest(rig.lab.source_vm)
    rig.in_guest(rig.lab.source_vm, "rm /root/much; sync")
    assert rig.sync()["sync_point"]["how"] == "changed"


KILLS = (
    "final-sync:inside",
    "snapshot-disks:before",
    "adapt-guest:inside",
    "stop-controller:before",
    "reorder-disks:inside",
    "await-report:inside",
)


def test_killed_at_six_points_the_job_goes_on_and_rolls_back_byte_for_byte(
    rig: Rig, libvirtd: Libvirtd
) -> None:
    rig.wait_for_guest(rig.lab.source_vm)
    secret = secrets.token_hex(16)
    identity = rig.in_guest(rig.lab.source_vm, IDENTITY)
    rig.in_guest(rig.lab.source_vm, f"echo {secret} >/root/written-last; echo {secret} >/srv/data/too; sync")

    rig.restart_hub({"REFLOAT_KILL_AT": ",".join(KILLS)})
    job = rig.start_failover()
    at_step_5: dict[str, str] = {}
    for point in KILLS:
        rig.wait_for_death()
        if point == "snapshot-disks:before":
            at_step_5 = rig.replica_hashes()
            assert at_step_5 == rig.source_hashes(), "the whole replica is the source"
        if point == "stop-controller:before":
            points = rig.destination.rollback_points(rig.lab.controller_vm, f"refloat-{job}")
            written = {found.serial: found.written for found in points}
            assert written[SYSTEM_SERIAL] > 0
            assert written[DATA_SERIAL] == 0, "adaptation must not touch a pure data disk"
        rig.revive_hub(*KILLS)

    facts = rig.wait_for_state(job, "awaiting_commit")
    assert facts["verdict"]["word"] == "succeeded", facts["verdict"]
    attempts = {step["step"]: step["attempts"] for step in facts["steps"]}
    for point in KILLS:
        assert attempts[point.partition(":")[0]] == 2, attempts

    recovered = rig.lab.controller_vm
    assert rig.in_guest(recovered, "cat /root/written-last /srv/data/too").split() == [secret, secret]
    assert rig.in_guest(recovered, IDENTITY) == identity
    assert "/dev/vdb1" in rig.in_guest(recovered, "findmnt -n -o SOURCE /srv/data")
    # The guest's own archive is compressed, ours is not: its trailer can be counted.
    assert rig.in_guest(recovered, "cat /boot/initrd.img-* | grep -ao TRAILER!!! | wc -l") == "1"
    assert rig.in_guest(
        recovered, "systemctl list-unit-files 'refloat*' --no-legend; ls /etc/refloat 2>&1 | tail -1"
    ).startswith("ls: cannot access")

    refuses_what_does_not_fit(rig, job)

    libvirtd.restart()  # killed while the job waits for its commit
    answer = rig.post(f"/jobs/{job}/rollback", {"discard_writes": True, "reason": "test"})
    assert answer.is_success, answer.text
    rig.wait_for_state(job, "rolled_back")
    assert rig.replica_hashes() == at_step_5
    assert rig.source.power_state(rig.lab.source_vm) is PowerState.RUNNING
    assert not list(rig.lab.images.glob("*.refloat-*"))
    rig.wait_for_guest(rig.lab.source_vm)
    assert rig.sync()["sync_point"]["how"] == "changed"
    rig.restart_hub({})


def refuses_what_does_not_fit(rig: Rig, job: str) -> None:
    """Wrong requests while a job waits: clear errors, nothing changed."""
    for path, body, status, code in (
        (f"/targets/{TARGET}/failover", {"mode": "planned"}, 409, "target_busy"),
        (f"/targets/{TARGET}/sync", None, 409, "target_busy"),
        ("/targets/nobody/failover", {"mode": "planned"}, 404, "unknown_target"),
        (f"/jobs/{job}/rollback", {}, 409, "writes_not_acknowledged"),
        (f"/jobs/{job}/abort", {"discard_writes": True}, 409, "illegal_state"),
        ("/jobs/none/commit", {}, 404, "unknown_job"),
    ):
        answer = rig.post(path, body)
        assert answer.json()["code"] == code, answer.text
        assert answer.status_code == status, answer.text
        assert answer.json()["hint"], answer.text
    assert rig.get(f"/jobs/{job}")["state"] == "awaiting_commit"


class WrongMac(LibvirtDestination):
    """Starts the recovered VM with another MAC than planned, as a careless platform would."""

    def start(self, vm: str) -> None:
        hardware = self.hardware(vm)
        if hardware.disks[0].serial == SYSTEM_SERIAL and self.power_state(vm) is PowerState.OFF:
            self.set_nics(vm, self._elsewhere(hardware.nics))
        super().start(vm)

    @staticmethod
    def _elsewhere(nics: Sequence[AttachedNic]) -> list[AttachedNic]:
        return [AttachedNic("52:54:00:de:ad:01", nic.network, nic.model) for nic in nics]


class Sabotaged(Platforms):
    def destination(self, site: str) -> Destination:
        known = super().destination(site)
        assert isinstance(known, LibvirtDestination)
        if not isinstance(known, WrongMac):
            known.__class__ = WrongMac
        return known


def test_a_nic_with_another_mac_fails_the_verdict_by_a_report_without_network(rig: Rig) -> None:
    rig.wait_for_guest(rig.lab.source_vm)
    stop_hub(rig.lab)
    config = load_config(rig.lab.config, {})
    estate = load_estate(rig.lab.estate)
    hub = Hub(config, estate, Sabotaged(estate, config.data_dir))
    hub.open()
    try:
        job = hub.start_failover(TARGET, Mode.PLANNED).id
        wait_in(hub, job, JobState.AWAITING_COMMIT)
        found = hub.store.load(job, "verdict", Verdict)
        assert found is not None and found.word is not Word.SUCCEEDED
        network = next(facet for facet in found.facets if facet.name == "network")
        said = [f"{proof.observer}: {proof.text}" for proof in network.proofs if not proof.holds]
        assert any("guest: no adapter has the planned MAC" in text for text in said), said
        assert any(text.startswith("operator: " + SOURCE_ADDRESS) for text in said), said
        assert any(reason.startswith("network failed") for reason in found.reasons)
        hub.rollback(job, "test", discard_writes=True)
        wait_in(hub, job, JobState.ROLLED_BACK)
    finally:
        hub.close()
    start_hub(rig.lab)


def wait_in(hub: Hub, job: str, state: JobState) -> None:
    deadline = time.monotonic() + 600
    while (now := hub.job(job).state) is not state:
        assert time.monotonic() < deadline and now not in (JobState.BLOCKED, JobState.REFUSED), hub.job(job)
        time.sleep(0.5)


def test_a_committed_vm_comes_up_again_and_nothing_is_left(rig: Rig, tmp_path: Path) -> None:
    rig.wait_for_guest(rig.lab.source_vm)
    job = rig.start_failover()
    facts = rig.wait_for_state(job, "awaiting_commit")
    assert facts["verdict"]["word"] == "succeeded", facts["verdict"]
    answer = rig.post(f"/jobs/{job}/commit", {"reason": "test"})
    assert answer.is_success, answer.text
    rig.wait_for_state(job, "committed")
    assert rig.target()["state"] == "failed_over"

    vm, destination = rig.lab.controller_vm, rig.destination
    assert [disk.volume for disk in destination.hardware(vm).disks] == [
        str(rig.lab.images / "replica-sda.raw"),
        str(rig.lab.images / "replica-sdb.raw"),
    ]
    left = {file.name for file in rig.lab.images.iterdir()}
    assert left == {"replica-sda.raw", "replica-sdb.raw", "source-sda.qcow2", "source-sdb.qcow2"}
    destination.stop(vm, graceful=120)
    destination.start(vm)
    rig.wait_for_guest(vm)
    assert rig.in_guest(vm, "hostname; ls /etc/refloat 2>/dev/null || true") == "lab-web"
    assert rig.source.power_state(rig.lab.source_vm) is PowerState.OFF

    answer = rig.post(f"/targets/{TARGET}/failover", {"mode": "planned"})
    assert (answer.status_code, answer.json()["code"]) == (409, "target_not_ready"), answer.text
    evidence_is_whole(rig, job, tmp_path)


def evidence_is_whole(rig: Rig, job: str, directory: Path) -> None:
    bundle = rig.get(f"/jobs/{job}/evidence")
    text = json.dumps(bundle)
    for word in ("decision", "verdict", "steps", "screenshots", "/etc/fstab", "/boot/grub/grub.cfg"):
        assert word in text, word
    secrets_of_job = rig_secrets(rig, job)
    assert not any(secret in text for secret in secrets_of_job)
    environment = {"REFLOAT_CONFIG": str(rig.lab.config)}
    run([".venv/bin/refloat", "job", "evidence", job, "-o", str(directory / "e")], env=environment)
    page = (directory / "e" / "evidence.html").read_text()
    assert "data:image/png;base64," in page
    assert not any(secret in page for secret in secrets_of_job)


def rig_secrets(rig: Rig, job: str) -> list[str]:
    from refloat.model import Secrets
    from refloat.store.store import Store

    store = Store.open(rig.lab.hub_data / "refloat.sqlite")
    found = store.load(job, "secrets", Secrets)
    store.engine.dispose()
    assert found is not None
    return [found.token, found.nonce]
