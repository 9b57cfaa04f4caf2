"""The API's JSON of what a failover would do."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from refloat.api.schemas import DecisionOut
from refloat.model import ChangeKind, DiskBus, Firmware, Mode, NetworkMode, NicModel, PlannedNic
from refloat.preview import PlanAhead


class _Record(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class GuestOut(_Record):
    """What was found on the replica's disks; the guest's own words, untrusted text."""

    os_name: str
    hostname: str
    architecture: str


class MachineOut(_Record):
    """What the recovered VM gets."""

    cpus: int
    memory: int = Field(description="Bytes")
    firmware: Firmware
    disk_bus: DiskBus
    nic_model: NicModel


class DiskOut(_Record):
    key: str = Field(description="The source's name of it")
    serial: str
    capacity: int = Field(description="Bytes")


class AdapterOut(BaseModel):
    """One adapter: what becomes of it, and why."""

    source_mac: str
    mac: str = Field(description="At the destination; empty: a new one is chosen at the start")
    network: str = Field(description="The destination's")
    mode: NetworkMode
    addresses: list[str] = Field(description="With prefix; empty: by DHCP, or as the guest has it")
    gateway: str
    dns: list[str]
    reason: str


class IntendedChangeOut(_Record):
    """A file that would be made or changed in the guest."""

    path: str
    kind: ChangeKind
    new: bool
    size: int = Field(description="Bytes that it would have")
    reason: str
    values: list[str] = Field(description="Of a registry hive: its values that would change")


class ChangesOut(BaseModel):
    """The changes that an adaptation would make, worked out on a copy-on-write view of the replica."""

    at: str = Field(description="When they were worked out: ISO 8601, UTC; empty: they were not")
    changes: list[IntendedChangeOut]
    more: int = Field(description="Changes that are not listed")
    trouble: str = Field(description="Why they are not known; empty otherwise")


class PlanOut(BaseModel):
    """What a failover in this mode would do, by the last look at the replica."""

    target: str
    mode: Mode
    at: str = Field(description="When the replica was looked into: ISO 8601, UTC")
    point: str = Field(description="The sync point that was looked into")
    decision: DecisionOut
    guest: GuestOut
    machine: MachineOut
    disks: list[DiskOut] = Field(description="In the order in which they are attached; the first boots")
    adapters: list[AdapterOut]
    in_guest: ChangesOut
    warnings: list[str]
    needs: list[str] = Field(description="What the verdict asks for before it says `succeeded`")


def plan_out(target: str, ahead: PlanAhead) -> PlanOut:
    known, plan = ahead.known, ahead.known.plan
    listed = known.intended.changes if known.intended else ()
    return PlanOut(
        target=target,
        mode=ahead.mode,
        at=known.at,
        point=known.point,
        decision=DecisionOut.model_validate(ahead.decision),
        guest=GuestOut.model_validate(plan.facts),
        machine=MachineOut.model_validate(plan),
        disks=[DiskOut.model_validate(disk) for disk in plan.disks],
        adapters=[_adapter(nic) for nic in ahead.nics],
        in_guest=ChangesOut(
            at=known.intended_at,
            changes=[IntendedChangeOut.model_validate(one) for one in listed],
            more=known.intended.more if known.intended else 0,
            trouble=known.trouble,
        ),
        warnings=list(plan.warnings),
        needs=list(ahead.needs),
    )


def _adapter(nic: PlannedNic) -> AdapterOut:
    configs = [one for one in (nic.config, *nic.above) if one is not None]
    return AdapterOut(
        source_mac=nic.source_mac,
        mac=nic.mac,
        network=nic.network,
        mode=nic.mode,
        addresses=[address for one in configs for address in one.addresses],
        gateway=next((one.gateway for one in configs if one.gateway), ""),
        dns=[server for one in configs for server in one.dns],
        reason=nic.reason,
    )
