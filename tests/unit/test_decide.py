from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.decide import Place, decide, match_nics, plan_nics, rebuild_refusals
from refloat.errors import Refused
from refloat.model import (
    Action,
    DiskBus,
    Firmware,
    LinkKind,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    PlannedNic,
    Route,
    SourceNic,
)
from refloat.policy import AdaptChoice, NicRule, PinNames, Policy, Readdress, Rebuild
from refloat.readdress import readdressed
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


NOT_EXTENDED = replace(
    READY, kernels=tuple(replace(kernel, cannot_extend="no archive") for kernel in READY.kernels)
)


def test_the_guests_own_tool_needs_the_policys_word() -> None:
    version = READY.kernels[0].version
    assert rebuild_refusals(READY, Rebuild.NEVER) == []
    refusals = rebuild_refusals(NOT_EXTENDED, Rebuild.NEVER)
    decision = decide(NOT_EXTENDED, NATIVE, *VIRTIO, AdaptChoice.AUTO, refusals=refusals)
    assert decision.action is Action.REFUSE
    (reason,) = decision.reasons
    for word in (version, "no archive", "`rebuild: allowed`", NOT_EXTENDED.initramfs_tool):
        assert word in reason
    assert rebuild_refusals(NOT_EXTENDED, Rebuild.ALLOWED) == []
    decision = decide(NOT_EXTENDED, NATIVE, *VIRTIO, AdaptChoice.AUTO)
    assert (decision.action, len(decision.reasons)) == (Action.ADAPT, 1)
    assert "the guest's own tool makes it anew" in decision.reasons[0]
    assert decide(NOT_EXTENDED, NATIVE, *VIRTIO, AdaptChoice.NEVER).action is Action.SKIP


def test_firmware_that_differs_is_refused() -> None:
    decision = decide(replace(FACTS, firmware=Firmware.UEFI), SOURCE, *VIRTIO, AdaptChoice.AUTO)
    assert decision.action is Action.REFUSE


def test_image_for_both_firmwares_runs_on_either() -> None:
    both = replace(FACTS, firmware=Firmware.UEFI, firmwares=(Firmware.UEFI, Firmware.BIOS))
    assert decide(both, SOURCE, *VIRTIO, AdaptChoice.AUTO).action is Action.ADAPT


@pytest.mark.parametrize(("level", "action"), [(None, Action.ADAPT), (1, Action.REFUSE), (2, Action.ADAPT)])
def test_processor_below_the_guests_baseline_is_refused(level: int | None, action: Action) -> None:
    facts = replace(FACTS, cpu_level=2)
    decision = decide(facts, SOURCE, *VIRTIO, AdaptChoice.AUTO, destination_cpu_level=level)
    assert decision.action is action
    assert action is Action.ADAPT or "x86-64-v2" in decision.reasons[0]


def nic(number: int, guest_name: str = "") -> SourceNic:
    return SourceNic(f"00:50:56:00:00:0{number}", NicModel.VMXNET3, "lan", guest_name)


def static(name: str, address: str = "10.20.30.40/24", **more: Any) -> NicConfig:
    return NicConfig(name, NicMethod.STATIC, (address,), **more)


def plan(
    *configs: NicConfig,
    nics: tuple[SourceNic, ...] = (nic(1),),
    rules: tuple[Readdress, ...] = (),
    own: tuple[NicRule, ...] = (),
    **policy: Any,
) -> tuple[PlannedNic, ...]:
    places = [Place(one, one.mac, "production", rules) for one in nics]
    return plan_nics(places, configs, Policy(nics=own, **policy))


DHCP = NicConfig("ens192", NicMethod.DHCP)
RULES = (Readdress("10.20.30.0/24", "192.168.7.0/24"), Readdress("fd00:1::/64", "fd00:7::/64"))


def test_one_static_interface_is_restored() -> None:
    (one,) = plan(CONFIG)
    assert (one.mode, one.config, one.pin) == (NetworkMode.RESTORE, CONFIG, "")


