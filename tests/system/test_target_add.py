"""`refloat target add` on a real libvirt through ssh: a controller out of the image, a sync, a failover."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from refloat.api.reports import ReportServer, callback_of
from refloat.command import run
from refloat.config import check_reports, load_config
from refloat.destinations.libvirt import LibvirtDestination
from refloat.errors import NotFound, RefloatError, Refused
from refloat.hub import Hub, open_hub
from refloat.lab.estate import TARGET
from refloat.lab.hub import start_hub, stop_hub
from refloat.lab.images import controller_image
from refloat.lab.lab import down, make
from refloat.lab.layout import Lab
from refloat.model import GuestReport, JobState, Mode, PowerState, Word
from refloat.store.inbox import count_lines
from tests.contract.libvirt_ssh import libvirt_over_ssh, ssh_missing

pytestmark = [
    pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="takes minutes: --all"),
    pytest.mark.timeout(900),
]

CONTROLLER = "refloat-add-made"
ADDRESS = "10.90.0.77"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab whose estate wishes for a controller instead of naming the one that is made with the lab."""
    if reason := ssh_missing():
        pytest.skip(reason)
    made = Lab("refloat-add", Path("/var/lib/refloat-add"), "127.0.0.1:8421")
    try:
        down(made, print)
    except RefloatError as error:
        pytest.skip(f"needs libvirt: {error}")
    try:
        make(made, print)
        LibvirtDestination(made.uri, {}).destroy(made.controller_vm)
        for left in made.images.glob("replica-*"):
            left.unlink()
        (made.images / "controller.raw").unlink()
        with libvirt_over_ssh() as remote:
            estate = wish(yaml.safe_load(made.estate.read_text()), made)
            # The recovery site is reached through ssh: what went by a local path would fail at a real one.
            estate["sites"]["lab-recovery"]["uri"] = remote
            made.estate.write_text(yaml.safe_dump(estate))
            start_hub(made)
            yield made
            stop_hub(made)
    finally:
        if not os.environ.get("REFLOAT_KEEP_LAB"):
            LibvirtDestination(made.uri, {}).destroy(CONTROLLER)
            down(made, print)


def wish(estate: dict[str, Any], lab: Lab) -> dict[str, Any]:
    target = estate["targets"][TARGET]
    del target["controller"], target["disks"]
    target["provision"] = {
        "vm": CONTROLLER,
        "image": str(controller_image(print)),
        "network": "management",
        "address": f"{ADDRESS}/24",
        "storage": lab.name,
    }
    return estate


def refloat(lab: Lab, *arguments: str) -> Any:
    """One command of the operator's, with its JSON."""
    argv = [sys.executable, "-m", "refloat", *arguments, "--json"]
    return json.loads(run(argv, timeout=900, env={"REFLOAT_CONFIG": str(lab.config)}).text)


def test_from_an_estate_file_to_a_target_that_is_ready(lab: Lab) -> None:
    status = refloat(lab, "target", "add", TARGET)
    assert status["state"] == "ready" and not status["message"], status
    assert status["sync_point"]["how"] == "full"
    assert status["readiness"]["ready"], status["readiness"]
    destination = LibvirtDestination(lab.uri, {})
    assert destination.power_state(CONTROLLER) is PowerState.RUNNING
    serials = [disk.serial for disk in destination.hardware(CONTROLLER).disks]
    assert len(serials) == 3 and serials[0] == "rf-controller"
    replica = Path(destination.hardware(CONTROLLER).disks[1].volume)
    source = lab.images / "source-sda.qcow2"
    compared = run(["qemu-img", "compare", "-U", "-f", "raw", "-F", "qcow2", str(replica), str(source)])
    assert "identical" in compared.text
    assert not (lab.hub_data / "targets" / TARGET / "keys" / "host").exists()
    # A hub that starts again knows the target that was made.
    stop_hub(lab)
    start_hub(lab)
    assert refloat(lab, "target", "sync", TARGET)["state"] == "ready"


def test_a_guest_that_is_heard_by_the_network_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real guest boots, and nobody opens its virtio port. It has no program for TLS, so the hub is at the
    gateway of its user-mode network by plain HTTP, as only a lab may be."""

    def none(*_: object) -> None:
        raise Refused("no channel", code="no_channel")

    stop_hub(lab)
    monkeypatch.setattr(LibvirtDestination, "channel", none)
    config = replace(
        load_config(lab.config, {}), report_url="http://10.20.30.2:8422", report_listen="127.0.0.1:8422"
    )
    check_reports(config)
    server = ReportServer(config)
    hub = open_hub(config, callback_of(config))
    server.start(hub.take_report)
    try:
        job = hub.start_failover(TARGET, Mode.PLANNED).id
        wait_for(hub, job, JobState.AWAITING_COMMIT)
        reports = hub.store.load(job, "reports", tuple[GuestReport, ...]) or ()
        assert [report.stage for report in reports] == ["configured", "final"]
        assert count_lines(hub.store, job) == (2, 2)
        found = hub.outcome(job)[1]
        assert found and found.word is Word.SUCCEEDED, found
        hub.rollback(job, "tester", discard_writes=True)
        wait_for(hub, job, JobState.ROLLED_BACK)
    finally:
        server.stop()
        hub.close()
        start_hub(lab)


def wait_for(hub: Hub, job: str, state: JobState) -> None:
    deadline = time.monotonic() + 600
    while (now := hub.job(job)).state is not state:
        assert now.state in (
            JobState.QUEUED,
            JobState.RUNNING,
            JobState.AWAITING_COMMIT,
            JobState.ROLLING_BACK,
        ), now
        assert time.monotonic() < deadline, now
        time.sleep(0.5)


def test_what_was_made_goes_again(lab: Lab) -> None:
    refloat(lab, "target", "remove", TARGET, "--yes")
    with pytest.raises(NotFound):
        LibvirtDestination(lab.uri, {}).power_state(CONTROLLER)
    assert sorted(path.name for path in lab.images.iterdir()) == ["source-sda.qcow2", "source-sdb.qcow2"]
