"""What is read from a guest's network files, and which stack is in use."""

from __future__ import annotations

from pathlib import Path

import pytest

from refloat.guest.linux import network
from refloat.guest.linux.network import ifcfg, ifupdown, keyfile, netplan, networkd, stacks, wicked
from refloat.guest.linux.render.ifupdown import render
from refloat.guest.linux.render.types import placeholder
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import LinkKind, NicConfig, NicMethod, Route

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
iface ens192:1 inet static
    address 10.1.1.3/23
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

# ---------------------------------------------------------------- ifupdown


def test_ifupdown_knows_what_stands_on_what() -> None:
    parsed = ifupdown.parse({"/x": STACKED})
    nics = {nic.name: nic for nic in parsed.nics}
    assert [nic.name for nic in parsed.nics if nic.kind is LinkKind.ETHERNET] == [
        *("ens161", "ens192", "ens224", "ens256", "ens1024")
    ]
    assert nics["ens192"] == NicConfig(
        "ens192",
        NicMethod.STATIC,
        ("10.1.1.2/23", "fd00::2/64", "10.1.1.3/23"),
        "10.1.1.1",
        ("10.1.1.53", "10.1.1.54"),
        method6=NicMethod.STATIC,
        sources=("/x",),
    )
    vlan = nics["ens192.10"]
    assert (vlan.kind, vlan.members, vlan.vlan_id) == (LinkKind.VLAN, ("ens192",), 10)
    assert (nics["br0"].kind, nics["br0"].members) == (LinkKind.BRIDGE, ("ens224", "ens1024"))
    assert (nics["bond0"].method, nics["bond0"].members) == (NicMethod.DHCP, ("ens256", "ens161"))
    assert nics["ens1024"].method is NicMethod.NONE
    assert parsed.warnings == ("/x: hwaddress ether 00:50:56:00:00:01 sets a MAC itself",)


@pytest.mark.parametrize("text", ["", "iface", "iface\niface lo inet", "address 1", "auto", "iface x\n\\"])
def test_unusual_files_are_no_error(text: str) -> None:
    assert not ifupdown.parse({"/x": text}).problems


def test_stacking_in_a_circle_ends() -> None:
    text = "iface a inet manual\nbridge_ports b\niface b inet manual\nbridge_ports a\n"
    assert len(ifupdown.parse({"/x": text}).nics) == 2


def test_routes_of_hooks() -> None:
    text = (
        "iface a inet static\naddress 10.0.0.2/24\n"
        "up ip route add 172.16.0.0/12 via 10.0.0.9 dev a metric 7\n"
        "post-up /sbin/route add -net 192.0.2.0 netmask 255.255.255.0 gw 10.0.0.8\n"
        "up ip route add $OTHER via 10.0.0.9\nup route add default gw 10.0.0.1 || true\n"
        "up ip route add default via 10.0.0.1 dev $IFACE\n"
    )
    nic = ifupdown.parse({"/x": text}).nics[0]
    assert nic.routes == (Route("172.16.0.0/12", "10.0.0.9", 7), Route("192.0.2.0/24", "10.0.0.8"))
    assert nic.gateway == "10.0.0.1"


def test_what_is_wrong_is_said_with_its_line() -> None:
    text = "iface a inet static\n  address 10.0.0.300/24\n  gateway none\n"
    assert ifupdown.parse({"/x": text}).problems == (
        "/x:2 '10.0.0.300/24' is no address",
        "/x:3 'none' is no address",
    )


def test_a_comment_ends_with_its_line() -> None:
    text = "# old \\\niface a inet dhcp\n"
    assert ifupdown.parse({"/x": text}).nics[0].method is NicMethod.DHCP


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
    files = {"/etc/network/interfaces": text, "/etc/resolv.conf": "nameserver 9.9.9.9\n"}
    first, second = stacks.read("ifupdown", files).nics
    assert (first.dns, second.dns) == ((), ("9.9.9.9",))
    generated = {**files, "/etc/resolv.conf": "# Generated by NetworkManager\nnameserver 9.9.9.9\n"}
    assert stacks.read("ifupdown", generated).nics[1].dns == ()


# ---------------------------------------------------------------- the other stacks, where goldens say less


