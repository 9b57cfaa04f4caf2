"""The platform's word on the guest's network, beside the guest's own files."""

from __future__ import annotations

from typing import Any

import pytest

from refloat.decide import Place, plan_nics
from refloat.model import (
    AddressOrigin,
    LinkKind,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    PlannedNic,
    Route,
    SeenAddress,
    SeenNic,
    SeenRoute,
    SourceNic,
)
from refloat.policy import Policy, Readdress
from refloat.seen_network import age_warnings, with_last_seen
from tests.unit.builders import MAC, SOURCE, replace

AT = "2026-05-01T10:00:00.000+00:00"
MANUAL, DHCP, AUTO, UNKNOWN = (
    AddressOrigin.MANUAL, AddressOrigin.DHCP, AddressOrigin.AUTO, AddressOrigin.UNKNOWN,
)  # fmt: skip
FILES = NicConfig("ens192", NicMethod.STATIC, ("10.20.30.40/24",), "10.20.30.1", ("10.20.30.2",), ("lab",))
BY_DHCP = NicConfig("ens192", NicMethod.DHCP)


def seen(*addresses: tuple[str, AddressOrigin], **more: Any) -> SeenNic:
    return SeenNic(AT, tuple(SeenAddress(*one) for one in addresses), **more)


def planned(capture: SeenNic | None, *configs: NicConfig, rules: tuple[Readdress, ...] = ()) -> PlannedNic:
    nic = SourceNic(MAC, NicModel.VMXNET3, "lan", "ens192", seen=capture)
    (one,) = plan_nics([Place(nic, MAC, "there", rules)], configs, Policy("p"))
    return one


def test_both_say_the_same() -> None:
    one = planned(seen(("10.20.30.40/24", MANUAL)), FILES)
    assert (one.mode, one.config) == (NetworkMode.RESTORE, FILES)
    assert f"the platform saw the same at {AT}" in one.reason


def test_without_a_capture_the_files_decide() -> None:
    one = planned(None, FILES)
    assert (one.mode, one.config) == (NetworkMode.RESTORE, FILES) and "platform" not in one.reason


def test_the_platforms_word_comes_first_where_it_is_certain() -> None:
    capture = seen(
        ("10.20.30.50/24", MANUAL), ("fd00::5/64", MANUAL), ("fd00::aaaa/64", AUTO),
        routes=(SeenRoute("default", "10.20.30.254"), SeenRoute("10.9.0.0/16", "10.20.30.3")),
        dns=("10.20.30.9",),
    )  # fmt: skip
    one = planned(capture, FILES)
    assert one.mode is NetworkMode.READDRESS  # what the files do not have is written anew
    assert one.config == replace(
        FILES,
        addresses=("10.20.30.50/24", "fd00::5/64"),
        gateway="10.20.30.254",
        dns=("10.20.30.9",),
        method6=NicMethod.STATIC,
        routes=(Route("10.9.0.0/16", "10.20.30.3"),),
    )
    for word in ("10.20.30.50/24", "10.20.30.40/24", AT, "the platform's word is taken"):
        assert word in one.reason


@pytest.mark.parametrize("origin", [UNKNOWN, DHCP])
def test_where_it_is_not_certain_the_files_decide_and_it_is_said(origin: AddressOrigin) -> None:
    one = planned(seen(("10.20.30.50/24", origin)), FILES)
    assert (one.mode, one.config) == (NetworkMode.RESTORE, FILES)
    assert "10.20.30.50/24" in one.reason and "the files' word is taken" in one.reason


def test_what_was_only_added_at_run_time_is_not_made_permanent() -> None:
    one = planned(seen(("10.20.30.40/24", MANUAL), ("10.20.30.200/32", MANUAL)), FILES)
    assert (one.mode, one.config) == (NetworkMode.RESTORE, FILES)
    assert "10.20.30.200/32" in one.reason and "left out" in one.reason


def test_a_guest_by_dhcp_stays_so() -> None:
    for origin in (DHCP, UNKNOWN):
        one = planned(seen(("10.20.30.50/24", origin)), BY_DHCP)
        assert (one.mode, one.config) == (NetworkMode.PRESERVE, BY_DHCP)


