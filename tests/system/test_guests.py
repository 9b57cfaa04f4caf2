"""Real guests, adapted and booted: what makes the support matrix say "booted".

`script/test` boots the representative ones, `script/test --all` every one.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

import pytest

from refloat.command import run
from refloat.guest.adapt import same_system
from refloat.guest.host import KERNEL
from refloat.guest.linux import guards
from refloat.model import GuestReport
from tests.guests.adaptation import DISK, JOB, SECRETS, Adapted, Order, adapted
from tests.guests.build import PASSPHRASE, WHO, Guest, built, identity
from tests.guests.controller import adapted_there
from tests.guests.machine import Listener, Machine, free_port, machine, recovery_hardware
from tests.guests.matrix import MATRIX, GuestCase

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(3600),  # building one for the first time included
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: guests are built and mounted"),
]

# What the console of a guest shows whose root never comes: initramfs-tools gives up after a while, dracut
# says every now and then what it waits for.
NO_ROOT = {
    "initramfs-tools": b"does not exist.  Dropping to a shell",
    "dracut": b"timeout, still waiting for following initqueue hooks",
}
IDENTITY = f"hostname; cat /etc/machine-id; {WHO}"
HOST_KEY = re.compile(rb"^(?:ssh-\w+|ecdsa-\S+) \S+", re.MULTILINE)


@dataclass(frozen=True)
class Booted:
    report: GuestReport
    identity: str
    rejected: tuple[str, ...]


def _cases() -> list[GuestCase]:
    return [case for case in MATRIX if case.default or os.environ.get("REFLOAT_TEST_ALL")]


def _controls() -> list[GuestCase]:
    """dracut waits for four minutes before it says that it waits: with `--all` alone."""
    patient = bool(os.environ.get("REFLOAT_TEST_ALL"))
    return [case for case in _cases() if case.control and (patient or case.initramfs_tool != "dracut")]


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.name)
def test_guest_boots_after_its_adaptation(case: GuestCase, tmp_path: Path) -> None:
    guest = built(case)
    disk = tmp_path / "system.raw"
    run(["cp", "--sparse=always", str(guest.disk), str(disk)])
    done = _adapt(case, disk, tmp_path)
    _check_adaptation(case, done)
    booted = _boot(case, guest, disk, tmp_path)
    _check_report(case, booted.report)
    assert not booted.rejected
    lines = booted.identity.splitlines()
    assert lines[:2] == [case.name, identity(case, "machine").replace("-", "")]
    assert lines[2:] == guest.identity.read_text().splitlines(), "host keys, users and passwords are the same"


@pytest.mark.parametrize("case", _controls(), ids=lambda case: case.name)
def test_unadapted_guest_does_not_reach_its_root(case: GuestCase, tmp_path: Path) -> None:
    """The negative control: without it, a boot after the adaptation would prove nothing."""
    disk = tmp_path / "system.raw"
    run(["cp", "--sparse=always", str(built(case).disk), str(disk)])
    argv = recovery_hardware(disk, case.nics, free_port(), case.firmware, tmp_path)
    text = NO_ROOT[case.initramfs_tool]
    with machine(tmp_path, argv, ("report",)) as running:
        running.wait(lambda: text in running.console)
    assert b"login:" not in running.console
    assert b"Welcome to" not in running.console.rpartition(text)[2], "it got out of its initramfs"


def _with_a_record() -> list[GuestCase]:
    patient = bool(os.environ.get("REFLOAT_TEST_ALL"))
    return [case for case in _cases() if case.cloud_init == "recorded" and patient]


@pytest.mark.parametrize("case", _with_a_record(), ids=lambda case: case.name)
def test_without_its_guard_cloud_init_makes_a_new_instance(case: GuestCase, tmp_path: Path) -> None:
    """The guard's negative control: at the destination cloud-init takes the machine for another one."""
    guest = built(case)
    disk = tmp_path / "system.raw"
    run(["cp", "--sparse=always", str(guest.disk), str(disk)])
    done = _adapt(case, disk, tmp_path)
    with KERNEL.opened({DISK: str(disk)}) as volumes:
        found = same_system(volumes, done.facts)
        with KERNEL.mounted_system(found, tmp_path / "mnt", writable=True):
            (tmp_path / "mnt" / guards.GUARD.lstrip("/")).unlink()
    argv = recovery_hardware(disk, case.nics, free_port(), case.firmware, tmp_path)
    with machine(tmp_path, argv, ("report",)) as running:
        running.wait(lambda: b"-----END SSH HOST KEY KEYS-----" in running.console)
    shown = running.console.rpartition(b"-----BEGIN SSH HOST KEY KEYS-----")[2]
    made, known = set(HOST_KEY.findall(shown)), set(HOST_KEY.findall(guest.identity.read_bytes()))
    assert made and known and not made & known


def _adapt(case: GuestCase, disk: Path, tmp_path: Path) -> Adapted:
    keys = {identity(case, "luks"): PASSPHRASE} if case.layout == "luks" else {}
    order = Order({nic.name: nic.mac for nic in case.nics}, keys)
    if case.in_controller:
        return adapted_there(order, disk, tmp_path)
    return adapted(order, str(disk), tmp_path / "run")


def _check_adaptation(case: GuestCase, done: Adapted) -> None:
    assert done.differences == ()
    facts = done.facts
    seen = (facts.initramfs_tool, facts.network_stack, facts.root.kind, facts.firmware)
    assert seen == (case.initramfs_tool, case.network_stack, case.filesystem, case.firmware)
    assert (done.after.unstable_names, done.after.problems) == ((), ())
    assert all(kernel.missing == () for kernel in done.after.kernels)


def _boot(case: GuestCase, guest: Guest, disk: Path, tmp_path: Path) -> Booted:
    """Boots it and waits for its final report; then asks it, over its old address, who it is."""
    port = free_port()
    nics = tuple(reversed(case.nics)) if case.swapped else case.nics
    argv = recovery_hardware(disk, nics, port, case.firmware, tmp_path)
    with machine(tmp_path, argv, ("report",)) as running:
        if case.layout == "luks":
            running.wait(lambda: b"Please unlock disk" in running.console)
            running.send("serial", f"{PASSPHRASE}\n".encode())
        listener = Listener(running, JOB, SECRETS)
        report = listener.final()
        return Booted(report, _ask(guest, port, running), tuple(listener.rejected))


def _ask(guest: Guest, port: int, running: Machine) -> str:
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
    argv = ["ssh", "-F", "none", "-i", str(guest.key), "-p", str(port), "-o", "ConnectTimeout=60"]
    argv += [part for option in options for part in ("-o", option)]
    done = subprocess.run([*argv, "root@127.0.0.1", IDENTITY], capture_output=True, timeout=180)
    assert done.returncode == 0, (done.stderr, running.console[-2000:])
    return done.stdout.decode()


def _check_report(case: GuestCase, report: GuestReport) -> None:
    assert report.problems == (), report
    assert report.cleaned, report
    by_mac = {nic.mac: nic for nic in report.nics}
    for nic in case.nics:
        seen = by_mac[nic.mac]
        assert seen.up and seen.driver == "virtio_net", seen
        assert seen.name != nic.name, "the kernel names it otherwise here, or the test proves little"
        for address in filter(None, (nic.address, nic.address6)):
            assert str(ip_interface(address)) in {str(ip_interface(one)) for one in seen.addresses}, seen
        if nic.gateway:
            assert (report.gateway, report.gateway_answers) == (nic.gateway, True)
        if nic.gateway6:
            assert (report.gateway6, report.gateway6_answers) == (nic.gateway6, True)
