"""Test and emergency failovers of real VMs. Each scenario leaves the lab replicating, its source running."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from refloat.lab.estate import TARGET
from refloat.lab.layout import SOURCE_ADDRESS, SOURCE_SUBNET
from refloat.model import PowerState
from tests.system.libvirtd import kill_vm
from tests.system.listener import Listener, listening
from tests.system.rig import WITHIN, Rig

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="takes minutes: script/test --all"),
]

GATEWAY = str(ipaddress.IPv4Network(SOURCE_SUBNET)[2])  # behind it a user-mode segment shows its host
GATEWAY6 = "fec0::2"  # the same by QEMU's default for IPv6

# Sends a name to each address and prints what was answered, all at once. By bash: the guest has no more. The
# empty line is what an HTTP server waits for.
CALL = """
call() {
    answer=$(timeout 15 bash -c \
        'exec 3<>"/dev/$1/$2/$3" && printf "%s\\n\\n" "$0" >&3 && head -n1 <&3' \
        "$WHO" "$2" "$3" "$4" 2>/dev/null)
    echo "$1=$answer"
}
knock() { ping -c 1 -W 10 "$2" >/dev/null 2>&1 && echo "$1=answered" || echo "$1="; }
"""


def ways_out(rig: Rig, listener: Listener) -> dict[str, str]:
    """Every way by which a guest could reach what is not in its segment, as a line for the guest's shell."""
    hub = rig.lab.listen.rpartition(":")[2]
    local, source_port = rig.destination.reach(rig.lab.source_vm, SOURCE_ADDRESS, 22)
    assert local == "127.0.0.1"
    ways = {
        "host-tcp": f"tcp {GATEWAY} {listener.port}",
        "host-udp": f"udp {GATEWAY} {listener.port}",
        "host6-tcp": f"tcp {GATEWAY6} {listener.port}",
        "hub": f"tcp {GATEWAY} {hub}",
        "source-ssh": f"tcp {GATEWAY} {source_port}",
    }
    outside = host_address()
    if outside is not None:  # for a guest it is an address beyond its gateway, as any other
        ways["outside-tcp"] = f"tcp {outside} {listener.port}"
        ways["outside-udp"] = f"udp {outside} {listener.port}"
    lines = {name: f"call {name} {way} &" for name, way in ways.items()}
    return lines | ({"outside-ping": f"knock outside-ping {outside} &"} if outside else {})