def test_static_ipv6_alone_is_restored_too() -> None:
    (one,) = plan(
        NicConfig("ens192", NicMethod.DHCP, ("fd00:1::5/64",), method6=NicMethod.STATIC, gateway6="fe80::1")
    )
    assert one.mode is NetworkMode.RESTORE


def test_never_a_guess_between_interfaces() -> None:
    (one,) = plan(static("ens192"), static("ens224"))
    assert (one.mode, one.config, one.pin) == (NetworkMode.PRESERVE, None, "")
    assert "ens192, ens224" in one.reason and "not certain" in one.reason


MATCHES: dict[str, tuple[tuple[SourceNic, ...], tuple[NicConfig, ...], tuple[str, ...]]] = {
    "MACs in the files, in swapped order": (
        (nic(1), nic(2)),
        (static("lan0", mac=nic(2).mac.upper()), static("lan1", mac=nic(1).mac)),
        ("lan1", "lan0"),
    ),
    "names by slot, in swapped order": (
        (nic(1, "ens224"), nic(2, "ens192")),
        (static("ens192"), static("ens224")),
        ("ens224", "ens192"),
    ),
    "a MAC says more than a slot": (
        (nic(1, "ens192"), nic(2, "ens224")),
        (static("ens192", mac=nic(2).mac), static("ens224", mac=nic(1).mac)),
        ("ens224", "ens192"),
    ),
    "one by its MAC, the other is the only one left": (
        (nic(1), nic(2)),
        (static("eth0"), static("eth1", mac=nic(1).mac)),
        ("eth1", "eth0"),
    ),
    "nothing says which": ((nic(1), nic(2)), (static("eth0"), static("eth1")), ("", "")),
    "the one left is tied to a third adapter": ((nic(1),), (static("eth0", mac=nic(3).mac),), ("",)),
    "the one left is another slot's": ((nic(1, "ens192"),), (static("ens224"),), ("",)),
    "counted names say nothing against a slot": ((nic(1, "ens192"),), (static("eth0"),), ("eth0",)),
    "a pattern that one adapter fits": (
        (nic(1, "ens192"), nic(2, "enp5s0")),
        (static("ens*"), static("enp*")),
        ("ens*", "enp*"),
    ),
    "a pattern that both fit": (
        (nic(1, "ens192"), nic(2, "ens224")),
        (static("ens*"), static("lan0")),
        ("", ""),
    ),
    "a name beside a pattern": (
        (nic(1, "ens192"),),
        (static("ens192", sources=("/n/20-a",)), static("en*", sources=("/n/30-b",))),
        ("ens192",),
    ),
    "a name behind a pattern": (
        (nic(1, "ens192"),),
        (static("ens192", sources=("/n/20-a",)), static("en*", sources=("/n/10-b",))),
        ("en*",),
    ),
    "two with one MAC": ((nic(1),), (static("a", mac=nic(1).mac), static("b", mac=nic(1).mac)), ("",)),
    "a bridge is no adapter": (
        (nic(1),),
        (NicConfig("eth0", NicMethod.NONE), static("br0", kind=LinkKind.BRIDGE, members=("eth0",))),
        ("eth0",),
    ),
}


@pytest.mark.parametrize("case", MATCHES)
def test_which_interface_is_the_adapters(case: str) -> None:
    nics, configs, wanted = MATCHES[case]
    found = match_nics(nics, configs)
    got = [found[one.mac].config for one in nics]
    assert tuple(config.name if config else "" for config in got) == wanted
    assert all(match.why for match in found.values())


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_no_order_of_adapters_or_files_matters(left: list[int], right: list[int]) -> None:
    nics = [nic(number, f"ens{number}") for number in left]
    configs = [static(f"ens{number}", f"10.0.0.{number + 1}/24") for number in right]
    for planned in plan(*configs, nics=tuple(nics)):
        assert planned.config is not None
        assert planned.config.name == f"ens{planned.source_mac[-1]}"


