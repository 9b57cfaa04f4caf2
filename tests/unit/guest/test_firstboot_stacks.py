"""From the plan to the guest's files after its first boot, for every network stack on realistic trees.

Nothing stands in for anything between: the guest's files are read, the plan is decided, the renderers
write, the shell runs, and what the guest's files say then is read again.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from refloat.decide import Place, plan_nics
from refloat.guest.firstboot.inits import Start
from refloat.guest.firstboot.staging import plan_network, staging
from refloat.guest.linux import network, udev_names
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import (
    GuestFacts,
    LinkKind,
    NetworkMode,
    NicConfig,
    NicMethod,
    NicModel,
    PlannedNic,
    SourceNic,
)
from refloat.policy import Policy, Readdress
from tests.unit.builders import FACTS
from tests.unit.guest.guests import GOLDEN, request
from tests.unit.guest.test_firstboot import PACKAGE, nic, problems, programs, put, uptime

CASES = sorted(path.name for path in GOLDEN.glob("net-*"))
RULES = (
    Readdress("10.20.30.0/24", "192.168.7.0/24"),
    Readdress("10.20.40.0/24", "192.168.8.0/24"),
)
SHELL = ["busybox", "ash"] if shutil.which("busybox") else ["dash"]


def look(root: Path) -> GuestFacts:
    with Tree(root) as tree:
        nics, stack = network.look(tree, None, Notes())
        return replace(FACTS, nics=udev_names.tied(tree, nics), network_stack=stack)


def sources(facts: GuestFacts) -> tuple[SourceNic, ...]:
    """An adapter for each interface, in the opposite order of the files."""
    physical = [config for config in facts.nics if config.kind is LinkKind.ETHERNET]
    return tuple(
        SourceNic(
            config.mac or f"00:50:56:11:11:{index:02}",
            NicModel.VMXNET3,
            "lan",
            "" if config.mac or set("*?[:") & set(config.name) else config.name,
        )
        for index, config in reversed(list(enumerate(physical)))
    )


def boot(root: Path, planned: tuple[PlannedNic, ...], facts: GuestFacts) -> None:
    """Stages, and runs the first boot where each adapter has a name by its place in the plan: new0, new1."""
    with Tree(root) as tree:
        wanted = plan_network(tree, planned, facts)
    put(root, staging(replace(request(facts), nics=planned), "systemd", Start({}, {}), wanted, {}))
    for index, one in enumerate(planned):
        nic(root, one.pin or f"new{index}", one.mac)
    (root / "proc").mkdir()
    (root / "run").mkdir(exist_ok=True)
    uptime(root, 30)
    programs(root)
    script = root / "etc/refloat/firstboot.sh"
    text = PACKAGE.joinpath("refloat-firstboot.sh").read_text()
    functions = "".join(f'{path.name}() {{ "{path}" "$@"; }}\n' for path in (root / "stand-ins").iterdir())
    text = text.replace("PATH=/usr/local/sbin", f"PATH={root}/stand-ins:/usr/local/sbin")
    script.write_text(text.replace("export LC_ALL=C\n", f"export LC_ALL=C\n{functions}"))
    env = {"REFLOAT_ROOT": str(root), "PATH": os.environ["PATH"]}
    subprocess.run([*SHELL, str(script), "configure"], env=env, check=True, timeout=60)
    shutil.rmtree(root / "etc/refloat")
    shutil.rmtree(root / "stand-ins")


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return Path(shutil.copytree(GOLDEN / request.param / "tree", tmp_path / "guest", symlinks=True))


def planned_for(facts: GuestFacts, *rules: Readdress) -> tuple[PlannedNic, ...]:
    places = [Place(one, one.mac, "production", rules) for one in sources(facts)]
    return plan_nics(places, facts.nics, Policy())


def configured(facts: GuestFacts) -> list[NicConfig]:
    """What the files say, but for what they are called and which they are."""
    plain = [replace(one, name="", members=(), sources=(), mac="") for one in facts.nics]
    return sorted(plain, key=repr)


@pytest.mark.parametrize("root", CASES, indirect=True)
def test_restored_files_say_the_same_under_the_live_names(root: Path) -> None:
    before = look(root)
    planned = planned_for(before)
    boot(root, planned, before)
    after = look(root)
    assert not problems(root)
    assert configured(after) == configured(before)
    names = {config.name for config in after.nics}
    restored = [(f"new{index}", one) for index, one in enumerate(planned) if one.mode is NetworkMode.RESTORE]
    assert restored
    for live, one in restored:
        assert one.config
        by_mac = bool(one.config.mac)  # then its name in the files may be anything
        assert by_mac or (live in names and one.config.name not in names)


@pytest.mark.parametrize("root", CASES, indirect=True)
def test_readdressed_files_say_the_new_addresses(root: Path) -> None:
    before = look(root)
    planned = planned_for(before, *RULES, *_same(before))
    boot(root, planned, before)
    after = look(root)
    assert not problems(root)
    new = {a for config in after.nics for a in config.addresses}
    wanted = {
        a
        for one in planned
        if one.mode is NetworkMode.READDRESS and one.config
        for config in (one.config, *one.above)
        for a in config.addresses
    }
    assert wanted and wanted <= new
    assert not {a for a in new if a.startswith(("10.20.30.", "10.20.40."))}
    gateways = {config.gateway for config in before.nics if config.method is NicMethod.STATIC} - {""}
    assert {
        f"192.168.7.{gateway.split('.')[-1]}" for gateway in gateways if gateway.startswith("10.20.30.")
    } <= {config.gateway for config in after.nics}


def _same(facts: GuestFacts) -> tuple[Readdress, ...]:
    """Every other subnet stays what it is."""
    networks = {
        str(ipaddress.ip_interface(address).network) for config in facts.nics for address in config.addresses
    }
    moved = {rule.old for rule in RULES}
    return tuple(Readdress(one, one) for one in sorted(networks - moved))