def test_netplan_merges_files_and_refuses_what_it_does_not_understand() -> None:
    one = "network: {ethernets: {a: {addresses: [10.0.0.1/24], dhcp4: no}}}\n"
    two = (
        "network:\n  ethernets:\n    a:\n      addresses:\n      - 10.0.0.2/24:\n          label: x\n"
        "      mtu: 1400\n"
    )
    nic = netplan.parse({"/etc/netplan/1.yaml": one, "/etc/netplan/2.yaml": two}).nics[0]
    assert (nic.addresses, nic.mtu) == (("10.0.0.1/24", "10.0.0.2/24"), 1400)
    for text, line in (
        ("network:\n  ethernets: &x\n    a: {}\n", 2),
        ("network:\n\tethernets: {}\n", 2),
        ("network:\n  version: 1\n", 2),
        ("a: 1\na: 2\n", 2),
        ("network:\n  ethernets:\n    a:\n      addresses: [10.0.0.1]\n", 4),
        ("a: [1\n", 2),
        ("a: |\n  text\n", 1),
        ("---\na: 1\n---\nb: 2\n", 3),
    ):
        problems = netplan.parse({"/etc/netplan/1.yaml": text}).problems
        assert problems and problems[0].startswith(f"/etc/netplan/1.yaml:{line} "), text


def test_nesting_is_bounded() -> None:
    for text in ("[" * 5000, "- " * 5000, "a: {" * 5000, "".join(f"{' ' * n}a:\n" for n in range(500))):
        assert netplan.parse({"/etc/netplan/1.yaml": text}).problems
    assert netplan.parse({"/etc/netplan/1.yaml": "a: 1\n" * 100_000}).problems


def test_keyfiles_old_and_new() -> None:
    path = "/etc/NetworkManager/system-connections/x"
    text = (
        "[connection]\ntype=802-3-ethernet\ninterface-name=a\n[802-3-ethernet]\n"
        "mac-address=00:50:56:AA:BB:CC\n[ipv4]\nmethod=manual\n"
        "addresses1=10.0.0.2;24;10.0.0.1;\nroutes1=172.16.0.0;12;10.0.0.9;5;\n"
    )
    nic = keyfile.parse({path: text}).nics[0]
    assert (nic.addresses, nic.gateway, nic.mac) == (("10.0.0.2/24",), "10.0.0.1", "00:50:56:aa:bb:cc")
    assert nic.routes == (Route("172.16.0.0/12", "10.0.0.9", 5),)
    tied = text.replace("interface-name=a\n", "")
    assert keyfile.parse({path: tied}).nics[0].name == "mac:00:50:56:aa:bb:cc"
    parsed = keyfile.parse({path: text, f"{path}2": text})
    assert len(parsed.nics) == 1 and "another profile" in parsed.warnings[0]
    assert not keyfile.parse({path: text.replace("[802", "autoconnect=false\n[802")}).nics


def test_ifcfg_without_a_device_or_with_a_shell() -> None:
    base = "/etc/sysconfig/network-scripts/ifcfg-"
    files = {
        f"{base}Wired": "HWADDR=00:50:56:AA:BB:CC\nBOOTPROTO=dhcp\n",
        f"{base}e": "IPADDR=$(hostname -i)\n",
    }
    parsed = ifcfg.parse(files)
    assert [nic.name for nic in parsed.nics] == ["e", "mac:00:50:56:aa:bb:cc"]
    assert parsed.problems[0] == f"{base}e:1 IPADDR is computed by a shell"
    assert not ifcfg.parse({f"{base}e": "ONBOOT=no\nIPADDR=10.0.0.1\n"}).nics


def test_wicked_and_networkd_details() -> None:
    base = "/etc/sysconfig/network/"
    text = "IPADDR_a='10.0.0.2'\nPREFIXLEN_a=24\nSTARTMODE=auto\n"
    files = {
        f"{base}ifcfg-e": text,
        f"{base}routes": "default 10.0.0.1 - -\n10.9.0.0 10.0.0.9 255.255.0.0 e\n",
    }
    nic = wicked.parse(files).nics[0]
    assert (nic.addresses, nic.gateway) == (("10.0.0.2/24",), "10.0.0.1")
    assert nic.routes == (Route("10.9.0.0/16", "10.0.0.9"),)
    unit = "/etc/systemd/network/"
    both = {
        f"{unit}1.network": "[Match]\nName=e\n[Network]\nDHCP=yes\n",
        f"{unit}2.network": "[Match]\nName=e\n[Network]\nAddress=10.0.0.1/24\n",
        f"{unit}3.network": "[Match]\nKind=veth\nDriver=x\n[Network]\nAddress=10.0.0.1/24\n",
    }
    (nic,) = networkd.parse(both).nics
    assert (nic.method, nic.addresses) == (NicMethod.DHCP, ())


