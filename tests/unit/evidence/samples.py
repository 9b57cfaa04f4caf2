"""A store that holds the records of one planned failover: the builders', and what only a proof needs."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from refloat.errors import Failed
from refloat.model import (
    Adaptation,
    AttachedDisk,
    AttachedNic,
    Change,
    ChangeKind,
    DiskBus,
    Facet,
    FacetState,
    FileState,
    Firmware,
    GuestCaps,
    GuestReport,
    Hardware,
    JobState,
    Mode,
    NicModel,
    Observer,
    OperatorDecision,
    Proof,
    Remediation,
    RollbackPoint,
    Secrets,
    StatusChange,
    SyncPoint,
    Verdict,
    Word,
)
from refloat.policy import Policy
from refloat.store.store import Job, Store
from tests.unit.builders import DATA, FACTS, FINDINGS, KERNEL, PLAN, PROMOTED, REPORT, ROOT, SOURCE, replace

TOKEN, NONCE = "tok-3f9a1c77d2e84b5e", "nonce-8861f0aa"
REPORTS = (
    GuestReport(1, REPORT.boot_id, "configured", 9.4, "2026-03-01T10:03:30.000+00:00"),
    replace(REPORT, received="2026-03-01T10:04:02.000+00:00"),
)
SILENT = replace(FINDINGS.probes[0], answered=False, text="no answer within 30 s")
FSTAB_DIFF = f"""--- /etc/fstab
+++ /etc/fstab
@@ -1,2 +1,2 @@
-/dev/sda1 / ext4 errors=remount-ro 0 1
-/dev/sdb1 /srv/data ext4 defaults 0 2
+UUID={ROOT.uuid} / ext4 errors=remount-ro 0 1
+UUID={DATA.uuid} /srv/data ext4 defaults 0 2
"""
CHANGES = (
    Change(
        1,
        "/etc/fstab",
        ChangeKind.FILE,
        FileState("a" * 64, 84, 0o644),
        FileState("b" * 64, 142, 0o644),
        "names like /dev/sda1 change with the disk bus",
        FSTAB_DIFF,
    ),
    Change(
        2,
        f"/boot/initrd.img-{KERNEL}",
        ChangeKind.FILE,
        FileState("c" * 64, 31_457_280, 0o644),
        FileState("d" * 64, 31_981_568, 0o644),
        "virtio_blk is appended: without it the root filesystem is never found",
    ),
    Change(
        3,
        "/etc/refloat/firstboot.conf",
        ChangeKind.FILE,
        None,
        FileState("e" * 64, 300, 0o600),
        "what the first boot needs to know",
        f"--- /dev/null\n+++ /etc/refloat/firstboot.conf\n@@ -0,0 +1,2 @@\n+token={TOKEN}\n+nonce={NONCE}\n",
    ),
    Change(
        4,
        "/etc/systemd/system/local-fs.target.wants/refloat-configure.service",
        ChangeKind.SYMLINK,
        None,
        FileState(target="/etc/systemd/system/refloat-configure.service"),
        "runs before the network is set up",
    ),
)
VERDICT = Verdict(
    Word.PARTIAL,
    ("network is unverified: the gateway did not answer from outside",),
    (
        Facet(
            "boot",
            FacetState.VERIFIED,
            True,
            (
                Proof(Observer.GUEST, True, "root is /dev/vda1, system is running"),
                Proof(Observer.PLATFORM, True, "running for 45 s, 210 MiB read from the root disk"),
            ),
        ),
        Facet(
            "disks", FacetState.VERIFIED, True, (Proof(Observer.GUEST, True, "/ and /srv/data are mounted"),)
        ),
        Facet(
            "network",
            FacetState.UNVERIFIED,
            True,
            (
                Proof(Observer.GUEST, True, "enp1s0 has 10.20.30.40/24"),
                Proof(Observer.PLATFORM, False, "10.20.30.40:22 did not answer within 30 s"),
            ),
        ),
        Facet("drivers", FacetState.VERIFIED, True, (Proof(Observer.GUEST, True, "virtio_blk, virtio_net"),)),
        Facet("agent", FacetState.UNVERIFIED, False, ()),
        Facet("clean-up", FacetState.FAILED, False, (Proof(Observer.GUEST, False, "one unit is left"),)),
    ),
)
CONTROLLER = Hardware(
    1,
    1 << 29,
    Firmware.BIOS,
    (AttachedDisk("rf-controller", "controller.qcow2"), *PROMOTED.disks),
    (AttachedNic("52:54:00:99:00:01", "management"),),
)


STEPS = (
    "preflight",
    "power-off-source",
    "final-sync",
    "stop-exports",
    "snapshot-disks",
    "adapt-guest",
    "stop-controller",
    "apply-compute",
    "reorder-disks",
    "apply-networks",
    "apply-firmware",
    "start-vm",
    "validate",
    "await-report",
)


def new_store(folder: Path) -> Store:
    store = Store.open(folder / "refloat.sqlite")
    store.ensure_target(PLAN.target)
    return store


def refused_job(store: Store) -> Job:
    """A job that ended in preflight: almost no record."""
    job = store.create_job(PLAN.target, Mode.PLANNED)
    store.set_state(job.id, JobState.RUNNING)
    store.mark(job.id, "preflight", "do")
    error = Failed("no room for the overlays: 2 GiB are missing", code="no_space", hint="free some space")
    store.finish(job.id, "preflight", "do", error)
    store.set_state(job.id, JobState.REFUSED, error)
    return store.job(job.id)


def full_job(store: Store, data_dir: Path) -> Job:
    """A job that waits for its commit, with every record that there is."""
    job = store.create_job(PLAN.target, Mode.PLANNED)
    store.set_state(job.id, JobState.RUNNING)
    for step in STEPS:
        store.mark(job.id, step, "do")
        if step == "apply-networks":
            store.finish(
                job.id, step, "do", Failed("the platform was busy", code="busy", hint="it is retried")
            )
            store.mark(job.id, step, "do")
        store.finish(job.id, step, "do")
    _save_records(store, job.id)
    _screenshots(data_dir / "jobs" / job.id / "screens")
    store.set_state(job.id, JobState.AWAITING_COMMIT)
    return store.job(job.id)


def _save_records(store: Store, job_id: str) -> None:
    points = (
        RollbackPoint("rf-sda", "/a", "/a.overlay", "1762-993", 1_310_720),
        RollbackPoint("rf-sdb", "/b", "/b.overlay", "1762-994", 0),
    )
    sync_point = SyncPoint(
        "sp-2", "2026-03-01T10:01:00.000+00:00", "refloat-2", "changed", 7_340_032, "bitmap"
    )
    caps = GuestCaps(
        (DiskBus.VIRTIO_BLK,), (NicModel.VIRTIO,), Firmware.BIOS, True, Remediation.SCHEDULED, ("virtio_blk",)
    )
    records = {
        "secrets": Secrets(TOKEN, NONCE),
        "inventory": SOURCE,
        "sync_point": sync_point,
        "facts": replace(FACTS, warnings=("the guest's clock is set to local time",)),
        "plan": replace(PLAN, job=job_id, warnings=("the source VM has a floppy drive",)),
        "hardware": CONTROLLER,
        "rollback_points": points,
        "adaptation": Adaptation(caps, CHANGES, FACTS),
        "promoted": PROMOTED,
        "findings": replace(FINDINGS, probes=(SILENT,)),
        "reports": REPORTS,
        "remediation": (StatusChange("2026-03-01T10:04:02.000+00:00", Remediation.SUCCEEDED, "report 2"),),
        "verdict": VERDICT,
        "decisions": (OperatorDecision("ada", "2026-03-01T10:09:00.000+00:00", "commit", "checked by hand"),),
    }
    for name, record in records.items():
        store.save(job_id, name, record)
    store.save(job_id, "policy", Policy())


def _screenshots(folder: Path) -> None:
    folder.mkdir(parents=True)
    for index, label in enumerate(("start", "boot", "end")):
        file = folder / f"{index:03d}-{label}.png"
        file.write_bytes(png(index))
        os.utime(file, (1_772_359_400 + 20 * index,) * 2)


def png(shade: int, width: int = 320, height: int = 180) -> bytes:
    """A small picture with some lines, as a text console has."""
    rows = bytearray()
    for y in range(height):
        lit = y % 12 < 7 and y < 60 * (shade + 1)
        text = (b"\xb0" * (60 + 37 * (y // 12) % 200)) if lit else b""
        rows += b"\x00" + text.ljust(width, b"\x10")
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows))), (b"IEND", b""))
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + chunks
