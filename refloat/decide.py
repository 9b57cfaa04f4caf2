"""What to do about a guest: adapt, skip or refuse, always with reasons. Pure: facts in, decision out."""

from __future__ import annotations

from collections.abc import Sequence

from refloat.model import (
    Action,
    Decision,
    DiskBus,
    GuestFacts,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    PlannedNic,
    SourceNic,
    SourceVM,
)
from refloat.policy import AdaptChoice


def decide(
    facts: GuestFacts, source: SourceVM, disk_bus: DiskBus, nic_model: NicModel, choice: AdaptChoice
) -> Decision:
    """The decision for this guest on that hardware, under the policy's choice."""
    if choice is AdaptChoice.NEVER:
        return Decision(Action.SKIP, ("the policy says: never adapt",))
    if facts.problems:
        return Decision(Action.REFUSE, facts.problems)
    if source.firmware is not facts.firmware:
        return Decision(
            Action.REFUSE,
            (f"the platform says firmware {source.firmware}, the disk is installed for {facts.firmware}",),
        )
    needs = _needs(facts, source, disk_bus, nic_model)
    if needs:
        return Decision(Action.ADAPT, tuple(needs))
    if choice is AdaptChoice.ALWAYS:
        return Decision(Action.ADAPT, ("nothing needs it, but the policy says: always adapt",))
    same = f"source and destination hardware are compatible ({disk_bus}, {nic_model})"
    return Decision(Action.SKIP, (same, "nothing is staged in the guest: the verdict needs outside evidence"))


def _needs(facts: GuestFacts, source: SourceVM, disk_bus: DiskBus, nic_model: NicModel) -> list[str]:
    reasons = [
        f"initramfs of kernel {kernel.version} lacks {', '.join(kernel.missing)}"
        for kernel in facts.kernels
        if kernel.missing
    ]
    buses = {disk.bus for disk in source.disks} - {disk_bus}
    if buses:
        reasons.append(f"disks move from {', '.join(sorted(buses))} to {disk_bus}")
        reasons += [f"{name} changes with the disk bus" for name in facts.unstable_names]
    models = {nic.model for nic in source.nics} - {nic_model}
    if models:
        reasons.append(f"adapters move from {', '.join(sorted(models))} to {nic_model}, and are renamed")
    return reasons


def plan_nic(
    nic: SourceNic, mac: str, network: str, configs: Sequence[NicConfig], mode: NetworkMode
) -> PlannedNic:
    """What happens to one adapter. `configs` are the guest's interfaces that may belong to this adapter.

    Never a guess: where it is not certain which interface belongs to the adapter, nothing is rewritten.
    """

    def keep(reason: str, config: NicConfig | None = None) -> PlannedNic:
        return PlannedNic(mac, nic.mac, network, NetworkMode.PRESERVE, config, reason)

    if mode is NetworkMode.PRESERVE:
        return keep("the policy says: preserve the guest's networking")
    if not configs:
        return keep("the guest's files configure no interface")
    if len(configs) > 1:
        names = ", ".join(config.name for config in configs)
        return keep(f"which of {names} belongs to adapter {nic.mac} is not certain")
    config = configs[0]
    if config.method is not NicMethod.STATIC:
        return keep(f"{config.name} uses {config.method}: nothing to restore", config)
    reason = f"{config.name} is static with {', '.join(config.addresses)}"
    return PlannedNic(mac, nic.mac, network, NetworkMode.RESTORE, config, reason)
