"""Guest reports are hostile input: origin, order, size and form are checked, and nothing else is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.model import FileReport, GuestReport, LinkReport, Remediation, Secrets, StageReport
from refloat.reports import REPORT_LIMIT, Lines, ReportRejected, check_boot, parse_report, sequence_of
from tests.unit.builders import REPORT, replace

SECRETS = Secrets("t" * 48, "n" * 32)


def line(**changes: Any) -> bytes:
    data = {
        "v": 1,
        "job": "web-1",
        "token": SECRETS.token,
        "nonce": SECRETS.nonce,
        "boot_id": "b0",
        "seq": 3,
        "stage": "final",
        "uptime": 61.5,
        "root_device": "/dev/vda1",
        "mounts": [{"mountpoint": "/", "mounted": True, "device": "/dev/vda1"}],
        "nics": [{"mac": "00:50:56:AA:BB:CC", "name": "enp1s0", "up": True, "addresses": ["10.0.0.1/24"]}],
        "cleaned": True,
    }
    data.update(changes)
    return json.dumps({key: value for key, value in data.items() if value is not ...}).encode()


def test_a_good_report_is_taken() -> None:
    report = parse_report(line(), "web-1", SECRETS, None)
    assert (report.sequence, report.stage, report.uptime) == (3, "final", 61.5)
    assert report.nics[0].mac == "00:50:56:aa:bb:cc"


def test_what_only_newer_guests_say() -> None:
    report = parse_report(
        line(
            gateway6="fe80::1",
            gateway6_answers=True,
            search=["example.org"],
            links=[{"name": "bond0", "up": True, "addresses": ["10.0.0.1/24"]}],
            changes=[{"path": "/etc/network/interfaces", "before": "a" * 64, "after": "b" * 64}],
        ),
        "web-1",
        SECRETS,
        None,
    )
    assert (report.gateway6, report.gateway6_answers, report.search) == ("fe80::1", True, ("example.org",))
    assert report.links == (LinkReport("bond0", True, ("10.0.0.1/24",)),)
    assert report.changes == (FileReport("/etc/network/interfaces", "a" * 64, "b" * 64),)
    assert parse_report(line(), "web-1", SECRETS, None).links == ()


def windows(**changes: Any) -> bytes:
    stages = [{"name": "drivers", "state": "done", "required": True, "attempts": 1, "text": "7 of 7"}]
    return line(**{"status": "running", "stage": "drivers", "stages": stages, "reboots": 0, **changes})


def test_a_guest_with_stages_says_its_status() -> None:
    report = parse_report(windows(), "web-1", SECRETS, None)
    assert (report.status, report.stage, report.final) == (Remediation.RUNNING, "drivers", False)
    assert report.stages == (StageReport("drivers", "done", True, 1, "7 of 7"),)
    assert parse_report(windows(status="failed", stage=""), "web-1", SECRETS, None).final
    assert not parse_report(windows(stage="final"), "web-1", SECRETS, None).final


@pytest.mark.parametrize(
    ("said", "boot"), [("boot-2-20260131120001", "boot-2"), ("boot-2", "boot-2"), ("boot-2x", "boot-2x")]
)
def test_a_counted_boot_is_named_by_its_count(said: str, boot: str) -> None:
    assert parse_report(windows(boot_id=said), "web-1", SECRETS, None).boot_id == boot


def boots(*rows: tuple[str, Remediation, int]) -> list[GuestReport]:
    return [
        replace(REPORT, sequence=number, boot_id=boot, status=status, reboots=reboots)
        for number, (boot, status, reboots) in enumerate(rows)
    ]


RUNNING, AWAITING = Remediation.RUNNING, Remediation.AWAITING_REBOOT
SEVEN = [(f"b{number}", AWAITING, min(number, 3)) for number in range(7)]


@pytest.mark.parametrize(
    ("rows", "good"),
    [
        ([("b0", RUNNING, 0)], True),
        ([("b0", RUNNING, 0), ("b0", RUNNING, 0)], True),
        ([("b0", AWAITING, 1), ("b1", RUNNING, 1)], True),
        ([("b0", RUNNING, 0), ("b1", RUNNING, 0)], True),  # not announced: remediation.py judges that
        (SEVEN, True),
        ([("b0", AWAITING, 1), ("b1", AWAITING, 2), ("b0", RUNNING, 3)], False),
        ([*SEVEN, ("b7", RUNNING, 3)], False),
    ],
)
def test_boots_are_counted_and_never_come_back(rows: list[tuple[str, Remediation, int]], good: bool) -> None:
    *known, last = boots(*rows)
    if good:
        check_boot(last, known)
        return
    with pytest.raises(ReportRejected) as caught:
        check_boot(last, known)
    assert caught.value.code == "report_other_boot"


BAD = {
    "an unknown status": windows(status="splendid"),
    "a status of another type": windows(status=["running"]),
    "a status that means that nothing runs": windows(status="not_required"),
    "more restarts than there may be": windows(reboots=4),
    "a stage that is no object": windows(stages=["drivers"]),
    "too many attempts": windows(stages=[{"attempts": 10**9}]),
    "links that are no objects": line(links=["bond0"]),
    "too many changes": line(changes=[{}] * 300),
    "a change without words": line(changes=[{"path": 7}]),
    "not JSON": b"{",
    "no object": b"[]",
    "another version": line(v=2),
    "another job": line(job="web-2"),
    "no token": line(token=...),
    "a wrong token": line(token="x"),
    "a token of another type": line(token=["t"]),
    "a token with lone surrogates": line(token="\ud800"),
    "an uptime beyond any float": line(uptime=10**400),
    "a wrong nonce": line(nonce="x" * 32),
    "no sequence": line(seq=...),
    "a negative sequence": line(seq=-1),
    "a boolean sequence": line(seq=True),
    "an unknown stage": line(stage="done"),
    "an endless uptime": line(uptime=float("inf")),
    "a clock that is a text": line(clock="noon"),
    "a clock before 1970": line(clock=-1),
    "a text that is too long": line(kernel="x" * 300),
    "a list that is too long": line(dns=["10.0.0.1"] * 300),
    "a mount that is no object": line(mounts=["/"]),
    "a flag that is a text": line(cleaned="yes"),
    "deep nesting": b"[" * 100_000,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_reports_are_rejected(name: str) -> None:
    with pytest.raises(ReportRejected):
        parse_report(BAD[name], "web-1", SECRETS, None)


def test_a_sequence_that_does_not_rise_is_a_replay() -> None:
    with pytest.raises(ReportRejected) as caught:
        parse_report(line(seq=2), "web-1", SECRETS, replace(REPORT, sequence=2))
    assert caught.value.code == "report_replayed"
    assert sequence_of(line(seq=2)) == 2


def test_control_characters_do_not_pass() -> None:
    assert parse_report(line(kernel="6.1\x1b[31m"), "web-1", SECRETS, None).kernel == "6.1[31m"


@given(st.binary(max_size=400))
def test_any_bytes_are_rejected_or_parsed(data: bytes) -> None:
    with pytest.raises(ReportRejected):
        parse_report(data, "web-1", SECRETS, None)


@given(st.lists(st.binary(max_size=50)), st.integers(1, 7))
def test_lines_are_whole_however_they_arrive(parts: list[bytes], size: int) -> None:
    stream = b"".join(part.replace(b"\n", b"") + b"\n" for part in parts)
    lines, got = Lines(), []
    for start in range(0, len(stream), size):
        got += list(lines.feed(stream[start : start + size]))
    assert got == [line for part in parts if (line := part.replace(b"\n", b"")).strip()]


def test_a_line_without_end_is_dropped_in_bounded_memory() -> None:
    lines = Lines()
    for _ in range(20):
        assert list(lines.feed(b"x" * REPORT_LIMIT)) == []
    assert list(lines.feed(b"tail\nnext\n")) == [b"next"]
