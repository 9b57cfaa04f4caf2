from __future__ import annotations

from refloat.decide import decide, plan_nic
from refloat.model import Action, DiskBus, Firmware, NetworkMode, NicMethod, NicModel
from refloat.policy import AdaptChoice
from tests.unit.builders import CONFIG, FACTS, MAC, SOURCE, replace

VIRTIO = (DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
NATIVE = replace(
    SOURCE,
    disks=tuple(replace(disk, bus=DiskBus.VIRTIO_BLK) for disk in SOURCE.disks),
    nics=tuple(replace(nic, model=NicModel.VIRTIO) for nic in SOURCE.nics),
)
READY = replace(FACTS, kernels=tuple(replace(kernel, missing=()) for kernel in FACTS.kernels))


def test_a_vmware_guest_is_adapted_and_each_reason_is_named() -> None:
    decision = decide(FACTS, SOURCE, *VIRTIO, AdaptChoice.AUTO)
    assert decision.action is Action.ADAPT
    said = " ".join(decision.reasons)
    for word in ("virtio_blk", "pvscsi", "/dev/sda1", "vmxnet3"):
        assert word in said


def test_compatible_hardware_is_skipped() -> None:
    assert decide(READY, NATIVE, *VIRTIO, AdaptChoice.AUTO).action is Action.SKIP


def test_the_policy_can_demand_and_forbid() -> None:
    assert decide(READY, NATIVE, *VIRTIO, AdaptChoice.ALWAYS).action is Action.ADAPT
    assert decide(FACTS, SOURCE, *VIRTIO, AdaptChoice.NEVER).action is Action.SKIP


def test_problems_refuse_with_their_own_words() -> None:
    decision = decide(replace(FACTS, problems=("root is ambiguous",)), SOURCE, *VIRTIO, AdaptChoice.ALWAYS)
    assert decision.action is Action.REFUSE
    assert decision.reasons == ("root is ambiguous",)


def test_firmware_that_differs_is_refused() -> None:
    decision = decide(replace(FACTS, firmware=Firmware.UEFI), SOURCE, *VIRTIO, AdaptChoice.AUTO)
    assert decision.action is Action.REFUSE


def test_one_static_interface_is_restored() -> None:
    nic = plan_nic(SOURCE.nics[0], MAC, "production", (CONFIG,), NetworkMode.RESTORE)
    assert (nic.mode, nic.config) == (NetworkMode.RESTORE, CONFIG)


def test_never_a_guess_between_interfaces() -> None:
    nic = plan_nic(
        SOURCE.nics[0], MAC, "production", (CONFIG, replace(CONFIG, name="ens224")), NetworkMode.RESTORE
    )
    assert nic.mode is NetworkMode.PRESERVE
    assert "not certain" in nic.reason


def test_dhcp_none_and_policy_preserve_and_say_why() -> None:
    dhcp = replace(CONFIG, method=NicMethod.DHCP, addresses=())
    for configs, mode in (
        ((dhcp,), NetworkMode.RESTORE),
        ((), NetworkMode.RESTORE),
        ((CONFIG,), NetworkMode.PRESERVE),
    ):
        nic = plan_nic(SOURCE.nics[0], MAC, "production", configs, mode)
        assert nic.mode is NetworkMode.PRESERVE
        assert nic.reason
