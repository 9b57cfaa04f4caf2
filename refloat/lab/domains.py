"""The lab's two VMs: the controller as Refloat provisions one, the source as VMware would run it."""

from __future__ import annotations

from refloat.destinations.libvirt_spec import DiskSpec, DomainSpec, DomainType, NetworkAttach, NicSpec
from refloat.lab.estate import DATA_SERIAL, SYSTEM_SERIAL
from refloat.lab.layout import CONTROLLER_MAC, MANAGEMENT_SUBNET, MIB, SOURCE_MAC, SOURCE_SUBNET, Lab
from refloat.lab.source_domain import render_source

CONTROLLER_CPUS, CONTROLLER_MEMORY = 2, 1024 * MIB
SOURCE_CPUS, SOURCE_MEMORY = 1, 768 * MIB


def controller_spec(lab: Lab, identity: str, kind: DomainType) -> DomainSpec:
    return DomainSpec(
        name=lab.controller_vm,
        uuid=identity,
        type=kind,
        cpus=CONTROLLER_CPUS,
        memory=CONTROLLER_MEMORY,
        role="controller",
        cpu_model="host-model" if kind is DomainType.KVM else "qemu64",
        disks=(
            DiskSpec("rf-controller", str(lab.images / "controller.raw"), "raw"),
            DiskSpec(SYSTEM_SERIAL, str(lab.images / "replica-sda.raw"), "raw"),
            DiskSpec(DATA_SERIAL, str(lab.images / "replica-sdb.raw"), "raw"),
        ),
        nics=(NicSpec(CONTROLLER_MAC, "management", NetworkAttach.user(MANAGEMENT_SUBNET)),),
    )


def source_xml(lab: Lab, identity: str, kind: DomainType) -> str:
    return render_source(
        name=lab.source_vm,
        uuid=identity,
        memory=SOURCE_MEMORY,
        cpus=SOURCE_CPUS,
        system_disk=str(lab.images / "source-sda.qcow2"),
        data_disk=str(lab.images / "source-sdb.qcow2"),
        subnet=SOURCE_SUBNET,
        mac=SOURCE_MAC,
        domain_type=kind,
    )