PINS: dict[str, tuple[tuple[NicConfig, ...], dict[str, Any], str]] = {
    "DHCP, by default": ((DHCP,), {}, "ens192"),
    "DHCP, never": ((DHCP,), {"pin_names": PinNames.NEVER}, ""),
    "preserve, by default": ((CONFIG,), {"network": NetworkMode.PRESERVE}, ""),
    "preserve, always": (
        (CONFIG,),
        {"network": NetworkMode.PRESERVE, "pin_names": PinNames.ALWAYS},
        "ens192",
    ),
    "an adapter's own word": (
        (DHCP,),
        {"own": (NicRule(nic(1).mac, pin_names=PinNames.NEVER),)},
        "",
    ),
    "no file": ((), {}, ""),
    "a pattern needs no name": ((replace(DHCP, name="en*"),), {}, ""),
    "the only adapter": ((replace(DHCP, name="eth0"),), {}, "eth0"),
    "DHCP wanted and there": ((DHCP,), {"network": NetworkMode.DHCP}, "ens192"),
}


@pytest.mark.parametrize("case", PINS)
def test_what_is_left_alone_keeps_its_name_by_policy(case: str) -> None:
    configs, policy, pin = PINS[case]
    (one,) = plan(*configs, **policy)
    assert (one.mode, one.pin) == (NetworkMode.PRESERVE, pin)
    assert one.reason


def test_counted_names_of_several_adapters_are_not_tied() -> None:
    configs = [replace(DHCP, name=f"eth{number}", mac=nic(number).mac) for number in (1, 2)]
    for one in plan(*configs, nics=(nic(1), nic(2))):
        assert not one.pin
        assert "cannot be tied" in one.reason


def test_dhcp_by_policy() -> None:
    (one,) = plan(CONFIG, network=NetworkMode.DHCP)
    assert one.mode is NetworkMode.DHCP and one.config is not None
    assert (one.config.name, one.config.method, one.config.addresses) == ("ens192", NicMethod.DHCP, ())
    assert (one.config.gateway, one.config.dns) == ("", ())


def test_dhcp_is_not_forced_on_what_carries_a_bridge() -> None:
    bridge = static("br0", kind=LinkKind.BRIDGE, members=("eth0",))
    (one,) = plan(NicConfig("eth0", NicMethod.NONE), bridge, network=NetworkMode.DHCP)
    assert one.mode is NetworkMode.PRESERVE and "br0 stands on eth0" in one.reason


def test_what_stands_on_an_adapter_comes_with_it() -> None:
    ports = [replace(DHCP, name=f"ens{number}", method=NicMethod.NONE) for number in (1, 2)]
    bond = NicConfig("bond0", NicMethod.NONE, kind=LinkKind.BOND, members=("ens1", "ens2"))
    vlan = static("bond0.7", kind=LinkKind.VLAN, members=("bond0",))
    first, second = plan(*ports, vlan, bond, nics=(nic(1, "ens1"), nic(2, "ens2")))
    assert first.mode is second.mode is NetworkMode.RESTORE
    assert first.above == second.above == (bond, vlan)


def test_readdressing_keeps_the_host() -> None:
    config = static(
        "ens192",
        gateway="10.20.30.1",
        dns=("10.20.30.53", "9.9.9.9"),
        method6=NicMethod.STATIC,
        gateway6="fe80::1",
        routes=(Route("10.9.0.0/16", "10.20.30.254"), Route("10.20.30.0/24")),
    )
    config = replace(config, addresses=(*config.addresses, "fd00:1::40/64", "fe80::5/64"))
    (one,) = plan(config, rules=RULES)
    assert one.mode is NetworkMode.READDRESS and one.config is not None
    assert one.config.addresses == ("192.168.7.40/24", "fd00:7::40/64", "fe80::5/64")
    assert (one.config.gateway, one.config.gateway6) == ("192.168.7.1", "fe80::1")
    assert one.config.dns == ("192.168.7.53", "9.9.9.9")
    assert one.config.routes == (Route("10.9.0.0/16", "192.168.7.254"), Route("192.168.7.0/24"))
    assert "192.168.7.40/24" in one.reason


