"""Small, complete records for tests: each test changes what it is about."""

from __future__ import annotations

from dataclasses import replace

from refloat.model import (
    Action,
    AttachedDisk,
    AttachedNic,
    Decision,
    DiskBus,
    Findings,
    Firmware,
    GuestFacts,
    GuestFilesystem,
    GuestKernel,
    GuestReport,
    Hardware,
    Mode,
    MountReport,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    NicReport,
    Observation,
    Plan,
    PlannedDisk,
    PlannedNic,
    PowerState,
    ProbeResult,
    SourceDisk,
    SourceNic,
    SourceVM,
)

MAC = "00:50:56:aa:bb:cc"
ROOT = GuestFilesystem("sda", 1, "ext4", "c0ffee00-1111-4222-8333-444455556666", mountpoint="/")
DATA = GuestFilesystem("sdb", 1, "ext4", "da7ada7a-1111-4222-8333-444455556666", mountpoint="/srv/data")
KERNEL = "6.1.0-28-amd64"

SOURCE = SourceVM(
    name="web",
    uuid="0b6f5e0a-0000-4000-8000-000000000001",
    cpus=2,
    memory=1 << 30,
    firmware=Firmware.BIOS,
    disks=(SourceDisk("sda", 2 << 30, DiskBus.PVSCSI), SourceDisk("sdb", 1 << 28, DiskBus.PVSCSI)),
    nics=(SourceNic(MAC, NicModel.VMXNET3, "user"),),
)

CONFIG = NicConfig("ens192", NicMethod.STATIC, ("10.20.30.40/24",), "10.20.30.2", ("10.20.30.3",), ("lab",))

FACTS = GuestFacts(
    family="debian",
    os_id="debian",
    os_name="Debian GNU/Linux 12 (bookworm)",
    os_version="12",
    architecture="x86_64",
    hostname="lab-web",
    firmware=Firmware.BIOS,
    bootloader="grub2",
    initramfs_tool="initramfs-tools",
    network_stack="ifupdown",
    root=ROOT,
    filesystems=(ROOT, DATA),
    kernels=(GuestKernel(KERNEL, f"/boot/initrd.img-{KERNEL}", ("virtio_blk", "virtio_net")),),
    nics=(CONFIG,),
    unstable_names=("/etc/fstab:1 /dev/sda1", "/etc/fstab:2 /dev/sdb1"),
)

DECISION = Decision(
    Action.ADAPT,
    (
        f"initramfs of kernel {KERNEL} lacks virtio_blk, virtio_net",
        "disks move from pvscsi to virtio-blk",
        "/etc/fstab:1 /dev/sda1 changes with the disk bus",
    ),
)

PLAN = Plan(
    job="web-1",
    mode=Mode.PLANNED,
    target="web",
    decision=DECISION,
    source=SOURCE,
    facts=FACTS,
    disks=(PlannedDisk("sda", "sda", "rf-sda", 2 << 30), PlannedDisk("sdb", "sdb", "rf-sdb", 1 << 28)),
    nics=(PlannedNic(MAC, MAC, "production", NetworkMode.RESTORE, CONFIG, "static"),),
    cpus=2,
    memory=1 << 30,
    firmware=Firmware.BIOS,
    disk_bus=DiskBus.VIRTIO_BLK,
    nic_model=NicModel.VIRTIO,
    report_deadline=420,
)

PROMOTED = Hardware(
    cpus=2,
    memory=1 << 30,
    firmware=Firmware.BIOS,
    disks=(AttachedDisk("rf-sda", "/a"), AttachedDisk("rf-sdb", "/b")),
    nics=(AttachedNic(MAC, "production"),),
)

FINDINGS = Findings(
    source=PowerState.OFF,
    observations=(Observation(PowerState.RUNNING, "", {"rf-sda": 1 << 20, "rf-sdb": 4096}, {}, (MAC,)),),
    probes=(ProbeResult("10.20.30.40", 22, True, "said 'SSH-2.0-'", "2026-01-01T00:00:00+00:00"),),
)

REPORT = GuestReport(
    sequence=2,
    boot_id="b0",
    stage="final",
    uptime=61.0,
    received="2026-01-01T00:00:00+00:00",
    root_device="/dev/vda1",
    kernel=KERNEL,
    system_state="running",
    mounts=(MountReport("/", True, "/dev/vda1"), MountReport("/srv/data", True, "/dev/vdb1")),
    nics=(NicReport(MAC, "enp1s0", True, ("10.20.30.40/24",), "virtio_net"),),
    gateway="10.20.30.2",
    gateway_answers=True,
    dns=("10.20.30.3",),
    drivers=("virtio_blk", "virtio_net"),
    cleaned=True,
)

__all__ = [
    "CONFIG",
    "DATA",
    "DECISION",
    "FACTS",
    "FINDINGS",
    "KERNEL",
    "MAC",
    "PLAN",
    "PROMOTED",
    "REPORT",
    "ROOT",
    "SOURCE",
    "replace",
]
