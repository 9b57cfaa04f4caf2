"""From the staged script to the verdict: what it reports when it is interpreted, as the hub judges it."""

from __future__ import annotations

import pytest

from refloat.model import (
    AttachedDisk,
    AttachedNic,
    Findings,
    GuestReport,
    Hardware,
    Observation,
    Plan,
    PowerState,
    Remediation,
    Verdict,
    Word,
)
from refloat.reports import check_boot
from refloat.verdict import facets, verdict
from tests.unit.builders import PLAN, PROMOTED, replace
from tests.unit.windows.test_firstboot_script import _run, _windows
from tests.unit.windows.test_firstboot_staging import CASES, FACTS

REQUEST = CASES["restore"]


def judged(reports: list[GuestReport]) -> Verdict:
    """With a platform that saw nothing amiss."""
    for number, report in enumerate(reports):
        check_boot(report, reports[:number])
    plan: Plan = replace(
        PLAN,
        facts=FACTS,
        disks=REQUEST.disks,
        nics=REQUEST.nics,
        disk_bus=REQUEST.disk_bus,
        nic_model=REQUEST.nic_model,
        report_deadline=REQUEST.report_deadline,
    )
    hardware: Hardware = replace(
        PROMOTED,
        disks=tuple(AttachedDisk(disk.serial, "/v", REQUEST.disk_bus) for disk in REQUEST.disks),
        nics=tuple(AttachedNic(nic.mac, nic.network, REQUEST.nic_model) for nic in REQUEST.nics),
    )
    read = {disk.serial: 1 << 20 for disk in REQUEST.disks}
    linked = tuple(nic.mac for nic in REQUEST.nics)
    seen = Observation(PowerState.RUNNING, "", read, {}, linked)
    return verdict(facets(plan, hardware, Findings((seen,), source=PowerState.OFF), reports))


@pytest.mark.parametrize("modern", [True, False], ids=["2022", "2008 R2"])
def test_a_guest_in_which_all_works_is_a_success(modern: bool) -> None:
    found = judged(_run(_windows(modern)))
    assert found.word is Word.SUCCEEDED, found.reasons


def test_a_restart_that_was_announced_is_none_to_complain_of() -> None:
    windows = _windows()
    windows.needs_restart = True
    windows.codes = {"netkvm.inf": 3010}
    windows.devices[1].properties["ConfigManagerErrorCode"] = 0
    reports = _run(windows)
    assert Remediation.AWAITING_REBOOT in [report.status for report in reports]
    assert len({report.boot_id for report in reports}) == 2
    found = judged(reports)
    assert found.word is Word.SUCCEEDED, found.reasons


def test_a_guest_without_its_adapter_fails() -> None:
    windows = _windows()
    windows.adapters.clear()
    found = judged(_run(windows))
    assert found.word is Word.FAILED
    assert any("no adapter has the planned MAC" in reason for reason in found.reasons)
