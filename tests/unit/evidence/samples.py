"""Records of one planned failover, as the steps leave them, and a store that holds them."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from refloat.errors import Failed
from refloat.model import (
    Action,
    Adaptation,
    AttachedDisk,
    AttachedNic,
    Change,
    ChangeKind,
    Decision,
    DiskBus,
    Facet,
    FacetState,
    FileState,
    Findings,
    Firmware,
    GuestCaps,
    GuestFacts,
    GuestFilesystem,
    GuestKernel,
    GuestReport,
    Hardware,
    JobState,
    Mode,
    MountReport,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    NicReport,
    Observation,
    Observer,
    OperatorDecision,
    Plan,
    PlannedDisk,
    PlannedNic,
    PowerState,
    ProbeResult,
    Proof,
    Remediation,
    RollbackPoint,
    Secrets,
    SourceDisk,
    SourceNic,
    SourceVM,
    SyncPoint,
    Verdict,
    Word,
)
from refloat.store.store import Job, Store

GIB = 2**30
TOKEN, NONCE = "tok-3f9a1c77d2e84b5e", "nonce-8861f0aa"
MAC = "52:54:00:10:20:30"

SOURCE = SourceVM(
    name="shop-db",
    uuid="9b0c1c1e-6a0f-4a57-9c5e-0d5a1b2c3d4e",
    cpus=2,
    memory=GIB,
    firmware=Firmware.BIOS,
    disks=(SourceDisk("sda", 4 * GIB, DiskBus.PVSCSI), SourceDisk("sdb", GIB, DiskBus.PVSCSI)),
    nics=(SourceNic(MAC, NicModel.VMXNET3, "source-lan"),),
)
ROOT = GuestFilesystem("sda", 1, "ext4", "c0ffee00-1111-4222-8333-444455556666", mountpoint="/")
DATA = GuestFilesystem("sdb", 1, "ext4", "da7ada7a-1111-4222-8333-444455556666", mountpoint="/srv")
NIC = NicConfig(
    "ens192",
    NicMethod.STATIC,
    ("10.20.30.40/24",),
    gateway="10.20.30.2",
    dns=("10.20.30.3",),
    search=("lab",),
)
FACTS = GuestFacts(
    family="debian",
    os_id="debian",
    os_name="Debian GNU/Linux 12 (bookworm)",
    os_version="12",
    architecture="x86_64",
    hostname="shop-db",
    firmware=Firmware.BIOS,
    bootloader="grub",
    initramfs_tool="initramfs-tools",
    network_stack="ifupdown",
    root=ROOT,
    filesystems=(ROOT, DATA),
    kernels=(GuestKernel("6.1.0-28-amd64", "/boot/initrd.img-6.1.0-28-amd64", ("virtio_blk", "virtio_net")),),
    nics=(NIC,),
    unstable_names=("/etc/fstab:1 /dev/sda1", "/etc/fstab:2 /dev/sdb1"),
    warnings=("the guest's clock is set to local time",),
)
DECISION = Decision(
    Action.ADAPT,
    (
        "initramfs of kernel 6.1.0-28-amd64 lacks virtio_blk, virtio_net",
        "disks move from pvscsi to virtio-blk",
        "/etc/fstab:1 /dev/sda1 changes with the disk bus",
    ),
)
REPORTS = (
    GuestReport(1, "b00t-1d", "configured", 9.4, "2026-03-01T10:03:30.000+00:00", root_device="/dev/vda1"),
    GuestReport(
        2,
        "b00t-1d",
        "final",
        41.7,
        "2026-03-01T10:04:02.000+00:00",
        root_device="/dev/vda1",
        kernel="6.1.0-28-amd64",
        system_state="running",
        mounts=(MountReport("/", True, "/dev/vda1"), MountReport("/srv", True, "/dev/vdb1")),
        nics=(NicReport(MAC, "enp1s0", True, ("10.20.30.40/24",), "virtio_net"),),
        gateway="10.20.30.2",
        gateway_answers=True,
        dns=("10.20.30.3",),
        drivers=("virtio_blk", "virtio_net"),
        cleaned=True,
    ),
)
FSTAB_DIFF = """--- /etc/fstab
+++ /etc/fstab
@@ -1,2 +1,2 @@
-/dev/sda1 / ext4 errors=remount-ro 0 1
-/dev/sdb1 /srv ext4 defaults 0 2
+UUID=c0ffee00-1111-4222-8333-444455556666 / ext4 errors=remount-ro 0 1
+UUID=da7ada7a-1111-4222-8333-444455556666 /srv ext4 defaults 0 2
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
        "/boot/initrd.img-6.1.0-28-amd64",
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
        Facet("disks", FacetState.VERIFIED, True, (Proof(Observer.GUEST, True, "/ and /srv are mounted"),)),
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
    GIB // 2,
    Firmware.BIOS,
    (AttachedDisk("ctl", "controller.qcow2"), AttachedDisk("r0", "r0.raw"), AttachedDisk("r1", "r1.raw")),
    (AttachedNic("52:54:00:99:00:01", "management"),),
)
RECOVERED = Hardware(
    2,
    GIB,
    Firmware.BIOS,
    (AttachedDisk("r0", "r0.qcow2"), AttachedDisk("r1", "r1.qcow2")),
    (AttachedNic(MAC, "recovery"),),
)


