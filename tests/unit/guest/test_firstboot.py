"""The first-boot script, run by the shell against a small root of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from refloat.errors import Refused
from refloat.guest.firstboot.staging import Staging, staging
from refloat.guest.inspect import examine
from refloat.guest.linux.network import ifupdown
from refloat.guest.tree import Tree
from refloat.model import DiskBus, NicModel
from tests.unit.guest.guests import MAC, ORDER, TOKEN, found, make_guest, request

SCRIPT = resources.files("refloat.guest.firstboot").joinpath("refloat-firstboot.sh")
SHELLS = [name for name in ("dash", "bash") if shutil.which(name)]
UNITS = "etc/systemd/system"


def stage(root: Path, **changes: Any) -> Staging:
    """Puts into `root` what adapt would, with the channel as a file of the test's own."""
    with Tree(root) as tree:
        facts = examine(tree, found(tree), ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
        files = ifupdown.ifupdown_files(tree)
    staged = staging(request(facts, **changes), files, facts.nics)
    for path in staged.directories:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for path, file in staged.files.items():
        (root / path.lstrip("/")).write_bytes(file.content)
        (root / path.lstrip("/")).chmod(file.mode)
    for path, target in staged.symlinks.items():
        (root / path.lstrip("/")).symlink_to(target)
    conf = root / "etc/refloat/firstboot.conf"
    conf.write_text(conf.read_text() + f"CHANNEL='{root}/channel'\nDEADLINE=12\nNIC_WAIT=0\nSETTLE=1\n")
    return staged


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_guest(tmp_path / "guest")
    for directory in ("proc/self", "proc/sys/kernel/random", "run", "var/log", "var/backups"):
        (root / directory).mkdir(parents=True)
    uptime(root, 30)
    (root / "proc/sys/kernel/random/boot_id").write_text("b00t-1d\n")
    (root / "proc/sys/kernel/osrelease").write_text("6.1.0\n")
    (root / "proc/self/mounts").write_text("/dev/vda1 / ext4 rw 0 0\n/dev/vdb1 /srv/data ext4 rw 0 0\n")
    nic(root, "ens4", MAC)
    (root / "sys/bus/virtio/drivers/virtio_blk/virtio3").mkdir(parents=True)
    (root / "sys/bus/virtio/drivers/virtio_rng").mkdir(parents=True)
    programs(root)
    return root


def uptime(root: Path, seconds: int) -> None:
    (root / "proc/uptime").write_text(f"{seconds}.25 10.00\n")


def nic(root: Path, name: str, mac: str, *, device: bool = True) -> None:
    path = root / "sys/class/net" / name
    path.mkdir(parents=True)
    (path / "address").write_text(f"{mac}\n")
    (path / "operstate").write_text("up\n")
    if device:
        driver = root / "sys/bus/virtio/drivers/virtio_net"
        driver.mkdir(parents=True, exist_ok=True)
        (path / "device").mkdir()
        (path / "device/driver").symlink_to(driver)


@contextmanager
def once_complete(root: Path, act: Callable[[], None]) -> Iterator[None]:
    """Acts when the last report is ready. The clock of this root stands still: `act` has to end the wait."""

    def wait() -> None:
        while not (root / "run/refloat/complete").exists() and not over.wait(0.02):
            pass
        act()

    over = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def programs(root: Path) -> None:
    """Stand-ins for what would ask the machine that runs the tests."""
    directory = root / "stand-ins"
    directory.mkdir()
    scripts = {
        "ip": """case "$*" in
            *'addr show'*) echo '2: ens4    inet 10.1.0.40/24 brd 10.1.0.255 scope global ens4'
                           echo '2: ens4    inet6 fe80::1/64 scope link' ;;
            *'route show default'*) echo 'default via 10.1.0.1 dev ens4 onlink' ;;
            *neigh*) echo '10.1.0.1 dev ens4 lladdr 52:54:00:00:00:01 REACHABLE' ;;
            esac""",
        "systemctl": "echo running",
        "ping": "exit 1",
        "udevadm": "exit 0",
        "sleep": "exec /bin/sleep 0.1",
        "sync": "exit 0",
    }
    for name, body in scripts.items():
        (directory / name).write_text(f"#!/bin/sh\n{body}\n")
        (directory / name).chmod(0o755)


def run(root: Path, action: str, shell: str = "dash") -> subprocess.CompletedProcess[str]:
    # The script sets its own PATH, so the stand-ins are put in front of that.
    text = SCRIPT.read_text().replace("PATH=/usr/local/sbin", f"PATH={root}/stand-ins:/usr/local/sbin")
    path = root / "etc/refloat/firstboot.sh"
    path.write_text(text)
    done = subprocess.run(
        [shell, str(path), action],
        env={"REFLOAT_ROOT": str(root), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    return done


def reports(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((root / "run/refloat/outbox").iterdir())]


@pytest.mark.parametrize("shell", SHELLS)
def test_script_is_sound(shell: str) -> None:
    subprocess.run([shell, "-n", str(SCRIPT)], check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_configure_gives_nics_their_names(root: Path, shell: str) -> None:
    stage(root)
    before = (root / "etc/network/interfaces").read_text()
    (root / "etc/network/interfaces").chmod(0o640)
    run(root, "configure", shell)
    after = (root / "etc/network/interfaces").read_text()
    assert after == before.replace("ens192", "ens4").replace("is ens4", "is ens192", 1)
    assert "auto ens4:0" in (root / "etc/network/interfaces.d/extra").read_text()
    assert (root / "etc/network/interfaces").stat().st_mode & 0o777 == 0o640
    assert (root / "var/backups/refloat/0").read_text() == before
    assert "change: /etc/network/interfaces before" in (root / "run/refloat/log").read_text()
    run(root, "configure", shell)
    assert (root / "etc/network/interfaces").read_text() == after, "a second boot leaves it alone"
    assert not (root / "run/refloat/problems").exists()


def test_missing_nic_keeps_its_configuration(root: Path) -> None:
    stage(root, mac="00:50:56:ff:ff:ff")
    before = (root / "etc/network/interfaces").read_text()
    run(root, "configure")
    assert (root / "etc/network/interfaces").read_text() == before
    assert "no NIC with MAC 00:50:56:ff:ff:ff" in (root / "run/refloat/problems").read_text()


def test_bridge_with_the_mac_of_a_nic_is_no_nic(root: Path) -> None:
    nic(root, "br0", MAC, device=False)
    stage(root)
    run(root, "configure")
    assert "iface ens4 inet static" in (root / "etc/network/interfaces").read_text()


def test_file_that_someone_else_changed_is_left_alone(root: Path) -> None:
    stage(root)
    (root / "etc/network/interfaces").write_text("auto lo\n")
    run(root, "configure")
    assert (root / "etc/network/interfaces").read_text() == "auto lo\n"
    assert "changed by someone else" in (root / "run/refloat/problems").read_text()


def test_report_without_a_listener_cleans_up(root: Path) -> None:
    staged = stage(root)
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report")
    configured, final = reports(root)
    assert (configured["stage"], final["stage"]) == ("configured", "final")
    assert final["seq"] == configured["seq"] + 1
    assert final["cleaned"] is True
    for path in (*staged.files, *staged.symlinks):
        assert not os.path.lexists(root / path.lstrip("/")), path
    assert not (root / "etc/refloat").exists() and not (root / "etc/refloat.done").exists()
    assert not (root / UNITS / "emergency.target.wants").exists()
    assert (root / UNITS / "multi-user.target.wants").is_dir()
    kept = (root / "var/log/refloat-report.json").read_text()
    assert json.loads(kept)["stage"] == "final"
    assert TOKEN not in kept + (root / "var/log/refloat-firstboot.log").read_text()


@pytest.mark.parametrize("shell", SHELLS)
def test_report_says_what_is(root: Path, shell: str) -> None:
    stage(root)
    (root / "etc/fstab").write_text("/dev/a / ext4\n/dev/b /srv/data ext4 rw\n/dev/c /lost ext4 defaults\n"
                                    "/dev/d none swap sw\n/dev/e /cd iso9660 ro,noauto\n#x\n")  # fmt: skip
    (root / "run/refloat").mkdir()
    (root / "run/refloat/problems").write_text('a "quoted" \\ back\tslash \x1b[31m\u00e9\n')
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report", shell)
    final = reports(root)[-1]
    assert final["v"] == 1 and final["job"] == "job-7" and final["token"] == TOKEN
    assert final["boot_id"] == "b00t-1d" and final["kernel"] == "6.1.0" and final["uptime"] >= 30
    assert final["root_device"] == "/dev/vda1" and final["system_state"] == "running"
    assert final["mounts"] == [
        {"mountpoint": "/", "mounted": True, "device": "/dev/vda1"},
        {"mountpoint": "/srv/data", "mounted": True, "device": "/dev/vdb1"},
        {"mountpoint": "/lost", "mounted": False, "device": ""},
    ]
    assert final["nics"] == [
        {"mac": MAC, "name": "ens4", "up": True, "addresses": ["10.1.0.40/24"], "driver": "virtio_net"}
    ]
    assert (final["gateway"], final["gateway_answers"]) == ("10.1.0.1", True), "by its neighbour entry"
    assert final["dns"] == ["10.1.0.53", "10.1.1.53"]
    assert final["drivers"] == ["virtio_blk"]
    assert final["problems"] == ["a ?quoted? \\ back?slash ?[31m??"]


def test_sequence_rises_over_boots(root: Path) -> None:
    stage(root)
    (root / "etc/refloat/sequence").write_text("\n3\n\n4\n\nto")
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report")
    assert [report["seq"] for report in reports(root)] == [5, 6]


def test_emergency_is_reported_and_kept_for_the_next_boot(root: Path) -> None:
    stage(root)
    (root / "stand-ins/systemctl").write_text("#!/bin/sh\necho maintenance\n")
    conf = root / "etc/refloat/firstboot.conf"
    conf.write_text(conf.read_text() + f"CHANNEL='{root}/never'\n")
    with once_complete(root, lambda: _empty_outbox(root)):
        run(root, "report")
    assert (root / "etc/refloat/pending").exists()
    last = json.loads((root / "run/refloat/last").read_text())
    assert (last["stage"], last["system_state"], last["cleaned"]) == ("final", "maintenance", False)


def _empty_outbox(root: Path) -> None:
    for path in (root / "run/refloat/outbox").iterdir():
        path.unlink()


def test_exchange_sends_until_it_is_acknowledged(root: Path) -> None:
    """Over a terminal pair, which like the virtio port is a device that both sides read and write."""
    stage(root)
    outbox = root / "run/refloat/outbox"
    outbox.mkdir(parents=True)
    for number in (1, 2):
        (outbox / str(number)).write_text(json.dumps({"seq": number}) + "\n")
    master, slave = os.openpty()
    tty.setraw(slave)
    name = os.ttyname(slave)
    process = subprocess.Popen(
        ["dash", str(SCRIPT), "exchange", name], env={"REFLOAT_ROOT": str(root), "PATH": os.environ["PATH"]}
    )
    with os.fdopen(master, "r+b", buffering=0) as host:
        received = b""
        while received.count(b"}") < 2:
            received += host.read(4096)
        assert [json.loads(line)["seq"] for line in received.split(b"\n") if line] == [1, 2]
        host.write(b"noise\nack x\nack 99999999999999999999\nack 1\n")
        host.write(b"ack 2\n")
        assert process.wait(10) == 0
    os.close(slave)
    assert not list(outbox.iterdir())


def test_plan_cannot_inject_shell(tmp_path: Path) -> None:
    root = make_guest(tmp_path / "guest")
    with Tree(root) as tree:
        facts = examine(tree, found(tree), ORDER, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    ask = request(facts)
    for bad in (
        replace(ask, job="x'; reboot; '"),
        replace(ask, channel="../../etc/passwd"),
        replace(ask, secrets=replace(ask.secrets, token="x'y")),
        replace(ask, nics=(replace(ask.nics[0], mac="00:50:56:aa:bb:cc\n"),)),
    ):
        with pytest.raises(Refused):
            staging(bad, {}, facts.nics)