# ---------------------------------------------------------------- which stack is in use

INTERFACES = "iface e inet dhcp\n"
NETWORK = "[Match]\nName=e\n[Network]\nDHCP=yes\n"


def _tree(root: Path, files: dict[str, str], links: dict[str, str]) -> tuple[str, Notes]:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for path, target in links.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    notes = Notes()
    with Tree(root) as tree:
        return network.look(tree, None, notes)[1], notes


WANTS = "etc/systemd/system/multi-user.target.wants/"


def test_enabled_decides_not_the_files(tmp_path: Path) -> None:
    files = {"etc/network/interfaces": INTERFACES, "etc/systemd/network/1.network": NETWORK}
    assert _tree(tmp_path / "a", files, {f"{WANTS}networking.service": "/x"})[0] == "ifupdown"
    assert _tree(tmp_path / "b", files, {f"{WANTS}systemd-networkd.service": "/x"})[0] == "networkd"
    assert _tree(tmp_path / "c", files, {"etc/runlevels/boot/networking": "/x"})[0] == "ifupdown"
    assert _tree(tmp_path / "d", files, {"etc/rcS.d/S12networking": "/x"})[0] == "ifupdown"
    masked = {f"{WANTS}networking.service": "/x", "etc/systemd/system/networking.service": "/dev/null"}
    assert _tree(tmp_path / "e", files, {**masked, f"{WANTS}systemd-networkd.service": "/x"})[0] == "networkd"


def test_uncertain_is_said(tmp_path: Path) -> None:
    files = {"etc/network/interfaces": INTERFACES, "etc/systemd/network/1.network": NETWORK}
    stack, notes = _tree(tmp_path / "a", files, {})
    assert stack == "" and "not certain" in notes.warnings[0]
    assert _tree(tmp_path / "b", {"etc/network/interfaces": INTERFACES}, {})[0] == "ifupdown"
    stack, notes = _tree(tmp_path / "c", files, {f"{WANTS}NetworkManager.service": "/x"})
    assert stack == "networkmanager" and "are not used" in notes.warnings[0]
    assert _tree(tmp_path / "d", {"etc/hostname": "x"}, {})[1].warnings == [
        "no network configuration was found"
    ]


def test_ifcfg_belongs_to_whom_reads_it(tmp_path: Path) -> None:
    files = {"etc/sysconfig/network-scripts/ifcfg-e": "BOOTPROTO=dhcp\n"}
    manager = {f"{WANTS}NetworkManager.service": "/x"}
    assert _tree(tmp_path / "a", files, manager)[0] == "ifcfg"
    modern = {**files, "usr/lib64/NetworkManager/1.46/libnm-device-plugin-wifi.so": ""}
    assert _tree(tmp_path / "b", modern, manager)[0] == "networkmanager"
    suse = {"etc/sysconfig/network/ifcfg-e": "BOOTPROTO=dhcp\n"}
    alias = {"etc/systemd/system/network.service": "/usr/lib/systemd/system/wicked.service"}
    assert _tree(tmp_path / "c", suse, alias)[0] == "wicked"


def test_a_symlink_out_of_the_directory_is_a_problem(tmp_path: Path) -> None:
    files = {"elsewhere": NETWORK, "etc/systemd/network/1.network": NETWORK}
    links = {"etc/systemd/network/2.network": "/elsewhere", "etc/systemd/network/3.network": "/dev/null"}
    _, notes = _tree(tmp_path, files, links)
    assert notes.problems == [
        "/etc/systemd/network/2.network is a symlink to /elsewhere: it cannot be restored"
    ]


def test_names_used() -> None:
    unit = "/etc/systemd/network/"
    files = {
        f"{unit}1.network": "[Match]\nName=e0 en*\n[Network]\nDHCP=yes\n",
        f"{unit}2.network": "[Match]\nMACAddress=00:50:56:aa:bb:cc\n[Network]\nDHCP=yes\n",
        f"{unit}3.network": "[Match]\nDriver=vmxnet3\n[Network]\nDHCP=yes\n",
    }
    assert network.names_used(files, "networkd") == ("e0",)
