"""ifupdown: what is read from it, and what of it a recovery replaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from refloat.guest.linux.network import ifupdown
from refloat.guest.linux.render.ifupdown import placeholder, render
from refloat.guest.tree import Tree
from refloat.model import NicConfig, NicMethod

STACKED = """
allow-hotplug ens192 ens224
iface ens192 inet static
    address 10.1.1.2
    netmask 255.255.254.0
    gateway 10.1.1.1
    dns-nameservers 10.1.1.53 10.1.1.54
    hwaddress ether 00:50:56:00:00:01
iface ens192 inet6 static
    address fd00::2/64
iface ens192.10 inet static
    address 10.10.0.2/24
auto br0
iface br0 inet static
    bridge_ports ens224 \\
        ens1024
    address 192.0.2.2/24
iface bond0 inet dhcp
    bond-slaves ens256 ens161
"""


def test_addresses_count_for_the_nic_that_carries_them() -> None:
    nics = {nic.name: nic for nic in ifupdown.ifupdown_nics({"x": STACKED})}
    assert list(nics) == ["ens161", "ens192", "ens224", "ens256", "ens1024"]
    assert nics["ens192"] == NicConfig(
        "ens192",
        NicMethod.STATIC,
        ("10.1.1.2/23", "fd00::2/64", "10.10.0.2/24"),
        "10.1.1.1",
        ("10.1.1.53", "10.1.1.54"),
    )
    assert nics["ens224"].addresses == ("192.0.2.2/24",)
    assert nics["ens256"].method is NicMethod.DHCP
    assert nics["ens1024"].method is NicMethod.NONE
    assert ifupdown.pinned_addresses({"x": STACKED}) == ("x: hwaddress ether 00:50:56:00:00:01",)


@pytest.mark.parametrize("text", ["", "iface", "iface\niface lo inet", "address 1", "auto", "iface x\n\\"])
def test_unusual_files_are_no_error(text: str) -> None:
    ifupdown.ifupdown_nics({"x": text})


def test_stacking_in_a_circle_ends() -> None:
    text = "iface a inet manual\nbridge_ports b\niface b inet manual\nbridge_ports a\n"
    ifupdown.ifupdown_nics({"x": text})


def test_sourced_files(tmp_path: Path) -> None:
    base = tmp_path / "etc/network"
    (base / "interfaces.d").mkdir(parents=True)
    (base / "more").mkdir()
    circle = "source /etc/network/interfaces\n"
    (base / "interfaces").write_text(f"source interfaces.d/*.cfg\nsource-directory more\n{circle}")
    for name in ("b.cfg", "a.cfg", "c", ".x.cfg"):
        (base / "interfaces.d" / name).write_text("# empty\n")
    for name in ("ok", "not.ok"):
        (base / "more" / name).write_text("# empty\n")
    with Tree(tmp_path) as tree:
        files = ifupdown.ifupdown_files(tree)
    assert list(files) == [
        f"/etc/network/{name}"
        for name in ("interfaces", "interfaces.d/a.cfg", "interfaces.d/b.cfg", "more/ok")
    ]


def test_source_cannot_climb_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").write_text("iface evil inet static\n")
    (tmp_path / "guest/etc/network").mkdir(parents=True)
    (tmp_path / "guest/etc/network/interfaces").write_text("source ../../../outside/*\n")
    with Tree(tmp_path / "guest") as tree:
        assert list(ifupdown.ifupdown_files(tree)) == ["/etc/network/interfaces"]


def test_render_replaces_names_and_nothing_else() -> None:
    names = {"ens192": placeholder(0), "ens19": placeholder(1)}
    text = (
        "# ens192 stays here\n"
        "auto ens192 ens1920 ens192:0 xens192\n"
        "iface ens192.10 inet static\n"
        "\taddress 10.0.0.1/24\n"
        "\tup ip route add default dev ens192 table ens192-table\n"
        "\tbridge_ports ens19 \\\n"
        "\t  ens192\n"
        "\tdescription ens192\n"
    )
    assert render({"/i": text, "/o": "auto lo\n"}, names)["/i"] == (
        "# ens192 stays here\n"
        "auto @REFLOAT_NIC_0@ ens1920 @REFLOAT_NIC_0@:0 xens192\n"
        "iface @REFLOAT_NIC_0@.10 inet static\n"
        "\taddress 10.0.0.1/24\n"
        "\tup ip route add default dev @REFLOAT_NIC_0@ table ens192-table\n"
        "\tbridge_ports @REFLOAT_NIC_1@ \\\n"
        "\t  @REFLOAT_NIC_0@\n"
        "\tdescription ens192\n"
    )
    assert "/o" not in render({"/i": text, "/o": "auto lo\n"}, names)
    assert render({"/i": text}, {}) == {}


def test_resolver_speaks_for_the_nic_with_the_gateway() -> None:
    text = "iface a inet static\naddress 1.1.1.1/8\niface b inet static\naddress 2.2.2.2/8\ngateway 2.0.0.1\n"
    first, second = ifupdown.ifupdown_nics({"x": text}, "nameserver 9.9.9.9\n")
    assert first.dns == ()
    assert second.dns == ("9.9.9.9",)
