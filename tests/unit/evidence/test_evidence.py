"""The evidence of a full job, of one that was refused at once, and of one whose guest is hostile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from refloat import model
from refloat.errors import NotFound
from refloat.evidence import FORMAT, bundle, page
from refloat.evidence.collect import LIMITS, RECORDS
from refloat.evidence.render import diff_lines, timeline, value_lines
from refloat.evidence.windows import UNPROVEN
from refloat.model import (
    DriverChoice,
    DriverFile,
    Findings,
    GuestReport,
    JobState,
    ProbeKind,
    ProbeResult,
    Remediation,
    Sight,
    StageReport,
    StatusChange,
    ValueChange,
)
from refloat.store.store import Store
from tests.unit.builders import FACTS, PLAN
from tests.unit.evidence import samples
from tests.unit.windows_world import windows_facts

HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\u202e\x00{{ 7*7 }}"


class Page(HTMLParser):
    """What a browser would find in the page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = samples.new_store(tmp_path)
    yield store
    store.engine.dispose()


def full(store: Store, tmp_path: Path) -> dict[str, Any]:
    return bundle(store, samples.full_job(store, tmp_path).id, tmp_path)


def test_bundle_of_a_full_job(store: Store, tmp_path: Path) -> None:
    found = full(store, tmp_path)
    assert found["format"] == FORMAT == "refloat-evidence/1"
    assert found["verdict"]["word"] == "partial"
    assert found["decision"]["action"] == "adapt"
    assert [step["step"] for step in found["steps"]] == list(samples.STEPS)
    assert [state["state"] for state in found["states"]] == ["running", "awaiting_commit"]
    assert found["missing"] == [] and found["problems"] == []
    assert json.loads(json.dumps(found)) == found


def test_screenshots_carry_their_hash(store: Store, tmp_path: Path) -> None:
    shots = full(store, tmp_path)["screenshots"]
    assert [shot["label"] for shot in shots] == ["start", "boot", "end"]
    assert shots[0]["sha256"] == hashlib.sha256(samples.png(0)).hexdigest()
    assert shots[0]["at"] < shots[1]["at"]


def test_what_the_console_and_the_probes_showed_is_on_the_page(store: Store, tmp_path: Path) -> None:
    job = samples.full_job(store, tmp_path)
    known = store.load(job.id, "findings", Findings) or Findings()
    at = "2026-03-01T10:04:01+00:00"
    seen = Sight("kernel-panic", "Kernel panic <script>", at, "screen", "1-kernel-panic.png")
    echo = ProbeResult("10.20.30.40", 0, False, "no way", at, ProbeKind.ICMP, "echo", False, False)
    store.save(job.id, "findings", replace(known, console=(seen,), probes=(*known.probes, echo)))
    html = page(bundle(store, job.id, tmp_path))
    words = " ".join(Page(html).words.split())
    assert "<script>" not in html
    for expected in (
        "Kernel panic <script>",
        "1-kernel-panic.png",
        "echo 10.20.30.40",
        "not asked",
    ):
        assert expected in words


def test_only_real_pictures_are_taken(store: Store, tmp_path: Path) -> None:
    job = samples.full_job(store, tmp_path)
    folder = tmp_path / "jobs" / job.id / "screens"
    (folder / "010-fake.png").write_bytes(b"<svg onload=alert(1)>")
    (folder / "011-link.png").symlink_to("/etc/passwd")
    found = bundle(store, job.id, tmp_path)
    assert len(found["screenshots"]) == 3
    assert len(found["problems"]) == 2
    assert "010-fake.png" in page(found)


def test_secrets_appear_nowhere(store: Store, tmp_path: Path) -> None:
    """Not even where a record quotes them: the sample's journal holds a diff of the staged file."""
    assert samples.TOKEN in samples.CHANGES[2].diff and "secrets" not in RECORDS
    found = full(store, tmp_path)
    for text in (json.dumps(found), page(found)):
        assert samples.TOKEN not in text and samples.NONCE not in text
        assert "[secret]" in text


def test_page_of_a_full_job_says_everything(store: Store, tmp_path: Path) -> None:
    words = " ".join(Page(page(full(store, tmp_path))).words.split())
    for expected in (
        "partial",
        "network is unverified: the gateway did not answer from outside",
        "initramfs of kernel 6.1.0-28-amd64 lacks virtio_blk, virtio_net",
        "10.20.30.40:22 did not answer within 30 s",
        "platform",
        "await-report",
        "2 attempts",
        "+UUID=c0ffee00-1111-4222-8333-444455556666 / ext4",
        "checked by hand",
        "refloat-2",
        LIMITS,
    ):
        assert expected in words, expected


