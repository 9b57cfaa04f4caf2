"""The first-boot script, run by several shells against a small root of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from refloat.errors import Refused
from refloat.guest.firstboot.inits import Start, with_service
from refloat.guest.firstboot.staging import Network, Staging, staging
from refloat.guest.linux.render import RenderedFile, placeholder
from refloat.guest.linux.render.ifupdown import render
from refloat.model import AdaptRequest, NetworkMode, NicConfig, NicMethod, PlannedNic
from tests.unit.builders import FACTS
from tests.unit.guest.guests import MAC, TOKEN, make_guest, request

PACKAGE = resources.files("refloat.guest.firstboot")
SCRIPT = PACKAGE.joinpath("refloat-firstboot.sh")
SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]
UNITS = "etc/systemd/system"
CONFIG = NicConfig("ens192", NicMethod.STATIC, ("10.1.0.40/24",), "10.1.0.1")
SECOND = "00:50:56:aa:bb:dd"
SYSTEMD = Start(
    {f"/{UNITS}/refloat-report.service": "refloat-report.service"},
    {
        f"/{UNITS}/{target}.target.wants/refloat-report.service": f"/{UNITS}/refloat-report.service"
        for target in ("multi-user", "emergency")
    },
)


def planned(mac: str = MAC, name: str = "ens192", **more: Any) -> PlannedNic:
    return PlannedNic(mac, mac, "lan", NetworkMode.RESTORE, replace(CONFIG, name=name), "test", **more)


def asked(*nics: PlannedNic) -> AdaptRequest:
    return replace(request(replace(FACTS, nics=(CONFIG,))), nics=nics)


def interfaces(root: Path, *names: str) -> Network:
    """The guest's ifupdown files, with placeholders for these names."""
    paths = ("/etc/network/interfaces", "/etc/network/interfaces.d/extra")
    files = {path: (root / path.lstrip("/")).read_text() for path in paths}
    done = render(files, {name: placeholder(index) for index, name in enumerate(names)})
    changes = tuple(RenderedFile(path, path, text) for path, text in sorted(done.items()))
    return Network("ifupdown", changes, files)


def put(root: Path, staged: Staging) -> Staging:
    """Puts into `root` what adapt would, with the channel as a file of the test's own."""
    for path in staged.directories:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for path, file in staged.files.items():
        (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / path.lstrip("/")).write_bytes(file.content)
        (root / path.lstrip("/")).chmod(file.mode)
    for path, target in staged.symlinks.items():
        (root / path.lstrip("/")).symlink_to(target)
    conf = root / "etc/refloat/firstboot.conf"
    conf.write_text(conf.read_text() + f"CHANNEL='{root}/channel'\nDEADLINE=12\nNIC_WAIT=0\nSETTLE=1\n")
    return staged


def stage(root: Path, *nics: PlannedNic, network: Network | None = None, start: Start = SYSTEMD) -> Staging:
    nics = nics or (planned(),)
    found = network or interfaces(root, *(nic.config.name for nic in nics if nic.config))
    return put(root, staging(asked(*nics), "systemd", start, found, {}))


def changing(root: Path, files: Mapping[str, str], *changes: RenderedFile, stack: str = "") -> Network:
    """A network of these files (path -> text), which are written."""
    for path, text in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o600)
    return Network(stack, changes, files)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_guest(tmp_path / "guest")
    for directory in ("proc/self", "proc/sys/kernel/random", "run", "var/log", "var/backups"):
        (root / directory).mkdir(parents=True)
    uptime(root, 30)
    (root / "proc/sys/kernel/random/boot_id").write_text("b00t-1d\n")
    (root / "proc/sys/kernel/osrelease").write_text("6.1.0\n")
    (root / "proc/net").mkdir()
    (root / "proc/net/arp").write_text(
        "IP address HW type Flags HW address Mask Device\n10.1.0.1 0x1 0x2 52:54:00:00:00:01 * ens4\n"
    )
    (root / "proc/self/mounts").write_text("/dev/vda1 / ext4 rw 0 0\n/dev/vdb1 /srv/data ext4 rw 0 0\n")
    nic(root, "ens4", MAC)
    (root / "sys/bus/virtio/drivers/virtio_blk/virtio3").mkdir(parents=True)
    (root / "sys/bus/virtio/drivers/virtio_rng").mkdir(parents=True)
    programs(root)
    return root