def plan(job_id: str) -> Plan:
    return Plan(
        job=job_id,
        mode=Mode.PLANNED,
        target="shop-db",
        decision=DECISION,
        source=SOURCE,
        facts=FACTS,
        disks=(PlannedDisk("sda", "sda", "r0", 4 * GIB), PlannedDisk("sdb", "sdb", "r1", GIB)),
        nics=(PlannedNic(MAC, MAC, "recovery", NetworkMode.RESTORE, NIC, "ens192 is static"),),
        cpus=2,
        memory=GIB,
        firmware=Firmware.BIOS,
        disk_bus=DiskBus.VIRTIO_BLK,
        nic_model=NicModel.VIRTIO,
        report_deadline=600,
        warnings=("the source VM has a floppy drive: it is not carried over",),
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
    store.ensure_target("shop-db")
    return store


def refused_job(store: Store) -> Job:
    """A job that ended in preflight: almost no record."""
    job = store.create_job("shop-db", Mode.PLANNED)
    store.set_state(job.id, JobState.RUNNING)
    store.mark(job.id, "preflight", "do")
    error = Failed("no room for the overlays: 2 GiB are missing", code="no_space", hint="free some space")
    store.finish(job.id, "preflight", "do", error)
    store.set_state(job.id, JobState.REFUSED, error)
    return store.job(job.id)


def full_job(store: Store, data_dir: Path) -> Job:
    """A job that waits for its commit, with every record that there is."""
    job = store.create_job("shop-db", Mode.PLANNED)
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
        RollbackPoint("r0", "r0.raw", "r0.overlay.qcow2", "1762-993", 1_310_720),
        RollbackPoint("r1", "r1.raw", "r1.overlay.qcow2", "1762-994", 0),
    )
    seen = Observation(
        PowerState.RUNNING, "booted", {"r0": 220_000_000, "r1": 9_000_000}, {"r0": 4_000_000}, (MAC,)
    )
    probe = ProbeResult("10.20.30.40", 22, False, "no answer within 30 s", "2026-03-01T10:04:40.000+00:00")
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
        "facts": FACTS,
        "plan": plan(job_id),
        "hardware": CONTROLLER,
        "rollback_points": points,
        "adaptation": Adaptation(caps, CHANGES, FACTS),
        "promoted": RECOVERED,
        "findings": Findings((seen,), (probe,)),
        "reports": REPORTS,
        "verdict": VERDICT,
        "decisions": (OperatorDecision("ada", "2026-03-01T10:09:00.000+00:00", "commit", "checked by hand"),),
    }
    for name, record in records.items():
        store.save(job_id, name, record)


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
