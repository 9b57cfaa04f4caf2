"""Renderers of all stacks against their own parsers: new files, other addresses, the same name."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refloat.errors import Failed, Refused
from refloat.guest.linux.network.stacks import DIALECTS, read
from refloat.guest.linux.render import RENDERERS, Rendered, after, render, verify
from refloat.guest.linux.render.types import RenderedFile
from refloat.model import LinkKind, NetworkMode, NicConfig, NicMethod, Route

STACKS = sorted(RENDERERS)
CONFIG = {"wicked": {"/etc/sysconfig/network/config": "NETCONFIG_DNS_STATIC_SERVERS=''\n"
                     "NETCONFIG_DNS_STATIC_SEARCHLIST=''\n"}}  # fmt: skip
FULL = NicConfig(
    "ens192",
    NicMethod.STATIC,
    ("10.20.30.40/24", "10.20.30.41/24", "fd00:20::40/64", "fd00:20::41/64"),
    "10.20.30.1",
    ("10.20.30.53", "fd00:20::53"),
    ("example.com", "example.net"),
    NicMethod.STATIC,
    "fd00:20::1",
    (Route("172.16.0.0/12", "10.20.30.254", 50), Route("fd00:9::/32", "fd00:20::9")),
    1400,
)


def _new(stack: str, config: NicConfig) -> dict[str, str]:
    """The files of a guest that is configured so, by the renderer for new files."""
    files: Mapping[str, str] = CONFIG.get(stack, {})
    item = Rendered(0, "", config, NetworkMode.READDRESS)
    done = render(stack, files, [item])
    return {
        path.replace("@REFLOAT_NIC_0@", config.name): text.replace("@REFLOAT_NIC_0@", config.name)
        for path, text in after(files, done).items()
    }


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    "config",
    [
        FULL,
        NicConfig("ens192", NicMethod.DHCP),
        NicConfig("ens192", NicMethod.STATIC, ("10.0.0.2/8",), "10.0.0.1"),
        NicConfig("ens192", NicMethod.STATIC, ("10.0.0.2/8",), routes=(Route("10.9.0.0/16", "10.0.0.3"),)),
        NicConfig("ens192", NicMethod.NONE, ("fd00::2/64",), method6=NicMethod.STATIC, gateway6="fd00::1"),
    ],
)
def test_new_files_say_what_was_intended(stack: str, config: NicConfig) -> None:
    files = _new(stack, config)
    (nic,) = read(stack, files).nics
    assert replace(nic, sources=()) == config
    assert any("refloat" in path or config.name in path or path.endswith("interfaces") for path in files)


def test_new_files_of_what_is_no_adapter_are_refused() -> None:
    bond = Rendered(0, "", replace(FULL, kind=LinkKind.BOND), NetworkMode.READDRESS)
    with pytest.raises(Refused):
        render("networkd", {}, [bond])
    with pytest.raises(Refused):
        render("", {}, [Rendered(0, "", FULL, NetworkMode.READDRESS)])


# ---------------------------------------------------------------- the same files with other addresses


def _addresses(version: int) -> st.SearchStrategy[str]:
    if version == 4:
        return st.builds("10.{}.{}.{}".format, *[st.integers(1, 9)] * 3)
    return st.builds("fd00:{}::{}".format, st.integers(1, 9), st.integers(1, 99))


@st.composite
def configs(draw: st.DrawFn) -> NicConfig:
    four = draw(st.lists(_addresses(4), max_size=3, unique=True))
    six = draw(st.lists(_addresses(6), max_size=2, unique=True))
    with_gateway, with_gateway6, with_route = (draw(st.booleans()) for _ in range(3))
    gateway = _neighbour(four[0]) if four and with_gateway else ""
    gateway6 = _neighbour(six[0]) if six and with_gateway6 else ""
    to = draw(st.sampled_from(["172.16.0.0/12", "192.0.2.0/25"]))
    routes = (Route(to, _neighbour(four[0])),) if four and with_route else ()
    method = NicMethod.STATIC if four else NicMethod.DHCP if with_route or not six else NicMethod.NONE
    dns = draw(st.lists(st.sampled_from(["9.9.9.9", "1.1.1.1", "2620:fe::fe"]), max_size=2, unique=True))
    if not four and not six:
        dns = []
    return NicConfig(
        "ens192",
        method,
        tuple([f"{one}/{draw(st.sampled_from([16, 24]))}" for one in four] + [f"{one}/64" for one in six]),
        gateway,
        tuple(sorted(dns, key=lambda one: ":" in one)),
        method6=NicMethod.STATIC if six else NicMethod.NONE,
        gateway6=gateway6,
        routes=routes,
    )


def _neighbour(address: str) -> str:
    ip = ipaddress.ip_address(address)
    return str(ip + 100)


@pytest.mark.parametrize("stack", STACKS)
@settings(max_examples=60, deadline=None)
@given(old=configs(), new=configs())
def test_readdress_gives_what_was_intended(stack: str, old: NicConfig, new: NicConfig) -> None:
    files = _new(stack, old)
    if "ens192" not in {nic.name for nic in read(stack, files).nics}:
        return
    # A plan without new routes drops the old; one with others than before is none that occurs.
    new = replace(new, routes=new.routes if len(new.routes) == len(old.routes) else ())
    if new.routes and (not old.routes or old.gateway == old.routes[0].via):
        new = replace(new, routes=())
    if not new.dns and new.method is not NicMethod.DHCP:
        new = replace(new, dns=old.dns)
    item = Rendered(0, "ens192", new, NetworkMode.READDRESS)
    try:
        done = render(stack, files, [item])
    except Refused as error:
        assert "still names" in str(error)
        return
    by_name = {nic.name: nic for nic in read(stack, after(files, done)).nics}
    nic = by_name["@REFLOAT_NIC_0@"]
    assert set(nic.addresses) == set(new.addresses)
    assert (nic.gateway, nic.gateway6) == (new.gateway, new.gateway6)


@pytest.mark.parametrize("stack", STACKS)
def test_the_same_name_and_mac_change_nothing(stack: str) -> None:
    files = _new(stack, FULL)
    mac = "00:50:56:aa:bb:cc"
    renamed = RENDERERS[stack].rename(files, {"ens192": "ens192"}, {mac: mac})
    assert {path: text for path, (_, text) in renamed.items()} == files
    assert {new_path for new_path, _ in renamed.values()} == set(files)


# ---------------------------------------------------------------- hostile input

WORDS = st.sampled_from(
    [
        "iface", "ens192", "inet", "static", "address", "10.0.0.1/24", "\n", " ", "\t", "\\\n", "#", "=",
        "[", "]", "[Match]\n", "[Network]\n", "[ipv4]\n", "Name=ens192\n", "Address=", "IPADDR=", "'", '"',
        "network:", "ethernets:", "- ", ":", "{", "}", ",", "$(x)", "via", "default", "\0", "é", "9" * 30,
        "address1=", "DEVICE=ens192\n", "00:50:56:aa:bb:cc", "HWADDR=", "auto", "[connection]\n",
        "type=ethernet\n", "interface-name=ens192\n", "BOOTPROTO=dhcp\n", "MACAddress=", "\r\n",
    ]
)  # fmt: skip
PATHS = {
    "ifupdown": "/etc/network/interfaces",
    "netplan": "/etc/netplan/x.yaml",
    "networkmanager": "/etc/NetworkManager/system-connections/x.nmconnection",
    "ifcfg": "/etc/sysconfig/network-scripts/ifcfg-ens192",
    "networkd": "/etc/systemd/network/x.network",
    "wicked": "/etc/sysconfig/network/ifcfg-ens192",
}


@pytest.mark.parametrize("stack", STACKS)
@settings(max_examples=150, deadline=None)
@given(words=st.lists(WORDS, max_size=60))
def test_any_text_is_read_and_kept(stack: str, words: list[str]) -> None:
    files = {PATHS[stack]: "".join(words)}
    DIALECTS[stack].parse(files)
    try:
        renamed = RENDERERS[stack].rename(
            files, {"ens192": "ens192"}, {"00:50:56:aa:bb:cc": "00:50:56:aa:bb:cc"}
        )
    except Refused:
        return
    assert renamed == {path: (path, text) for path, text in files.items()}


@pytest.mark.parametrize("stack", STACKS)
def test_long_lines_and_many_of_them_take_no_time(stack: str) -> None:
    for text in ("address 1 " * 100_000, "[" * 500_000, "a=" * 200_000, "\\\n" * 200_000, "#\n" * 200_000):
        DIALECTS[stack].parse({PATHS[stack]: text})


# ---------------------------------------------------------------- a result that is not what was intended


def test_verify_raises_for_what_was_not_intended() -> None:
    files = {PATHS["ifupdown"]: "iface ens192 inet static\n    address 10.0.0.2/24\n    gateway 10.0.0.1\n"}
    item = Rendered(0, "ens192", NicConfig("ens192", NicMethod.STATIC), NetworkMode.RESTORE)
    good = files[PATHS["ifupdown"]].replace("ens192", item.placeholder)
    path = PATHS["ifupdown"]
    verify("ifupdown", files, [RenderedFile(path, path, good)], [item])
    for text in ("", good.replace("10.0.0.2", "10.0.0.3"), good.replace("gateway", "# gateway")):
        with pytest.raises(Failed):
            verify("ifupdown", files, [RenderedFile(path, path, text)], [item])


def test_what_cannot_be_mapped_is_said() -> None:
    text = "iface e inet static\n address 10.0.0.2/24\n up iptables -A INPUT -s 10.0.0.77 -j DROP\n"
    new = NicConfig("e", NicMethod.STATIC, ("10.9.0.2/24",))
    with pytest.raises(Refused, match=r"interfaces:3 still names 10\.0\.0\.77"):
        render("ifupdown", {PATHS["ifupdown"]: text}, [Rendered(0, "e", new, NetworkMode.READDRESS)])


def test_only_what_has_a_placeholder_waits() -> None:
    assert RenderedFile("/a", "/a", "x @REFLOAT_NIC_0@").waits
    assert RenderedFile("/a", "/a-@REFLOAT_NIC_0@", "x").waits
    assert not RenderedFile("/a", "/a", "x").waits


def test_a_profile_of_the_system_is_hidden_not_changed() -> None:
    path = "/usr/lib/NetworkManager/system-connections/x.nmconnection"
    text = "[connection]\ntype=ethernet\ninterface-name=ens192\n\n[ipv4]\nmethod=auto\n"
    item = Rendered(0, "ens192", NicConfig("ens192", NicMethod.DHCP), NetworkMode.RESTORE)
    (done,) = render("networkmanager", {path: text}, [item])
    assert (done.path, done.new_path) == ("", path.replace("/usr/lib", "/etc"))