def test_every_attempt_at_a_step_is_there(store: Store, tmp_path: Path) -> None:
    """The sample's apply-networks failed once, and one undo died with the hub."""
    job = samples.full_job(store, tmp_path)
    for _ in range(2):
        store.mark(job.id, "start-vm", "undo")
    found = bundle(store, job.id, tmp_path)
    tried = next(step for step in found["steps"] if step["step"] == "apply-networks")
    assert tried["error"] is None and [one["number"] for one in tried["history"]] == [1, 2]
    assert tried["history"][0]["error"]["message"] == "the platform was busy"
    words = " ".join(Page(page(found)).words.split())
    for expected in (
        "attempt 1",
        "busy the platform was busy",
        "What to do: it is retried",
        "interrupted: the hub was stopped, or could not record its end",
    ):
        assert expected in words, expected


def test_page_is_self_contained(store: Store, tmp_path: Path) -> None:
    tags = Page(page(full(store, tmp_path))).tags
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    sources = [attrs["src"] for _, attrs in tags if attrs.get("src")]
    assert len(sources) == 3
    assert all(source and source.startswith("data:image/png;base64,") for source in sources)


def test_job_refused_early(store: Store, tmp_path: Path) -> None:
    job = samples.refused_job(store)
    found = bundle(store, job.id, tmp_path)
    assert found["verdict"] is None and found["decision"] is None
    assert "plan" in found["missing"] and "verdict" in found["missing"]
    words = Page(page(found)).words
    assert "no room for the overlays: 2 GiB are missing" in words
    assert "There is no plan" in words and "no verdict" in words and LIMITS in words


def test_job_that_only_just_began(store: Store, tmp_path: Path) -> None:
    job = store.create_job(PLAN.target, model.Mode.PLANNED)
    assert "No step was started" in page(bundle(store, job.id, tmp_path))


@pytest.mark.parametrize("name", sorted(set(RECORDS) - {"secrets"}))
def test_any_record_can_be_absent(store: Store, tmp_path: Path, name: str) -> None:
    found = full(store, tmp_path)
    found[name] = None
    assert LIMITS in page(found)


def test_record_of_another_version_is_named_and_left_out(store: Store, tmp_path: Path) -> None:
    job = samples.full_job(store, tmp_path)
    store.save(job.id, "facts", {"from": "the future"})
    found = bundle(store, job.id, tmp_path)
    assert found["facts"] is None and "record facts cannot be read" in found["problems"][0]
    assert "record facts cannot be read" in page(found)


