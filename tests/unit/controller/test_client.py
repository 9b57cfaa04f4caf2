"""ControllerClient over a real sshd on this machine's loopback."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from refloat.controller.client import ControllerClient
from refloat.controller.zipapp import controller_code
from refloat.errors import Failed, NotFound, RefloatError, Refused, Unreachable
from refloat.model import Endpoint
from tests.unit.sync.rig import LocalLink, free_ports

MIB = 1 << 20

SSHD = Path("/usr/sbin/sshd")
# Installing it for a test would open the machine's port 22: the system tests have a real controller.
pytestmark = pytest.mark.skipif(not SSHD.exists(), reason="openssh-server is not installed")


class Server:
    """An sshd whose sessions see the rig's directories as the controller's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.machine = LocalLink(directory, {"ra": MIB})
        for name in ("host", "client", "other"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
            subprocess.run(argv, check=True)
        self.port = free_ports(10) + 9
        variables = " ".join(f"{name}={value}" for name, value in self.machine.environment.items())
        (directory / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {directory}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {directory}/client.pub\nStrictModes no\nPasswordAuthentication no\n"
            f"PermitRootLogin prohibit-password\nSetEnv {variables}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        argv = [str(SSHD), "-D", "-e", "-f", str(self.directory / "sshd_config")]
        self.process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """With all sessions, as when the machine goes down."""
        if self.process:
            subprocess.run(["pkill", "-P", str(self.process.pid)], check=False)
            self.process.terminate()
            self.process.wait()
            self.process = None

    @property
    def endpoint(self) -> Endpoint:
        key = (self.directory / "host.pub").read_text()
        return Endpoint("10.0.0.1", 22, "root", str(self.directory / "client"), key)

    def client(self, endpoint: Endpoint | None = None) -> ControllerClient:
        return ControllerClient(
            endpoint or self.endpoint,
            lambda: ("127.0.0.1", self.port),
            self.directory / "state",
            code_directory=str(self.machine.root / "code"),
        )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.client().disconnect()
        made.stop()


def test_health_pushes_the_code_once(server: Server) -> None:
    client = server.client()
    health = client.wait_ready(30)
    assert health.merged_point is None and health.exports == () and health.running == ()
    assert health.code == controller_code().sha256
    code = server.machine.root / "code" / f"{health.code}.pyz"
    before = code.stat().st_mtime_ns
    started = time.monotonic()
    client.health()
    assert time.monotonic() - started < 5
    assert code.stat().st_mtime_ns == before
    assert [one.name for one in code.parent.iterdir()] == [code.name]


def test_disks_and_errors_cross_as_they_are(server: Server) -> None:
    client = server.client()
    client.wait_ready(30)
    disk, *others = client.disks(hashed=True)
    assert (disk.serial, disk.size, others) == ("ra", MIB, []) and len(disk.sha256) == 64
    with pytest.raises(Refused) as caught:
        client.sync_open("p", True, {"nothing": MIB})
    assert caught.value.code == NotFound("").code.replace("not_found", "disk_missing")
    assert "ra" in caught.value.hint


def test_forward_reaches_an_export(server: Server) -> None:
    from refloat.sync.nbd import connected, unix_uri

    client = server.client()
    client.wait_ready(30)
    (export,) = client.sync_open("p", True, {"ra": MIB})
    assert client.open_exports() == ("ra",)
    with client.forward(export.port) as socket, connected(unix_uri(socket, "ra")) as handle:
        assert handle.get_size() == MIB
    assert not Path(socket).exists()
    assert client.stop_exports(["ra"]) is None
    assert client.open_exports() == ()


def test_another_host_key_is_refused(server: Server) -> None:
    server.client().wait_ready(30)
    server.client().disconnect()
    other = replace(server.endpoint, host_key=(server.directory / "other.pub").read_text())
    with pytest.raises(Refused) as caught:
        server.client(other).wait_ready(30)
    assert caught.value.code == "host_key_mismatch" and caught.value.hint


def test_another_login_key_is_refused(server: Server) -> None:
    wrong = replace(server.endpoint, identity=str(server.directory / "other"))
    server.client().wait_ready(30)
    server.client().disconnect()
    with pytest.raises(Refused) as caught:
        server.client(wrong).health()
    assert caught.value.code == "login_refused"


def test_nobody_there(server: Server) -> None:
    client = server.client()
    client.wait_ready(30)
    server.stop()
    for _ in range(2):
        with pytest.raises(Unreachable) as caught:
            client.health()
        assert caught.value.hint
    with pytest.raises(Unreachable):
        client.wait_ready(0)


def test_a_stale_connection_is_replaced(server: Server) -> None:
    """The machine was restarted below an open connection."""
    client = server.client()
    client.wait_ready(30)
    server.stop()
    server.start()
    deadline = time.monotonic() + 30
    while True:
        try:
            client.health()
            break
        except Unreachable:
            assert time.monotonic() < deadline


def test_a_dead_socket_of_a_killed_master_is_replaced(server: Server) -> None:
    client = server.client()
    client.wait_ready(30)
    socket = client._link._socket()  # type: ignore[attr-defined]
    argv = ["ssh", "-F", "none", "-S", str(socket), "-O", "check", "x"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stderr
    pid = said.partition("pid=")[2].partition(")")[0]
    subprocess.run(["kill", "-9", pid], check=True)
    assert socket.exists()
    client.health()


def test_damaged_code_is_not_used(server: Server) -> None:
    client = server.client()
    client.wait_ready(30)
    with pytest.raises(Failed) as caught:
        client._push(b"damaged on the way", "0" * 64)
    assert caught.value.code == "push_failed"
    assert "0" * 64 not in " ".join(one.name for one in (server.machine.root / "code").iterdir())


def test_the_operators_ssh_settings_do_not_matter(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    home = server.directory / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "config").write_text("Host *\n  Port 1\n  ProxyCommand false\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nonexistent")
    server.client().wait_ready(30)


def test_the_error_of_a_command_is_ours() -> None:
    assert isinstance(RefloatError.from_dict({"kind": "refused", "code": "x"}), Refused)
