"""What is staged for each init system, and what ties names: small trees in, paths and texts out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refloat.errors import Refused
from refloat.guest import boundary
from refloat.guest.firstboot.inits import init_of, start_of, with_service
from refloat.guest.firstboot.pins import Naming, naming_of, pins
from refloat.guest.firstboot.staging import Network, plan_network, stage, staging
from refloat.guest.tree import Tree
from refloat.model import NetworkMode, NicConfig, NicMethod, NicModel, PlannedNic
from tests.unit.builders import FACTS, MAC
from tests.unit.guest.guests import GOLDEN, request

CONFIG = NicConfig("ens192", NicMethod.STATIC, ("10.1.0.40/24",))
STAGED = GOLDEN / "firstboot"

# Files and directories ("/" at the end), symlinks ("path -> target").
TREES = {
    "systemd": ["sbin/init -> /lib/systemd/systemd", "lib/systemd/systemd", "etc/inittab", "etc/rcS.d/"],
    "systemd without /sbin/init": ["usr/lib/systemd/systemd"],
    "openrc": [
        "sbin/init -> /bin/busybox",
        "bin/busybox",
        "sbin/openrc",
        "etc/runlevels/boot/",
        "etc/inittab",
    ],
    "sysvinit of Debian": ["sbin/init", "etc/inittab", "etc/rcS.d/S13networking", "etc/rc2.d/"],
    "sysvinit of Red Hat": [
        "sbin/init",
        "etc/inittab",
        *(f"etc/rc.d/rc{level}.d/S10network" for level in (2, 3, 4, 5)),
        "etc/rc3.d -> rc.d/rc3.d",
    ],
    "upstart": ["sbin/init", "etc/init/networking.conf", "etc/rcS.d/"],
    "systemd beside sysvinit, which runs": [
        "sbin/init",
        "lib/systemd/systemd",
        "etc/inittab",
        "etc/rcS.d/",
    ],
}
DEPEND = """\
TARGETS = mountkernfs.sh udev mountall.sh networking urandom
INTERACTIVE = udev
udev: mountkernfs.sh
mountall.sh: udev
networking: mountkernfs.sh mountall.sh
"""


def plant(root: Path, names: list[str]) -> Path:
    for name in names:
        path, _, target = name.partition(" -> ")
        place = root / path.rstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if target:
            place.symlink_to(target)
        elif path.endswith("/"):
            place.mkdir(exist_ok=True)
        else:
            place.write_text("")
    return root


def nic(mode: NetworkMode = NetworkMode.RESTORE, **more: Any) -> PlannedNic:
    return PlannedNic(MAC, MAC, "lan", mode, CONFIG, "test", **more)


ASK = replace(request(replace(FACTS, nics=(CONFIG,))), nics=(nic(),))


@pytest.mark.parametrize(
    ("tree", "init"),
    [(name, "" if name == "upstart" else name.split()[0]) for name in TREES if "runs" not in name]
    + [("systemd beside sysvinit, which runs", "sysvinit")],
)
def test_init_system_is_the_one_that_runs(tmp_path: Path, tree: str, init: str) -> None:
    with Tree(plant(tmp_path, TREES[tree])) as here:
        assert init_of(here) == init


@pytest.mark.parametrize("name", ["systemd", "openrc", "sysvinit of Debian", "sysvinit of Red Hat"])
def test_what_is_staged(tmp_path: Path, name: str) -> None:
    """All of it, as a golden text: kind, mode and path, and the contents that are not programs."""
    plant(tmp_path, TREES[name])
    if "Debian" in name:
        (tmp_path / "etc/init.d").mkdir()
        (tmp_path / "etc/init.d/.depend.boot").write_text(DEPEND)
    with Tree(tmp_path) as tree:
        init = init_of(tree)
        staged = staging(ASK, init, start_of(tree, init), Network("ifupdown"), {})
    lines = [f"directory {path}" for path in staged.directories]
    for path, file in sorted(staged.files.items()):
        lines.append(f"file {file.mode:o} {path}")
        if path.endswith((".conf", "/nics", "/staged", ".boot")):
            lines += [f"    {line}" for line in file.content.decode().splitlines()]
    lines += [f"symlink {path} -> {target}" for path, target in sorted(staged.symlinks.items())]
    golden = STAGED / f"{name.replace(' ', '-').lower()}.txt"
    assert "\n".join(lines) + "\n" == golden.read_text()


@pytest.mark.parametrize("name", ["systemd", "openrc", "sysvinit of Debian", "sysvinit of Red Hat"])
def test_all_that_is_staged_is_within_the_boundary(tmp_path: Path, name: str) -> None:
    tied = pins((nic(NetworkMode.PRESERVE, pin="ens192"),), NicModel.VIRTIO, Naming.LINK)
    with Tree(plant(tmp_path, TREES[name])) as tree:
        init = init_of(tree)
        staged = staging(ASK, init, start_of(tree, init), Network("ifupdown"), tied)
    for path in (*staged.files, *staged.symlinks):
        assert boundary.LINUX.limitation(path) is None, path


def test_an_unknown_init_system_is_refused(tmp_path: Path) -> None:
    with Tree(plant(tmp_path, TREES["upstart"])) as tree, pytest.raises(Refused, match="init system"):
        stage(tree, ASK, FACTS)


def test_insservs_list_gets_our_service_before_the_network() -> None:
    assert with_service(DEPEND).splitlines() == [
        "TARGETS = mountkernfs.sh udev mountall.sh networking urandom refloat-firstboot",
        "INTERACTIVE = udev",
        "udev: mountkernfs.sh",
        "mountall.sh: udev",
        "networking: mountkernfs.sh mountall.sh refloat-firstboot",
        "refloat-firstboot: mountall.sh udev",
    ]


@given(st.lists(st.text("abc: .=\\-")), st.booleans())
def test_what_is_added_to_the_list_can_be_taken_out(lines: list[str], ends: bool) -> None:
    """As the first boot does it, with sed."""
    text = "\n".join(["TARGETS = udev networking", *lines, "networking: udev"]) + ("\n" if ends else "")
    kept = [line for line in with_service(text).split("\n") if not line.startswith("refloat-firstboot:")]
    assert "\n".join(line.replace(" refloat-firstboot", "") for line in kept) == text


# ---------------------------------------------------------------- names

PINNED = (nic(), nic(NetworkMode.PRESERVE, pin="ens192"))


@pytest.mark.parametrize(
    ("names", "naming"),
    [
        (["usr/lib/udev/rules.d/80-net-setup-link.rules"], Naming.LINK),
        (["lib/udev/rules.d/80-net-setup-link.rules"], Naming.LINK),
        (["lib/udev/rules.d/80-net-name-slot.rules"], Naming.RULES),
        (
            [
                "lib/udev/rules.d/80-net-setup-link.rules",
                "etc/udev/rules.d/80-net-setup-link.rules -> /dev/null",
            ],
            Naming.RULES,
        ),
        (["etc/mdev.conf"], Naming.NONE),
    ],
)
def test_what_names_interfaces(tmp_path: Path, names: list[str], naming: Naming) -> None:
    with Tree(plant(tmp_path, names)) as tree:
        assert naming_of(tree) is naming


def test_a_link_file_ties_one_name_to_one_address() -> None:
    ((path, text),) = pins(PINNED, NicModel.VIRTIO, Naming.LINK).items()
    assert path == "/etc/systemd/network/10-refloat-1.link"
    plain = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert plain == [
        "[Match]",
        f"MACAddress={MAC}",
        "Driver=virtio_net",
        "[Link]",
        "Name=ens192",
    ]


def test_a_rule_where_no_link_files_are_read() -> None:
    ((path, text),) = pins(PINNED, NicModel.VIRTIO, Naming.RULES).items()
    assert path == "/etc/udev/rules.d/70-refloat-names.rules"
    assert text.splitlines()[-1] == (
        f'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{MAC}", NAME="ens192"'
    )


def test_nothing_is_tied_without_need_or_without_udev() -> None:
    assert not pins((nic(),), NicModel.VIRTIO, Naming.RULES)
    assert not pins((nic(),), NicModel.VIRTIO, Naming.LINK)
    assert not pins(PINNED, NicModel.VIRTIO, Naming.NONE)


# ---------------------------------------------------------------- the network's files


def test_a_plan_that_is_out_of_date_is_refused(tmp_path: Path) -> None:
    now = replace(FACTS, nics=(replace(CONFIG, addresses=("10.9.9.9/24",)),))
    with Tree(tmp_path) as tree, pytest.raises(Refused, match="other addresses"):
        plan_network(tree, (nic(),), now)
    gone = replace(nic(), config=replace(CONFIG, sources=("/etc/network/interfaces",)))
    with Tree(tmp_path) as tree, pytest.raises(Refused, match="no interface ens192 any more"):
        plan_network(tree, (gone,), replace(FACTS, nics=()))


def test_what_is_preserved_is_not_even_read(tmp_path: Path) -> None:
    with Tree(tmp_path) as tree:
        assert plan_network(tree, (nic(NetworkMode.PRESERVE),), FACTS) == Network("ifupdown")