def test_hostile_text_stays_text(store: Store, tmp_path: Path) -> None:
    job = samples.full_job(store, tmp_path)
    report = GuestReport(
        3, HOSTILE, "final", 1.0, "2026-03-01T10:04:02.000+00:00", HOSTILE, problems=(HOSTILE,)
    )
    store.save(job.id, "reports", (report,))
    change = replace(samples.CHANGES[0], path=HOSTILE, diff=HOSTILE, reason=HOSTILE)
    store.save(job.id, "adaptation", model.Adaptation(_caps(), (change,), FACTS))
    html = page(bundle(store, job.id, tmp_path))
    parsed = Page(html)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert not any(name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    assert not any(character in html for character in "\x1b\u202e\x00")
    assert "<script>alert(1)</script>" in parsed.words and "{{ 7*7 }}" in parsed.words


def _caps() -> model.GuestCaps:
    return model.GuestCaps((), (), model.Firmware.BIOS, False, model.Remediation.SCHEDULED)


def test_undo_steps_have_a_timeline_of_their_own(store: Store, tmp_path: Path) -> None:
    job = samples.full_job(store, tmp_path)
    store.mark(job.id, "start-vm", "undo")
    store.set_state(job.id, JobState.ROLLING_BACK)
    words = Page(page(bundle(store, job.id, tmp_path))).words
    assert "Rollback" in words and "not finished" in words


def test_unknown_job(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        bundle(store, "nothing", tmp_path)


def test_bars_stay_inside_their_track() -> None:
    def step(start: int, end: int | None) -> dict[str, Any]:
        stamp = "2026-03-01T10:00:{:02d}.000+00:00"
        return {"started": stamp.format(start), "finished": "" if end is None else stamp.format(end)}

    bars = timeline([step(0, 10), step(10, 10), step(20, 40), step(40, None)])
    assert [bar["seconds"] for bar in bars] == [10, 0, 20, None]
    assert [bar["left"] for bar in bars[:3]] == [0, 25, 50]
    assert all(bar["left"] + bar["width"] <= 100.01 for bar in bars)
    assert timeline([]) == []


def test_diff_lines_are_classified_and_bounded() -> None:
    assert [kind for kind, _ in diff_lines("--- a\n+++ b\n@@ -1 +1 @@\n-x\n+y\n z")] == [
        *("hunk", "hunk", "hunk"),
        *("minus", "plus", "same"),
    ]
    many = diff_lines("+\n" * 5000)
    assert len(many) == 601 and "4400 more lines" in many[-1][1]


VALUES = (
    ValueChange(r"SYSTEM\ControlSet001\Services\viostor", "Start", "dword:00000003", "dword:00000000"),
    ValueChange(r"SYSTEM\ControlSet001\Services\viostor", "Group", None, '"SCSI miniport"'),
    ValueChange(r"SYSTEM\ControlSet001\Services\viostor\StartOverride", None, "", None),
    ValueChange(r"SOFTWARE\Refloat", "", None, f'"{HOSTILE}"'),
)


def windows_job(store: Store, tmp_path: Path) -> dict[str, Any]:
    job = samples.full_job(store, tmp_path)
    facts = windows_facts()
    files = (DriverFile("viostor/viostor.sys", 4096, "d" * 64),)
    chosen = DriverChoice("/srv/virtio-win.iso", "c" * 64, "2k22", "amd64", files)
    change = replace(samples.CHANGES[0], path="/C/Windows/System32/config/SYSTEM", diff="", values=VALUES)
    stages = (StageReport("drivers", "failed", True, 3, "viostor: 1603"),)
    report = replace(samples.REPORTS[1], status=Remediation.FAILED, stage="drivers", stages=stages)
    changes = (
        StatusChange("2026-03-01T10:03:00.000+00:00", Remediation.SCHEDULED, "staged"),
        StatusChange("2026-03-01T10:04:00.000+00:00", Remediation.FAILED, "report 7 of the guest"),
    )
    store.save(job.id, "facts", facts)
    store.save(job.id, "plan", replace(PLAN, job=job.id, facts=facts, drivers=chosen))
    store.save(job.id, "adaptation", model.Adaptation(_caps(), (change,), facts))
    store.save(job.id, "reports", (report,))
    store.save(job.id, "remediation", changes)
    return bundle(store, job.id, tmp_path)


def test_a_windows_guests_evidence_says_what_it_does_not_prove(store: Store, tmp_path: Path) -> None:
    found = windows_job(store, tmp_path)
    words = " ".join(Page(page(found)).words.split())
    assert found["unproven"] == list(UNPROVEN)
    for expected in ("What is not proven", *UNPROVEN):
        assert expected in words, expected


def test_a_linux_guests_evidence_has_no_words_on_windows(store: Store, tmp_path: Path) -> None:
    found = full(store, tmp_path)
    assert found["unproven"] == [] and "What is not proven" not in Page(page(found)).words


def test_registry_changes_are_read_value_by_value(store: Store, tmp_path: Path) -> None:
    html = page(windows_job(store, tmp_path))
    lines = Page(html).words.splitlines()
    for expected in (
        r" [SYSTEM\ControlSet001\Services\viostor]",
        '-"Start"=dword:00000003',
        '+"Start"=dword:00000000',
        '+"Group"="SCSI miniport"',
        r" [SYSTEM\ControlSet001\Services\viostor\StartOverride]",
        "-the key",
        r" [SOFTWARE\Refloat]",
    ):
        assert expected in lines, expected
    assert any(line.startswith("+@=") and "{{ 7*7 }}" in line for line in lines)
    assert "script" not in {tag for tag, _ in Page(html).tags}


def test_drivers_stages_and_statuses_are_in_the_page(store: Store, tmp_path: Path) -> None:
    words = " ".join(Page(page(windows_job(store, tmp_path))).words.split())
    for expected in (
        *("/srv/virtio-win.iso", "c" * 64, "2k22 amd64", "viostor/viostor.sys", "d" * 64),
        *("viostor: 1603", "drivers required", "report 7 of the guest", "scheduled", "20348"),
    ):
        assert expected in words, expected


def test_many_registry_values_are_bounded() -> None:
    values = [{"key": f"SYSTEM\\K{n}", "name": "x", "before": None, "after": "dword:0"} for n in range(5000)]
    shown = value_lines(values)
    assert len(shown) == 601 and "9400 more lines" in shown[-1][1]
