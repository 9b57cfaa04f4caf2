"""What is decided about a Windows guest, without any job around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat import windows
from refloat.decide import Place, decide, plan_nics
from refloat.errors import Refused
from refloat.model import (
    Action,
    BootDriver,
    DiskBus,
    DriverChoice,
    GuestFacts,
    Hibernation,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    PlannedNic,
    SourceNic,
    SourceVM,
)
from refloat.policy import AdaptChoice, DirtyNtfs, Hibernated, NicRule, PinNames, Policy, WindowsPolicy
from tests.unit.builders import SOURCE, replace
from tests.unit.windows_world import windows_facts

VIRTIO = (DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
CHOICE = DriverChoice("/iso", "c" * 64, "2k22", "amd64", ())
READY = (BootDriver("viostor", 0, False),)
NATIVE = replace(
    SOURCE,
    disks=tuple(replace(disk, bus=DiskBus.VIRTIO_BLK) for disk in SOURCE.disks),
    nics=tuple(replace(nic, model=NicModel.VIRTIO) for nic in SOURCE.nics),
)


def decided(facts: GuestFacts, source: SourceVM = SOURCE, policy: Policy | None = None) -> Action:
    chosen = policy or Policy()
    assert facts.windows is not None
    refusals = windows.refusals(facts.windows, chosen.windows, *VIRTIO, CHOICE, source_runs=False)
    return decide(facts, source, *VIRTIO, chosen.adapt, refusals=refusals).action


def test_a_vmware_windows_is_adapted_and_a_native_one_is_not() -> None:
    assert decided(windows_facts()) is Action.ADAPT
    assert decided(windows_facts(storage_drivers=READY), NATIVE) is Action.SKIP


@pytest.mark.parametrize("driver", [BootDriver("viostor", 3, False), BootDriver("viostor", 0, True)])
def test_a_driver_that_does_not_start_at_boot_is_none(driver: BootDriver) -> None:
    """StartOverride keeps a driver from starting although Start says boot."""
    assert decided(windows_facts(storage_drivers=(driver,)), NATIVE) is Action.ADAPT


def test_what_needs_nothing_is_not_refused_either() -> None:
    asleep = windows_facts(storage_drivers=READY, hibernation=Hibernation.HIBERNATED)
    assert decided(asleep, NATIVE) is Action.SKIP
    assert decided(asleep, NATIVE, Policy(adapt=AdaptChoice.ALWAYS)) is Action.REFUSE
    assert decided(asleep, SOURCE, Policy(adapt=AdaptChoice.NEVER)) is Action.SKIP


def test_the_policy_lets_a_session_go_and_a_volume_be_repaired() -> None:
    facts = windows_facts(hibernation=Hibernation.FAST_STARTUP, dirty=True)
    allowed = WindowsPolicy(Hibernated.DISCARD, DirtyNtfs.REPAIR)
    assert decided(facts) is Action.REFUSE
    assert decided(facts, policy=Policy(windows=allowed)) is Action.ADAPT
    assert facts.windows is not None
    said = " ".join(windows.warnings(facts.windows, allowed, source_runs=False))
    assert "discarded by policy" in said and "repaired by policy" in said


@given(st.sampled_from(DiskBus), st.sampled_from(NicModel), st.booleans(), st.booleans())
def test_every_refusal_says_what_to_do(bus: DiskBus, nic: NicModel, dirty: bool, runs: bool) -> None:
    facts = windows_facts(dirty=dirty, hibernation=Hibernation.HIBERNATED)
    assert facts.windows is not None
    for reason in windows.refusals(facts.windows, WindowsPolicy(), bus, nic, "no set: set `drivers`", runs):
        assert "`" in reason, reason


def nic(number: int, guest_name: str = "") -> SourceNic:
    return SourceNic(f"00:50:56:00:00:0{number}", NicModel.VMXNET3, "lan", guest_name)


def static(name: str, mac: str = "") -> NicConfig:
    return NicConfig(name, NicMethod.STATIC, ("10.20.30.40/24",), mac=mac)


def planned(
    nics: tuple[SourceNic, ...], configs: tuple[NicConfig, ...], policy: Policy | None = None
) -> tuple[PlannedNic, ...]:
    places = [Place(one, one.mac, "production") for one in nics]
    return plan_nics(places, configs, policy or Policy(), windows=True)


def test_adapters_are_found_by_their_mac_then_the_only_one_left() -> None:
    known, left = static("Ethernet0", mac=nic(2).mac), static("Ethernet1")
    first, second = planned((nic(1), nic(2)), (known, left))
    assert (first.config, second.config) == (left, known)
    assert {first.mode, second.mode} == {NetworkMode.RESTORE}


def test_two_without_evidence_are_not_guessed() -> None:
    for one in planned((nic(1), nic(2)), (static("Ethernet0"), static("Ethernet1"))):
        assert one.mode is NetworkMode.PRESERVE and "not certain" in one.reason


def test_a_name_is_no_evidence_and_no_pattern() -> None:
    """What Linux would call the adapter says nothing here, and a connection's name is anybody's choice."""
    for name in ("ens192", "*", "ens[0-9]*"):
        (one, other) = planned((nic(1, "ens192"), nic(2, "ens224")), (static(name), static("Ethernet1")))
        assert one.mode is other.mode is NetworkMode.PRESERVE


def test_names_shadow_no_other_and_keep_where_they_were_found() -> None:
    two = tuple(
        replace(static(name), sources=(source,)) for name, source in (("LAN a", "2"), ("LAN [a]", "1"))
    )
    (one,) = planned((nic(1),), two)
    assert one.mode is NetworkMode.PRESERVE and one.config is None
    (one,) = planned((nic(1),), (two[0],))
    assert one.config == two[0]


@pytest.mark.parametrize("pins", list(PinNames))
def test_no_name_is_ever_tied_to_an_adapter(pins: PinNames) -> None:
    own = NicRule(nic(1).mac, NetworkMode.PRESERVE, pin_names=PinNames.ALWAYS)
    dhcp = NicConfig("Ethernet0", NicMethod.DHCP, dns=("10.20.30.3",))
    for policy in (Policy(pin_names=pins, network=NetworkMode.READDRESS), Policy(nics=(own,))):
        (one,) = planned((nic(1),), (dhcp,), policy)
        assert (one.mode, one.pin) == (NetworkMode.PRESERVE, "")
        assert "Windows starts a new adapter with DHCP, without its own name servers 10.20.30.3" in one.reason
        assert "nothing ties" not in one.reason


def test_name_servers_of_its_own_are_restored_beside_dhcp() -> None:
    dhcp = NicConfig("Ethernet0", NicMethod.DHCP, dns=("10.20.30.3",))
    (one,) = planned((nic(1),), (dhcp,))
    assert one.mode is NetworkMode.RESTORE and "its own name servers 10.20.30.3" in one.reason
    (plain,) = planned((nic(1),), (replace(dhcp, dns=()),))
    assert plain.mode is NetworkMode.PRESERVE


def test_the_modes_are_those_of_any_guest() -> None:
    own = NicRule(nic(1).mac, addresses=("10.9.9.9/24",), gateway="10.9.9.1")
    for policy, mode in (
        (Policy(), NetworkMode.RESTORE),
        (Policy(network=NetworkMode.DHCP), NetworkMode.DHCP),
        (Policy(network=NetworkMode.PRESERVE), NetworkMode.PRESERVE),
        (Policy(nics=(own,)), NetworkMode.READDRESS),
    ):
        (one,) = planned((nic(1),), (static("Ethernet0", mac=nic(1).mac),), policy)
        assert one.mode is mode


def test_only_its_own_disks_come_online_by_themselves() -> None:
    source = replace(SOURCE, disks=(SOURCE.disks[0], replace(SOURCE.disks[1], shared=True)))
    assert windows.online_disks(SOURCE, ()) == ("sda", "sdb")
    assert windows.online_disks(source, ()) == ("sda",)
    assert windows.online_disks(source, ("sdb",)) == ("sda", "sdb")
    with pytest.raises(Refused) as caught:
        windows.online_disks(source, ("sdc",))
    assert caught.value.code == "unknown_disk" and "sda, sdb" in caught.value.hint