def test_set_by_hand_although_the_files_say_dhcp() -> None:
    one = planned(seen(("10.20.30.50/24", MANUAL)), BY_DHCP)
    assert one.mode is NetworkMode.READDRESS
    assert one.config and one.config.method is NicMethod.STATIC and "its files say dhcp" in one.reason


def test_that_dhcp_is_not_used_makes_an_address_certain() -> None:
    one = planned(seen(("10.20.30.50/24", UNKNOWN), dhcp=False), BY_DHCP)
    assert one.config and one.config.addresses == ("10.20.30.50/24",)


def test_an_adapter_that_the_files_do_not_know() -> None:
    one = planned(seen(("10.20.30.50/24", MANUAL)))
    assert one.mode is NetworkMode.READDRESS and one.config
    assert (one.config.name, one.config.method) == ("ens192", NicMethod.STATIC)
    assert "its files do not have it" in one.reason
    assert planned(seen(("10.20.30.50/24", UNKNOWN))).mode is NetworkMode.PRESERVE


def test_rules_for_another_subnet_apply_to_the_platforms_word() -> None:
    rules = (Readdress("10.20.30.0/24", "192.168.7.0/24"),)
    one = planned(seen(("10.20.30.50/24", MANUAL)), FILES, rules=rules)
    assert one.config and one.config.addresses == ("192.168.7.50/24",)


def test_what_carries_a_vlan_is_only_compared() -> None:
    below = NicConfig("ens192", NicMethod.NONE)
    vlan = replace(FILES, name="ens192.7", members=("ens192",), kind=LinkKind.VLAN, vlan_id=7)
    one = planned(seen(("10.20.30.50/24", MANUAL)), below, vlan)
    assert one.config == below and "the files' word is taken" in one.reason


def test_addresses_tell_which_interface_is_the_adapters() -> None:
    """Two interfaces without a name by slot and without a MAC in the files: the addresses tell."""
    configs = (
        NicConfig("lan", NicMethod.STATIC, ("10.0.1.5/24",)),
        NicConfig("dmz", NicMethod.STATIC, ("10.0.2.5/24",)),
    )
    nics = [
        SourceNic("02:00:00:00:00:01", NicModel.VMXNET3, "a", seen=seen(("10.0.2.5/24", UNKNOWN))),
        SourceNic("02:00:00:00:00:02", NicModel.VMXNET3, "b", seen=seen(("10.0.1.5/24", UNKNOWN))),
    ]
    done = plan_nics([Place(nic, nic.mac, "there") for nic in nics], configs, Policy("p"))
    assert [one.config and one.config.name for one in done] == ["dmz", "lan"]
    assert all("the platform saw these addresses" in one.reason for one in done)


# ---------------------------------------------------------------- the last good capture


def test_the_last_good_capture_is_kept() -> None:
    capture = seen(("10.20.30.40/24", MANUAL))
    nic = replace(SOURCE.nics[0], seen=capture)
    known = replace(SOURCE, nics=(nic,))
    assert with_last_seen(SOURCE, known).nics[0].seen == capture
    newer = replace(nic, seen=seen(("10.20.30.41/24", MANUAL)))
    assert with_last_seen(replace(SOURCE, nics=(newer,)), known).nics[0] == newer
    assert with_last_seen(SOURCE, None) == SOURCE
    elsewhere = replace(SOURCE, nics=(replace(SOURCE.nics[0], network="dmz"),))
    assert with_last_seen(elsewhere, known).nics[0].seen is None


def test_an_old_capture_is_said_with_its_age() -> None:
    nic = replace(SOURCE.nics[0], seen=seen(("10.20.30.40/24", MANUAL)))
    assert age_warnings([nic], "2026-05-01T20:00:00.000+00:00") == []
    (said,) = age_warnings([nic], "2026-05-04T10:00:00.000+00:00")
    assert MAC in said and "72 h" in said and AT in said