def test_readdressing_with_what_the_rule_names() -> None:
    rules = (Readdress("10.20.30.0/24", "192.168.0.0/16", "192.168.255.254", ("192.168.1.1",)),)
    one, other = plan(
        replace(CONFIG, mac=nic(1).mac),
        static("ens224", "10.20.30.41/24", mac=nic(2).mac),
        nics=(nic(1), nic(2)),
        rules=rules,
    )
    assert one.config is not None and other.config is not None
    assert one.config.addresses == ("192.168.0.40/16",)
    assert (one.config.gateway, one.config.dns) == ("192.168.255.254", ("192.168.1.1",))
    assert (other.config.gateway, other.config.dns) == ("", ()), "what was not there is not added"


@pytest.mark.parametrize(
    ("config", "rules", "policy", "words"),
    [
        (static("e", "10.9.9.9/24"), RULES, {}, "10.9.9.9/24"),
        (static("e", gateway="10.9.9.1"), RULES, {}, "gateway 10.9.9.1"),
        (static("e"), (), {"network": NetworkMode.READDRESS}, "no rule says what 'lan' becomes"),
        (static("e", "10.20.30.200/24"), (Readdress("10.20.30.0/24", "10.1.1.0/25"),), {}, "has no place"),
        (static("e", "10.20.30.255/24"), (Readdress("10.20.30.0/24", "10.1.1.0/24"),), {}, "has no place"),
        (static("e"), (Readdress("10.20.0.0/16", "10.1.1.0/24"),), {}, "another size"),
        (static("e", "10.20.30.x/24"), RULES, {}, "10.20.30.x"),
    ],
)
def test_what_no_rule_says_is_refused(
    config: NicConfig, rules: tuple[Readdress, ...], policy: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused, match=words) as caught:
        plan(config, rules=rules, **policy)
    assert caught.value.code == "readdress" and caught.value.hint


@given(st.integers(1, 254), st.integers(8, 24))
def test_the_host_part_survives_there_and_back(host: int, prefix: int) -> None:
    there = (Readdress("10.20.30.0/24", f"172.16.0.0/{max(prefix, 12)}"),)
    back = (Readdress(there[0].new, "10.20.30.0/24"),)
    config = static("e", f"10.20.30.{host}/24")
    assert readdressed(readdressed(config, there), back) == config


def test_own_addresses_of_an_adapter() -> None:
    rule = NicRule(nic(1).mac, addresses=("192.168.7.9/24",), gateway="192.168.7.1")
    place = Place(nic(1), "52:54:00:00:00:01", "production")
    (one,) = plan_nics([place], (CONFIG,), Policy(nics=(rule,)))
    assert one.mode is NetworkMode.READDRESS and one.config is not None
    assert one.config.addresses == ("192.168.7.9/24",)
    assert (one.config.gateway, one.config.dns) == ("192.168.7.1", CONFIG.dns)


def test_an_adapter_without_any_configuration_gets_one_only_by_its_own_rule() -> None:
    def asked(rule: NicRule) -> PlannedNic:
        return plan_nics([Place(nic(1, "ens192"), MAC, "p")], (), Policy(nics=(rule,)))[0]

    assert plan(network=NetworkMode.DHCP)[0].mode is NetworkMode.PRESERVE
    assert asked(NicRule(nic(1).mac, NetworkMode.DHCP)).mode is NetworkMode.DHCP
    assert asked(NicRule(nic(1).mac, addresses=("10.0.0.1/8",))).mode is NetworkMode.READDRESS


def test_new_addresses_are_a_reason_to_adapt() -> None:
    nics = plan(CONFIG, rules=RULES)
    decision = decide(READY, NATIVE, *VIRTIO, AdaptChoice.AUTO, nics)
    assert decision.action is Action.ADAPT
    assert "192.168.7.40/24" in decision.reasons[0]