def host_address() -> str | None:
    """The host's own address towards the world (sends nothing); None on a host without network."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))
        return str(probe.getsockname()[0])
    return None


def answers(rig: Rig, vm: str, who: str, ways: dict[str, str]) -> dict[str, str]:
    """What each way answered to this guest; empty for silence."""
    shown = rig.in_guest(vm, "\n".join([f"WHO={who}", CALL, *ways.values(), "wait"]))
    found = dict(line.split("=", 1) for line in shown.splitlines())
    assert found.keys() == ways.keys(), shown
    return found


def watch(rig: Rig, job: str, state: str, meanwhile: Callable[[], None]) -> dict[str, Any]:
    deadline = time.monotonic() + WITHIN
    while True:
        facts: dict[str, Any] = rig.get(f"/jobs/{job}")
        meanwhile()
        if facts["state"] == state:
            return facts
        assert facts["state"] in ("queued", "running", "rolling_back", "test_active"), facts
        assert time.monotonic() < deadline, facts
        time.sleep(1)


def source_answers(rig: Rig) -> None:
    """It runs, and its sshd speaks to a new client."""
    assert rig.source.power_state(rig.lab.source_vm) is PowerState.RUNNING
    where = rig.destination.reach(rig.lab.source_vm, SOURCE_ADDRESS, 22)
    with socket.create_connection(where, timeout=30) as connection:
        assert connection.recv(4) == b"SSH-"


def in_replica(rig: Rig, disk: str, text: str) -> bool:
    argv = ["grep", "-q", "-a", "-F", text, str(rig.lab.images / f"replica-{disk}.raw")]
    found = subprocess.run(argv, check=False, timeout=120).returncode
    assert found in (0, 1), f"grep ended with {found}"
    return found == 0


BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def test_a_test_failover_runs_beside_its_source_and_nothing_escapes(rig: Rig) -> None:
    source, test_vm = rig.lab.source_vm, rig.lab.controller_vm
    rig.wait_for_guest(source)
    boot, before, point = rig.in_guest(source, BOOT_ID), rig.replica_hashes(), rig.target()["sync_point"]

    ahead = rig.get(f"/targets/{TARGET}/plan?mode=test")
    job = rig.start_failover("test")
    facts = watch(rig, job, "test_active", lambda: source_answers(rig))
    foreseen(rig, job, ahead)
    # The gateway is no condition in a test, and nothing else is missing on this network.
    assert facts["verdict"]["word"] == "succeeded", facts["verdict"]
    assert [nic.network for nic in rig.destination.hardware(test_vm).nics] == ["bubble"]
    assert rig.in_guest(test_vm, BOOT_ID) not in ("", boot)

    nothing_escapes(rig)

    ends_by_rollback_alone(rig, job, before, point)
    assert rig.in_guest(source, BOOT_ID) == boot, "the source ran on"


def foreseen(rig: Rig, job: str, ahead: dict[str, Any]) -> None:
    """What was said after the sync is what was done: the same changes in their order, the same adapters."""
    records = rig.get(f"/jobs/{job}/evidence")
    done = [(one["path"], one["kind"], one["reason"]) for one in records["adaptation"]["changes"]]
    said = [(one["path"], one["kind"], one["reason"]) for one in ahead["in_guest"]["changes"]]
    assert said == done and len(said) > 10, ahead["in_guest"]
    assert [one["network"] for one in ahead["adapters"]] == ["bubble"]
    assert [one["mac"] for one in ahead["adapters"]] == [one["mac"] for one in records["plan"]["nics"]]


def ends_by_rollback_alone(rig: Rig, job: str, before: dict[str, str], point: dict[str, Any]) -> None:
    """What the test wrote is gone, and what the source wrote meanwhile comes with the next sync."""
    late, in_test = secrets.token_hex(16), secrets.token_hex(16)
    for vm, text in ((rig.lab.source_vm, late), (rig.lab.controller_vm, in_test)):
        rig.in_guest(vm, f"echo {text} >/root/written; echo {text} >/srv/data/written; sync")
    answer = rig.post(f"/targets/{TARGET}/sync")
    assert (answer.status_code, answer.json()["code"]) == (409, "target_busy"), answer.text
    answer = rig.post(f"/jobs/{job}/commit", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal_state"), answer.text

    assert rig.post(f"/jobs/{job}/rollback", {"reason": "test"}).is_success
    watch(rig, job, "rolled_back", lambda: source_answers(rig))
    assert rig.replica_hashes() == before
    assert rig.target()["sync_point"] == point
    assert not list(rig.lab.images.glob("*.refloat-*"))
    assert not in_replica(rig, "sda", late) and not in_replica(rig, "sdb", late)

    assert rig.sync()["sync_point"]["how"] == "changed"
    for disk in ("sda", "sdb"):
        assert in_replica(rig, disk, late), disk
        assert not in_replica(rig, disk, in_test), disk


def nothing_escapes(rig: Rig) -> None:
    """The same calls from both: the source on its production network is the control."""
    with listening() as listener:
        ways = ways_out(rig, listener)
        control = answers(rig, rig.lab.source_vm, "source", ways)
        # Whether a ping leaves a user-mode segment is its host's setting, and not every host has IPv6.
        proven = {name for name, answer in control.items() if answer}
        assert proven >= ways.keys() - {"outside-ping", "host6-tcp"}, control
        assert control["source-ssh"].startswith("SSH-"), control
        assert listener.heard == {"tcp source", "udp source"}

        escaped = answers(rig, rig.lab.controller_vm, "test", ways)
        assert not any(escaped.values()), escaped
        assert listener.heard == {"tcp source", "udp source"}


# ---------------------------------------------------------------- emergencies


def test_an_emergency_is_refused_while_the_source_runs(rig: Rig) -> None:
    source, controller = rig.lab.source_vm, rig.lab.controller_vm
    rig.wait_for_guest(source)
    boot, before = rig.in_guest(source, BOOT_ID), state_of(rig)
    for word in ("", "somebody says so"):
        job = rig.start_failover("emergency", source_is_off=word)
        facts = rig.wait_for_state(job, "refused")
        assert facts["error"]["code"] == "not_fenced", facts
        assert f"{source} is running" in facts["error"]["message"], facts
        assert [step["step"] for step in facts["steps"]] == ["preflight"], facts
    assert state_of(rig) == before
    assert rig.destination.power_state(controller) is PowerState.RUNNING
    assert rig.in_guest(source, BOOT_ID) == boot


def state_of(rig: Rig) -> dict[str, Any]:
    """All that a refusal must leave alone."""
    target, source, controller = rig.target(), rig.lab.source_vm, rig.lab.controller_vm
    return {
        "target": (target["state"], target["holder"], target["sync_point"]),
        "replica": rig.replica_hashes(),
        "source": (rig.source.power_state(source), rig.source.autostart(source)),
        "controller": rig.destination.hardware(controller),
        "files": sorted(file.name for file in rig.lab.images.iterdir()),
    }


@pytest.fixture
def starts_by_itself(rig: Rig) -> Iterator[None]:
    """A source that starts with its host; afterwards it replicates again, whatever became of it."""
    rig.source.set_autostart(rig.lab.source_vm, True)
    yield
    rig.source.set_autostart(rig.lab.source_vm, False)
    rig.source.power_on(rig.lab.source_vm)
    rig.sync()


@pytest.mark.usefixtures("starts_by_itself")
def test_an_emergency_after_the_source_was_destroyed(rig: Rig) -> None:
    source, recovered, secret = rig.lab.source_vm, rig.lab.controller_vm, secrets.token_hex(16)
    rig.wait_for_guest(source)
    rig.in_guest(source, f"echo {secret} >/root/before-the-disaster; sync")
    point = rig.sync()["sync_point"]
    rig.in_guest(source, "echo lost >/root/after-the-last-sync; sync")
    before = rig.replica_hashes()
    kill_vm(source)
    until(lambda: rig.source.power_state(source) is PowerState.OFF, "libvirt misses the source's QEMU")

    job = rig.start_failover("emergency")
    facts = rig.wait_for_state(job, "awaiting_commit")
    assert facts["verdict"]["word"] == "succeeded", facts["verdict"]
    evidence = rig.get(f"/jobs/{job}/evidence")
    assert evidence["fence"]["proof"] == f"the platform of {source} says: off", evidence["fence"]
    assert evidence["fence"]["override"] is None
    assert any(point["taken"] in warning for warning in evidence["plan"]["warnings"]), evidence["plan"]
    assert not rig.source.autostart(source), "it must not come back with its host"
    assert [nic.network for nic in rig.destination.hardware(recovered).nics] == ["production"]
    assert rig.in_guest(recovered, "cat /root/*-the-*") == secret, "the last sync point, and nothing later"

    a_source_that_comes_back_is_said_and_bars_the_commit(rig, job)

    answer = rig.post(f"/jobs/{job}/rollback", {"discard_writes": True, "reason": "test"})
    assert answer.is_success, answer.text
    rig.wait_for_state(job, "rolled_back")
    assert rig.replica_hashes() == before
    assert rig.target()["sync_point"] == point
    assert rig.source.power_state(source) is PowerState.OFF, "it was off before"
    assert rig.source.autostart(source), "as it was before"


def a_source_that_comes_back_is_said_and_bars_the_commit(rig: Rig, job: str) -> None:
    source = rig.lab.source_vm
    rig.source.power_on(source)
    until(lambda: any("is running" in said for said in about_source(rig, job)), "nobody noticed the source")
    answer = rig.post(f"/jobs/{job}/commit", {"reason": "test"})
    assert (answer.status_code, answer.json()["code"]) == (409, "invariant_1"), answer.text
    assert rig.get(f"/jobs/{job}")["state"] == "awaiting_commit"
    rig.source.power_off(source)
    until(lambda: "is off again" in about_source(rig, job)[-1], "nobody noticed that it is off")


def about_source(rig: Rig, job: str) -> list[str]:
    events = rig.get(f"/jobs/{job}/events")["events"]
    return [str(event["data"]["message"]) for event in events if event["kind"] == "source"]


def until(holds: Callable[[], bool], otherwise: str, within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)
