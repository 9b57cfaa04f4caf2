"""A libvirt that is reached through ssh: an sshd of our own on a free port, with keys made for the test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SSHD = "/usr/sbin/sshd"
STARTS_WITHIN = 30.0  # seconds


def ssh_missing() -> str:
    """Why a libvirt cannot be reached through ssh here; "" when it can."""
    if os.geteuid() != 0:
        return "the test's sshd lets root in: it needs root"
    missing = [name for name in (SSHD, "virt-ssh-helper", "ssh-keygen") if not shutil.which(name)]
    return f"not installed: {', '.join(missing)}" if missing else ""


@contextmanager
def libvirt_over_ssh() -> Iterator[str]:
    """The URI of qemu:///system through ssh to this machine. Nothing of the machine's own sshd is used."""
    with tempfile.TemporaryDirectory(prefix="rf-sshd-") as made:
        directory = Path(made)
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True
            )
        (directory / "authorized_keys").write_text((directory / "user.pub").read_text())
        port = _free_port()
        kind, key, *_ = (directory / "host.pub").read_text().split()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
        config = directory / "sshd_config"
        config.write_text(_config(directory, port))
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # compiled into Debian's sshd
        daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
        try:
            _wait_for(port, daemon)
            yield _uri(directory, port)
        finally:
            daemon.terminate()
            daemon.wait(30)


def _config(directory: Path, port: int) -> str:
    return (
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nPidFile none\n"
        f"AuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nUseDNS no\n"
    )


def _uri(directory: Path, port: int) -> str:
    """libvirt starts `command` as its ssh: ours knows the host key, as an operator's ~/.ssh/config would."""
    options = f"-F none -o UserKnownHostsFile={directory}/known_hosts -o StrictHostKeyChecking=yes"
    wrapper = directory / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec ssh {options} -o IdentitiesOnly=yes "$@"\n')
    wrapper.chmod(0o700)
    query = {"command": str(wrapper), "keyfile": str(directory / "user"), "no_tty": "1"}
    return f"qemu+ssh://root@127.0.0.1:{port}/system?{urllib.parse.urlencode(query, safe='/')}"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(port: int, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        assert daemon.poll() is None, "sshd ended"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                assert connection.recv(4) == b"SSH-"
                return
        except OSError:
            assert time.monotonic() < deadline, "sshd does not answer"
            time.sleep(0.05)
