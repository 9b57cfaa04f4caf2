"""Reports by HTTPS: the guest's own script against a real server of the hub's, by each of its programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from refloat.api.reports import ReportServer, callback_of
from refloat.config import Config
from refloat.errors import Refused
from refloat.guest.firstboot.staging import staging
from refloat.model import Callback
from refloat.reports import ReportRejected
from tests.unit.guest.test_firstboot import (
    SHELLS,
    SYSTEMD,
    asked,
    interfaces,
    once_complete,
    planned,
    put,
    root,
    run,
    uptime,
)

__all__ = ["root"]

JOB = "job-1"
SECURE = ("curl", "wget", "python3", "openssl")
PLAIN = ("curl", "wget", "python3", "plain")


class Hub:
    """A server of the hub's at `host`, and what came to it."""

    def __init__(self, directory: Path, scheme: str = "https", host: str = "127.0.0.1") -> None:
        self.got: list[tuple[str, bytes]] = []
        self.refuses = 0
        probe = ReportServer(Config(directory, report_url="http://127.0.0.1:1", report_listen="127.0.0.1:0"))
        port = probe.port
        probe.stop()
        config = Config(directory, report_url=f"{scheme}://{host}:{port}", report_listen=f"127.0.0.1:{port}")
        told = callback_of(config)
        assert told is not None
        self.callback = replace(told, url=f"{told.url}{JOB}")
        self.server = ReportServer(config)
        self.server.start(self.take)

    def take(self, job: str, body: bytes) -> int:
        if self.refuses:
            self.refuses -= 1
            raise ReportRejected("not now", code="report_over")
        self.got.append((job, body))
        return int(json.loads(body)["seq"])

    def stages(self) -> list[str]:
        return [json.loads(body)["stage"] for _, body in self.got]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    made: list[Hub] = []

    def start(**how: str) -> Hub:
        made.append(Hub(tmp_path / "hub", **how))
        return made[-1]

    yield start
    for one in made:
        one.server.stop()


def stage(root: Path, callback: Callback, sender: str = "") -> None:
    nics = (planned(),)
    request = replace(asked(*nics), callback=callback)
    put(root, staging(request, "systemd", SYSTEMD, interfaces(root, "ens192"), {}))
    if sender:
        script = root / "etc/refloat/callback.sh"
        script.write_text(script.read_text().replace("SENDERS='", f"SENDERS='{sender}'\nALL='"))


def present(sender: str) -> None:
    if shutil.which("bash" if sender == "plain" else sender) is None:
        pytest.skip(f"no {sender} here")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("sender", SECURE)
def test_both_reports_arrive(root: Path, hub: Callable[..., Hub], sender: str, shell: str) -> None:
    present(sender)
    there = hub()
    stage(root, there.callback, sender)
    run(root, "report", shell)
    assert there.stages() == ["configured", "final"], (root / "var/log/refloat-firstboot.log").read_text()
    assert {job for job, _ in there.got} == {JOB}
    assert json.loads(there.got[-1][1])["cleaned"] is True
    assert not (root / "etc/refloat").exists()


@pytest.mark.parametrize("sender", PLAIN)
def test_plain_http_of_a_lab(root: Path, hub: Callable[..., Hub], sender: str) -> None:
    present(sender)
    there = hub(scheme="http")
    assert there.callback.certificate == ""
    stage(root, there.callback, sender)
    run(root, "report")
    assert there.stages() == ["configured", "final"]


@pytest.mark.parametrize("sender", SECURE)
def test_another_certificate_gets_no_report(
    root: Path, hub: Callable[..., Hub], sender: str, tmp_path: Path
) -> None:
    """A report has the job's token: it goes to nobody but the hub."""
    present(sender)
    there = hub()
    other = callback_of(Config(tmp_path / "other", report_url="https://127.0.0.1:1", report_listen="x:1"))
    assert other is not None
    stage(root, replace(there.callback, certificate=other.certificate), sender)
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report")
    assert there.got == []


@pytest.mark.parametrize("sender", SECURE)
def test_the_right_certificate_under_another_name_gets_no_report(
    root: Path, hub: Callable[..., Hub], sender: str
) -> None:
    present(sender)
    there = hub(host="hub.invalid")
    here = there.callback.url.replace("hub.invalid", "127.0.0.1")
    stage(root, replace(there.callback, url=here), sender)
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report")
    assert there.got == []


@pytest.mark.parametrize("sender", SECURE)
def test_a_host_name(root: Path, hub: Callable[..., Hub], sender: str) -> None:
    present(sender)
    there = hub(host="localhost")
    stage(root, there.callback, sender)
    run(root, "report")
    assert there.stages() == ["configured", "final"]


def test_sent_again_until_it_is_acknowledged(root: Path, hub: Callable[..., Hub]) -> None:
    there = hub()
    there.refuses = 3
    stage(root, there.callback)
    run(root, "report")
    assert there.stages() == ["configured", "final"]


def test_nobody_there_ends_at_the_deadline(root: Path) -> None:
    stage(root, Callback("https://127.0.0.1:9/api/v1/reports/job-1", "no certificate\n"))
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report")
    assert len(list((root / "run/refloat/outbox").iterdir())) == 2
    assert not (root / "etc/refloat").exists()


def test_what_cannot_check_a_certificate_is_not_used(root: Path, hub: Callable[..., Hub]) -> None:
    there = hub()
    stage(root, there.callback, "plain wget")
    wget = root / "stand-ins/wget"  # as BusyBox's: it knows no --ca-certificate
    wget.write_text('#!/bin/sh\n[ "$1" = --help ] && exit 0\ntouch "$REFLOAT_ROOT/used"\n')
    wget.chmod(0o755)
    with once_complete(root, lambda: uptime(root, 99)):
        run(root, "report")
    assert there.got == [] and not (root / "used").exists()


@pytest.mark.parametrize("url", ["ftp://a/b", "https://a/b'c", "https://a b/c", "https://host"])
def test_an_address_that_does_not_fit_a_shell_is_refused(root: Path, url: str) -> None:
    with pytest.raises(Refused):
        stage(root, Callback(url))


def test_without_an_address_nothing_of_it_is_staged(root: Path) -> None:
    staged = staging(asked(planned()), "systemd", SYSTEMD, interfaces(root, "ens192"), {})
    assert not [path for path in staged.files if "callback" in path]
    assert b"CALLBACK" not in staged.files["/etc/refloat/firstboot.conf"].content
