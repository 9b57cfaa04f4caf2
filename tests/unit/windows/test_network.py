"""A guest's addresses are found as its registry has them: all of them, and nothing that is not there."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refloat.guest.notes import Notes
from refloat.guest.windows import network
from refloat.guest.windows.hive import Hive
from refloat.guest.windows.hivelog import replayed
from refloat.guest.windows.values import Value
from refloat.model import NicConfig, NicMethod, Route, WindowsAdapter
from refloat.text import safe
from tests.windows.hives import Keys, at, hive, merged
from tests.windows.real import WINDOWS7, WINDOWS8, WINDOWS10, logs, real, undirtied

SET = "ControlSet001"
TCPIP = f"{SET}\\Services\\Tcpip\\Parameters"
NETWORK = f"{SET}\\Control\\Network\\{{4D36E972-E325-11CE-BFC1-08002BE10318}}"
ONE = "{11111111-1111-1111-1111-11111111111A}"
TWO = "{22222222-2222-2222-2222-22222222222B}"
VMXNET3 = "PCI\\VEN_15AD&DEV_07B0&SUBSYS_07B015AD&REV_01\\000C29FFFFF3FFDE00"
E1000 = "PCI\\VEN_8086&DEV_100F&SUBSYS_075015AD&REV_01\\4&B70F118&0&1888"

Found = tuple[tuple[NicConfig, ...], tuple[WindowsAdapter, ...], Notes]


def adapter(guid: str, name: str, values: dict[str, Value], instance: str = VMXNET3) -> Keys:
    connection = {"Name": Value.sz(name), "PnpInstanceID": Value.sz(instance)}
    return merged(
        at(f"{TCPIP}\\Interfaces\\{guid}", values), at(f"{NETWORK}\\{guid}\\Connection", connection)
    )


def static(addresses: str, masks: str, gateways: str = "", **more: Value) -> dict[str, Value]:
    return {
        "EnableDHCP": Value.dword(0),
        "IPAddress": Value.multi_sz(addresses.split()),
        "SubnetMask": Value.multi_sz(masks.split()),
        "DefaultGateway": Value.multi_sz(gateways.split()),
        **more,
    }


def looked(*parts: Keys) -> Found:
    notes = Notes()
    nics, adapters = network.look(Hive.open("SYSTEM", hive(merged(*parts))), SET, notes)
    return nics, adapters, notes


def test_a_static_address_with_all_that_belongs_to_it() -> None:
    values = static(
        "10.0.0.5 10.0.1.6",
        "255.255.255.0 255.255.0.0",
        "10.0.0.1 10.0.0.2",
        DefaultGatewayMetric=Value.multi_sz(["0", "20"]),
        NameServer=Value.sz("10.0.0.53,10.0.0.54"),
        Domain=Value.sz("example.org"),
        InterfaceMetric=Value.dword(15),
        MTU=Value.dword(9000),
    )
    device = at(f"{SET}\\Enum\\{VMXNET3}", {"Service": Value.sz("vmxnet3ndis6")})
    nics, adapters, notes = looked(adapter(ONE, "Ethernet0", values), device)
    assert nics == (
        NicConfig(
            name="Ethernet0",
            method=NicMethod.STATIC,
            addresses=("10.0.0.5/24", "10.0.1.6/16"),
            gateway="10.0.0.1",
            dns=("10.0.0.53", "10.0.0.54"),
            search=("example.org",),
            method6=NicMethod.AUTO,
            routes=(Route("default", "10.0.0.2", 20),),
            mtu=9000,
            mac="00:0c:29:f3:ff:de",
            sources=(f"SYSTEM\\{TCPIP}\\Interfaces\\{ONE}",),
        ),
    )
    assert adapters == (
        WindowsAdapter(ONE, "Ethernet0", VMXNET3, "00:0c:29:f3:ff:de", 15, (0, 20), "vmxnet3ndis6"),
    )
    assert notes == Notes()


@pytest.mark.parametrize(
    ("values", "method"),
    [
        ({"EnableDHCP": Value.dword(1)}, NicMethod.DHCP),
        ({}, NicMethod.DHCP),
        (static("10.0.0.5", "255.0.0.0") | {"EnableDHCP": Value.dword(1)}, NicMethod.DHCP),
        (static("0.0.0.0", "0.0.0.0"), NicMethod.NONE),
        (static("10.0.0.5", "255.0.0.0", "10.0.0.1"), NicMethod.STATIC),
        ({"IPAddress": Value.sz("10.0.0.5"), "SubnetMask": Value.sz("255.0.0.0")}, NicMethod.STATIC),
    ],
)
def test_where_the_addresses_come_from(values: dict[str, Value], method: NicMethod) -> None:
    nics, _, _ = looked(adapter(ONE, "Ethernet0", values))
    assert nics[0].method is method
    assert bool(nics[0].addresses) == (method is NicMethod.STATIC)
    assert bool(nics[0].gateway) == (method is NicMethod.STATIC and "DefaultGateway" in values)


def test_dhcp_keeps_its_own_name_servers() -> None:
    values = {"EnableDHCP": Value.dword(1), "NameServer": Value.sz("10.0.0.53 10.0.0.54")}
    nics, _, _ = looked(adapter(ONE, "Ethernet0", values))
    assert nics[0].dns == ("10.0.0.53", "10.0.0.54")


def test_addresses_that_cannot_be_read_are_named() -> None:
    values = static("10.0.0.5 nonsense 10.0.0.7", "255.255.255.0 255.0.0.0 255.0.255.0")
    nics, _, notes = looked(adapter(ONE, "Ethernet0", values))
    assert nics[0].addresses == ("10.0.0.5/24",)
    assert notes.warnings == [
        "Ethernet0: addresses that cannot be read are left out: nonsense 255.0.0.0, 10.0.0.7 255.0.255.0"
    ]


@pytest.mark.parametrize(
    ("instance", "recorded", "mac"),
    [
        (VMXNET3, b"", "00:0c:29:f3:ff:de"),
        (VMXNET3, bytes.fromhex("0050569a0b0c"), "00:50:56:9a:0b:0c"),
        (E1000, bytes.fromhex("0050569a0b0c"), "00:50:56:9a:0b:0c"),
        (E1000, b"", ""),
        (E1000, bytes(6), ""),
        (E1000, bytes.fromhex("01005e000001"), ""),
        (E1000, b"short", ""),
        ("VMBUS\\{F8615163-DF3E-46C5-913F-F2D2F965ED0E}\\{1}", b"", ""),
    ],
)
def test_the_mac_address_where_it_can_be_known(instance: str, recorded: bytes, mac: str) -> None:
    kernel = f"{SET}\\Control\\NetworkSetup2\\Interfaces\\{ONE}\\Kernel"
    parts = [adapter(ONE, "Ethernet0", {}, instance)]
    if recorded:
        parts.append(at(kernel, {"PermanentAddress": Value.binary(recorded)}))
    nics, adapters, _ = looked(*parts)
    assert (nics[0].mac, adapters[0].mac) == (mac, mac)


def test_what_is_no_hardware_is_left_alone_and_said_where_it_has_addresses() -> None:
    nics, _, notes = looked(
        adapter(ONE, "Team", static("10.0.0.5", "255.0.0.0"), "COMPOSITEBUS\\{X}\\1"),
        adapter(TWO, "isatap", {"EnableDHCP": Value.dword(0)}, "ROOT\\*ISATAP\\0000"),
    )
    assert nics == ()
    assert len(notes.warnings) == 1
    assert "Team has addresses, but is no hardware" in notes.warnings[0]


def test_two_adapters_of_one_name_are_told_apart() -> None:
    nics, adapters, _ = looked(adapter(ONE, "Ethernet0", {}), adapter(TWO, "Ethernet0", {}, E1000))
    assert [nic.name for nic in nics] == ["Ethernet0", f"Ethernet0 {TWO}"]
    assert [one.nic for one in adapters] == [nic.name for nic in nics]


# ---------------------------------------------------------------- persistent routes


def routes(*names: str) -> Keys:
    return at(f"{TCPIP}\\PersistentRoutes", {name: Value.sz("") for name in names})


def test_an_adapters_own_gateway_among_the_persistent_routes_is_no_second_one() -> None:
    values = static("10.0.0.5", "255.255.255.0", "10.0.0.1")
    nics, _, notes = looked(adapter(ONE, "A", values), routes("0.0.0.0,0.0.0.0,10.0.0.1,-1"))
    assert (nics[0].gateway, nics[0].routes, notes.warnings) == ("10.0.0.1", (), [])


def test_persistent_routes_go_with_the_adapter_that_reaches_their_gateway() -> None:
    nics, _, notes = looked(
        adapter(ONE, "A", static("10.0.0.5", "255.255.255.0", "10.0.0.1")),
        adapter(TWO, "B", static("10.9.0.5", "255.255.0.0"), E1000),
        routes("172.16.0.0,255.240.0.0,10.9.0.1,7", "0.0.0.0,0.0.0.0,10.0.0.9,5"),
    )
    assert nics[1].routes == (Route("172.16.0.0/12", "10.9.0.1", 7),)
    assert nics[0].routes == (Route("default", "10.0.0.9", 5),)
    assert notes.warnings == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("172.16.0.0,255.240.0.0,192.0.2.1,7", "no adapter with a static address"),
        ("172.16.0.0,255.240.0.0,10.0.0.1,7", "several adapters"),
        ("nonsense", "cannot be read"),
        ("1.2.3.4,255.255.255.255,,", "cannot be read"),
    ],
)
def test_a_route_that_belongs_to_no_certain_adapter_stays_as_it_is(name: str, reason: str) -> None:
    nics, _, notes = looked(
        adapter(ONE, "A", static("10.0.0.5", "255.255.255.0")),
        adapter(TWO, "B", static("10.0.0.6", "255.255.255.0"), E1000),
        routes(name),
    )
    assert [nic.routes for nic in nics] == [(), ()]
    assert len(notes.warnings) == 1
    assert reason in notes.warnings[0]


def test_static_ipv6_addresses_are_not_read_but_said() -> None:
    store = f"{SET}\\Control\\Nsi\\{{eb004a01-9b1a-11d4-9123-0050047759bc}}\\10"
    entry = {"0000000000000600" + "fd00" + "0" * 28: Value.binary(struct.pack("<II", 1, 2))}
    _, _, notes = looked(adapter(ONE, "A", {}), at(store, entry))
    assert any("IPv6" in warning for warning in notes.warnings)


TEXTS = st.one_of(
    st.text(max_size=20), st.sampled_from(["10.0.0.1", "255.0.0.0", "0.0.0.0", "1.2.3.4,5.6.7.8"])
)
VALUES = st.one_of(
    st.builds(Value.sz, TEXTS),
    st.builds(Value.multi_sz, st.lists(TEXTS, max_size=4)),
    st.builds(Value.dword, st.integers(0, 2**32 - 1)),
    st.builds(Value, st.integers(0, 12), st.binary(max_size=20)),
)
NAMES = (
    "EnableDHCP", "IPAddress", "SubnetMask", "DefaultGateway", "DefaultGatewayMetric", "NameServer",
    "Domain", "InterfaceMetric", "MTU",
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES),
    st.dictionaries(st.sampled_from(["Name", "PnpInstanceID"]), VALUES),
    st.lists(st.text("0123456789.,-/x", max_size=40), max_size=3, unique=True),
)
@settings(max_examples=150, deadline=None)
def test_hostile_values_are_read_or_left_out(
    values: dict[str, Value], connection: dict[str, Value], entries: list[str]
) -> None:
    nics, _, _ = looked(
        adapter(TWO, "B", static("10.0.0.6", "255.255.255.0"), E1000),
        at(f"{TCPIP}\\Interfaces\\{ONE}", values),
        at(f"{NETWORK}\\{ONE}\\Connection", {"PnpInstanceID": Value.sz(VMXNET3), **connection}),
        routes(*entries),
    )
    assert all(safe(nic.name) == nic.name and len(nic.name) <= 300 for nic in nics)


# ---------------------------------------------------------------- real hives


def found_in(content: bytes) -> Found:
    notes = Notes()
    nics, adapters = network.look(Hive.open("SYSTEM", content), SET, notes)
    return nics, adapters, notes


def test_the_real_windows_7_has_its_two_static_addresses() -> None:
    """Both gateways are among its persistent routes, too: they are no routes of their own."""
    nics, adapters, notes = found_in(real(WINDOWS7))
    facts = {nic.name: (nic.method, nic.addresses, nic.gateway, nic.dns, nic.routes, nic.mac) for nic in nics}
    assert facts == {
        "Local Area Connection 2": (
            NicMethod.STATIC, ("10.3.58.5/24",), "10.3.58.1", ("10.3.58.4",), (), "",
        ),
        "Local Area Connection": (
            NicMethod.STATIC, ("192.168.1.123/24",), "192.168.1.1", ("192.168.1.112",), (), "",
        ),
    }  # fmt: skip
    assert [one.instance.partition("\\")[0] for one in adapters] == ["PCI", "PCI"]
    assert [one.gateway_metrics for one in adapters] == [(0,), (0,)]
    assert [one.driver for one in adapters] == ["E1G60", "E1G60"]
    assert notes.warnings == []


def test_the_real_windows_8_has_dhcp() -> None:
    nics, adapters, _ = found_in(undirtied(real(WINDOWS8)))
    assert [(nic.name, nic.method, nic.addresses) for nic in nics] == [("Ethernet", NicMethod.DHCP, ())]
    assert adapters[0].guid == "{B0E24C4B-50F2-4B60-BCB3-EF2C3FF3394E}"


def test_the_real_windows_10_says_its_mac_address() -> None:
    nics, _, _ = found_in(replayed("SYSTEM", real(WINDOWS10), logs(WINDOWS10)))
    assert ("Ethernet", NicMethod.DHCP, "ec:f4:bb:48:7f:ed") in [
        (nic.name, nic.method, nic.mac) for nic in nics
    ]