def problems(root: Path) -> str:
    path = root / "run/refloat/problems"
    return path.read_text() if path.exists() else ""


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
                           echo '2: ens4    inet6 fd00:1::40/64 scope global flags 02'
                           echo '2: ens4    inet6 fe80::1/64 scope link'
                           echo '3: bond0.7    inet 10.7.0.40/24 scope global bond0.7' ;;
            '-4 route show') echo '10.1.0.0/24 dev ens4'; echo 'default via 10.1.0.1 dev ens4 onlink' ;;
            '-6 route show') echo 'default via fe80::2 dev ens4 metric 1024' ;;
            '-6 neigh'*) echo 'fe80::2 dev ens4 lladdr 52:54:00:00:00:01 router STALE' ;;
            esac""",
        "systemctl": 'echo "systemctl $*" >>"$REFLOAT_ROOT/called"; echo running',
        "ping": "exit 1",
        "ping6": "exit 1",
        "runlevel": "echo unknown",
        "restorecon": "exit 0",
        "netplan": 'echo "netplan $*" >>"$REFLOAT_ROOT/called"',
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
    argv = [shell]
    if shell == "busybox":
        # Alpine's shell; Debian's build of it takes its own programs before any in PATH.
        argv.append("ash")
        for name in (path.name for path in (root / "stand-ins").iterdir()):
            text = text.replace("export LC_ALL=C\n", f"export LC_ALL=C\n{_function(root, name)}", 1)
        path.write_text(text)
    done = subprocess.run(
        [*argv, str(path), action],
        env={"REFLOAT_ROOT": str(root), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert not done.stderr
    return done


def _function(root: Path, name: str) -> str:
    return f'{name}() {{ "{root}/stand-ins/{name}" "$@"; }}\n'


def reports(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((root / "run/refloat/outbox").iterdir())]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["refloat-firstboot.sh", "network.sh", "facts.sh", "callback.sh"])
def test_script_is_sound(shell: str, name: str) -> None:
    argv = [shell, "ash"] if shell == "busybox" else [shell]
    subprocess.run([*argv, "-n", str(PACKAGE.joinpath(name))], check=True)


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
    assert not list((root / "etc/network").glob(".*"))
    run(root, "configure", shell)
    assert (root / "etc/network/interfaces").read_text() == after, "a second boot leaves it alone"
    assert not problems(root)


@pytest.mark.parametrize("shell", SHELLS)
def test_two_adapters_with_their_order_swapped(root: Path, shell: str) -> None:
    (root / "etc/network/interfaces").write_text(
        "iface ens192 inet static\n address 10.1.0.40/24\niface ens224 inet static\n address 10.2.0.40/24\n"
    )
    shutil.rmtree(root / "sys/class/net/ens4")
    nic(root, "ens4", SECOND)
    nic(root, "ens192", MAC)  # the second adapter's place is the first one's old name
    stage(root, planned(SECOND, "ens192"), planned(MAC, "ens224"))
    run(root, "configure", shell)
    assert (root / "etc/network/interfaces").read_text() == (
        "iface ens4 inet static\n address 10.1.0.40/24\niface ens192 inet static\n address 10.2.0.40/24\n"
    )


IFCFG = "/etc/sysconfig/network-scripts/ifcfg-ens192"
RENAMED = RenderedFile(IFCFG, IFCFG.replace("ens192", "@REFLOAT_NIC_0@"), "DEVICE=@REFLOAT_NIC_0@\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_file_that_bears_the_name_is_renamed(root: Path, shell: str) -> None:
    stage(root, network=changing(root, {IFCFG: "DEVICE=ens192\n"}, RENAMED))
    run(root, "configure", shell)
    directory = root / "etc/sysconfig/network-scripts"
    assert [path.name for path in directory.iterdir()] == ["ifcfg-ens4"]
    assert (directory / "ifcfg-ens4").read_text() == "DEVICE=ens4\n"
    assert (directory / "ifcfg-ens4").stat().st_mode & 0o777 == 0o600
    assert (root / "var/backups/refloat/0").read_text() == "DEVICE=ens192\n"
    run(root, "configure", shell)
    assert not problems(root)
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report", shell)
    before, after = (hashlib.sha256(f"DEVICE={name}\n".encode()).hexdigest() for name in ("ens192", "ens4"))
    assert reports(root)[-1]["changes"] == [
        {"path": IFCFG.replace("ens192", "ens4"), "before": "", "after": after},
        {"path": IFCFG, "before": before, "after": ""},
    ]


def test_a_power_cut_between_the_new_file_and_the_old_one(root: Path) -> None:
    stage(root, network=changing(root, {IFCFG: "DEVICE=ens192\n"}, RENAMED))
    directory = root / "etc/sysconfig/network-scripts"
    (directory / "ifcfg-ens4").write_text("DEVICE=ens4\n")
    run(root, "configure")
    assert [path.name for path in directory.iterdir()] == ["ifcfg-ens4"]
    assert not problems(root)


def test_a_file_of_another_with_the_new_name_is_left_alone(root: Path) -> None:
    stage(root, network=changing(root, {IFCFG: "DEVICE=ens192\n"}, RENAMED))
    other = root / "etc/sysconfig/network-scripts/ifcfg-ens4"
    other.write_text("DEVICE=other\n")
    run(root, "configure")
    assert other.read_text() == "DEVICE=other\n"
    assert (root / IFCFG.lstrip("/")).exists()
    assert "there is already a" in problems(root)


def test_missing_nic_keeps_a_file_that_bears_its_name(root: Path) -> None:
    shutil.rmtree(root / "sys/class/net/ens4")
    stage(root, network=changing(root, {IFCFG: "DEVICE=ens192\n"}, RENAMED))
    run(root, "configure")
    assert (root / IFCFG.lstrip("/")).read_text() == "DEVICE=ens192\n"
    assert "no NIC with MAC" in problems(root)


KEYFILE = "/etc/NetworkManager/system-connections/Wired connection 1.nmconnection"


@pytest.mark.parametrize("shell", SHELLS)
def test_new_files_and_names_with_spaces(root: Path, shell: str) -> None:
    (root / "etc/NetworkManager/system-connections").mkdir(parents=True)
    new = RenderedFile("", KEYFILE, "interface-name=@REFLOAT_NIC_0@\n", 0o600)
    stage(root, network=Network("networkmanager", (new,)))
    run(root, "configure", shell)
    assert (root / KEYFILE.lstrip("/")).read_text() == "interface-name=ens4\n"
    assert (root / KEYFILE.lstrip("/")).stat().st_mode & 0o777 == 0o600
    run(root, "configure", shell)
    assert not problems(root)


def test_a_new_file_waits_for_its_adapter(root: Path) -> None:
    new = RenderedFile("", "/etc/systemd/network/refloat.network", "Name=@REFLOAT_NIC_0@\n")
    nowhere = replace(
        planned("00:50:56:ff:ff:ff"), config=NicConfig("", NicMethod.DHCP), mode=NetworkMode.DHCP
    )
    stage(root, nowhere, network=Network("networkd", (new,)))
    run(root, "configure")
    assert not (root / "etc/systemd/network/refloat.network").exists()
    assert "no NIC with MAC 00:50:56:ff:ff:ff" in problems(root)


def test_file_that_goes_away(root: Path) -> None:
    route = IFCFG.replace("ifcfg", "route")
    stage(root, network=changing(root, {route: "default\n"}, RenderedFile(route, route, None)))
    run(root, "configure")
    assert not (root / route.lstrip("/")).exists()
    assert (root / "var/backups/refloat/0").read_text() == "default\n"
    run(root, "configure")
    assert not problems(root)


def test_netplan_reads_its_files_again(root: Path) -> None:
    path = "/etc/netplan/50.yaml"
    new = RenderedFile(path, path, "ethernets: {@REFLOAT_NIC_0@: {}}\n")
    stage(root, network=changing(root, {path: "ethernets: {ens192: {}}\n"}, new, stack="netplan+networkd"))
    run(root, "configure")
    assert (root / "called").read_text() == "netplan generate\nsystemctl daemon-reload\n"


def test_other_stacks_read_theirs_later_anyway(root: Path) -> None:
    stage(root)
    run(root, "configure")
    assert not (root / "called").exists()


@pytest.mark.parametrize(("pin", "said"), [("ens4", ""), ("ens192", "is called ens4, but"), ("", "")])
def test_a_name_that_was_tied_is_checked(root: Path, pin: str, said: str) -> None:
    stage(root, replace(planned(pin=pin), mode=NetworkMode.PRESERVE), network=Network("netplan"))
    run(root, "configure")
    assert said in problems(root) and bool(said) == bool(problems(root))


def test_missing_nic_keeps_its_configuration(root: Path) -> None:
    stage(root, planned("00:50:56:ff:ff:ff"))
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
    assert final["changes"] == [], "there was nothing to configure"
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
    nic(root, "bond0.7", MAC, device=False)
    (root / "run/refloat").mkdir()
    (root / "run/refloat/problems").write_text('a "quoted" \\ back\tslash \x1b[31m\u00e9\n')
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report", shell)
    final = reports(root)[-1]
    assert final["v"] == 1 and final["job"] == "job-7" and final["token"] == TOKEN
    assert abs(final["clock"] - time.time()) < 60, "seconds since 1970"
    assert final["boot_id"] == "b00t-1d" and final["kernel"] == "6.1.0" and final["uptime"] >= 30
    assert final["root_device"] == "/dev/vda1" and final["system_state"] == "running"
    assert final["mounts"] == [
        {"mountpoint": "/", "mounted": True, "device": "/dev/vda1"},
        {"mountpoint": "/srv/data", "mounted": True, "device": "/dev/vdb1"},
        {"mountpoint": "/lost", "mounted": False, "device": ""},
    ]
    both = ["10.1.0.40/24", "fd00:1::40/64"]
    assert final["nics"] == [
        {"mac": MAC, "name": "ens4", "up": True, "addresses": both, "driver": "virtio_net"}
    ]
    assert final["links"] == [{"name": "bond0.7", "up": True, "addresses": ["10.7.0.40/24"]}]
    assert (final["gateway6"], final["gateway6_answers"]) == ("fe80::2", True)
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


@pytest.mark.parametrize("shell", SHELLS)
def test_channel_without_udevs_name(root: Path, shell: str) -> None:
    """mdev makes /dev/vport2p1 and no name in /dev/virtio-ports."""
    stage(root)
    (root / "sys/class/virtio-ports/vport2p1").mkdir(parents=True)
    (root / "sys/class/virtio-ports/vport2p1/name").write_text("channel\n")
    (root / "dev").mkdir()
    (root / "dev/vport2p1").write_text("")
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report", shell)
    assert '"stage":"configured"' in (root / "dev/vport2p1").read_text()


@pytest.mark.parametrize(
    ("level", "starting", "failed", "state"),
    [
        ("default", False, False, "running"),
        ("default", False, True, "degraded"),
        ("default", True, False, "starting"),
        ("boot", False, False, "starting"),
    ],
)
def test_state_of_openrc(root: Path, level: str, starting: bool, failed: bool, state: str) -> None:
    stage(root)
    with (root / "etc/refloat/firstboot.conf").open("a") as conf:
        conf.write("INIT='openrc'\nSETTLE=0\n")
    (root / "run/openrc/failed").mkdir(parents=True)
    (root / "run/openrc/softlevel").write_text(f"{level}\n")
    if starting:
        (root / "run/openrc/rc.starting").mkdir()
    if failed:
        (root / "run/openrc/failed/sshd").symlink_to("/etc/init.d/sshd")
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report")
    assert reports(root)[-1]["system_state"] == state


def test_clean_up_takes_its_word_out_of_insservs_list(root: Path) -> None:
    depend = "TARGETS = udev networking\nnetworking: udev\n"
    path = "/etc/init.d/.depend.boot"
    start = Start(
        {"/etc/init.d/refloat-firstboot": "refloat-firstboot.sysvinit"},
        {"/etc/rcS.d/S09refloat-firstboot": "/etc/init.d/refloat-firstboot"},
        0o755,
        {path: (depend, with_service(depend))},
    )
    staged = stage(root, start=start)
    assert "networking refloat-firstboot" in (root / path.lstrip("/")).read_text()
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report")
    assert (root / path.lstrip("/")).read_text() == depend
    assert reports(root)[-1]["cleaned"] is True
    for gone in (set(staged.files) | set(staged.symlinks)) - {path}:
        assert not os.path.lexists(root / gone.lstrip("/")), gone


def test_plan_cannot_inject_shell() -> None:
    ask = asked(planned())
    for bad in (
        replace(ask, job="x'; reboot; '"),
        replace(ask, channel="../../etc/passwd"),
        replace(ask, secrets=replace(ask.secrets, token="x'y")),
        asked(planned("00:50:56:aa:bb:cc\n")),
        asked(planned(pin="a/b")),
        asked(planned(pin="a b")),
    ):
        with pytest.raises(Refused):
            staging(bad, "systemd", SYSTEMD, Network("ifupdown"), {})
    for path in ("/etc/a\tb", "/etc/a\nb", "etc/a"):
        with pytest.raises(Refused):
            staging(ask, "systemd", SYSTEMD, Network("", (RenderedFile("", path, ""),)), {})


def test_secrets_are_not_shown() -> None:
    hidden = Network("networkmanager", (RenderedFile("/k", "/k", "psk"),), {"/k": "x"}, frozenset({"/k"}))
    staged = staging(asked(planned()), "systemd", SYSTEMD, hidden, {})
    assert not staged.files["/etc/refloat/network/0"].shown
    assert not staged.files["/etc/refloat/secrets"].shown
