"""`target add` and `remove` through the hub, on the simulated estate; a kill at every mark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from refloat.config import Config
from refloat.destinations.simulated_faults import Fault, FaultKind
from refloat.errors import Busy, NotFound, Refused
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.model import JobState, Mode, TargetState, Word
from refloat.provision import wanted_controller
from refloat.simulated.world import Protected, World, estate
from tests.unit.simulated.rig import SETTLED, until

ONE = Protected(1)
VM = f"refloat-{ONE.name}"
MARKS = (
    "chosen",
    "making-the-volume-of-sda",
    "making-the-volume-of-sdb",
    f"defining-the-VM-{VM}",
    "starting-the-controller",
    "waiting-for-the-controller",
    "made",
)
REMOVALS = ("removing-the-controller", "forgetting-the-source's-checkpoints", "removed")


def form(world: World) -> dict[str, Any]:
    """The simulation's estate with a wish in place of its controller."""
    made: dict[str, Any] = estate(world.directory, [ONE], {"report_deadline": 10, "sync_every": 3600})
    target = made["targets"][ONE.name]
    del target["controller"], target["disks"]
    target["provision"] = {"template": "controller", "network": "management", "storage": "any"}
    return made


class Made:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.world = World(directory / "world")
        if not self.world.source.file(ONE.name, "sda").exists():
            self.world.protect(ONE)
            self.world.destination.stop(ONE.controller, 0)  # the hand-made one is not this estate's
        self.estate = Estate.model_validate(form(self.world))
        self.hub = Hub(Config(data_dir=directory / "hub"), self.estate)
        self.hub.platforms._worlds[str(self.world.directory)] = self.world
        self.hub.open()
        self.closed = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.hub.close()

    def add(self) -> None:
        self.hub.add_target(ONE.name)
        self.idle()

    def remove(self) -> None:
        self.hub.remove_target(ONE.name)
        self.idle()

    def idle(self) -> None:
        until(lambda: not self.hub.target(ONE.name).holder)

    def ours(self) -> list[str]:
        """The VMs and volumes that were made."""
        vms = [name for name in self.world.destination._vms.names() if name == VM]
        volumes = self.world.destination.volumes.directory.glob(f"{VM}-*")
        return [*vms, *sorted(path.name for path in volumes)]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], Made]]:
    made: list[Made] = []

    def opened() -> Made:
        made.append(Made(tmp_path))
        return made[-1]

    yield opened
    for one in made:
        one.close()


def ready(site: Made) -> None:
    status = site.hub.target(ONE.name)
    assert (status.state, status.message) == (TargetState.READY, ""), status
    assert status.sync_point is not None and status.readiness is not None
    assert len(site.ours()) == 4, site.ours()


# ---------------------------------------------------------------- tests


def test_from_the_wish_to_a_failover_and_back(make: Callable[[], Made]) -> None:
    site = make()
    with pytest.raises(Refused) as refused:
        site.hub.start_sync(ONE.name)
    assert refused.value.code == "not_provisioned"
    assert site.hub.due_syncs() == []
    site.add()
    ready(site)
    for key in ONE.disk_keys():
        volume = next(path for path in site.ours() if path.endswith(f"-{key}.raw"))
        replica = (site.world.destination.volumes.directory / volume).read_bytes()
        assert replica == site.world.source.content(ONE.name, key)
    job = site.hub.start_failover(ONE.name, Mode.TEST).id
    until(lambda: site.hub.job(job).state in SETTLED)
    found = site.hub.outcome(job)[1]
    assert found and found.word is Word.SUCCEEDED, (site.hub.job(job).error, found)
    with pytest.raises(Busy):
        site.hub.remove_target(ONE.name)
    site.hub.rollback(job, "tester", discard_writes=False)
    until(lambda: site.hub.job(job).state is JobState.ROLLED_BACK)
    site.remove()
    assert site.ours() == []


def test_a_made_target_is_not_made_twice(make: Callable[[], Made]) -> None:
    site = make()
    site.add()
    with pytest.raises(Refused) as refused:
        site.hub.add_target(ONE.name)
    assert refused.value.code == "already_provisioned"
    ready(site)


def test_removed_and_added_again(make: Callable[[], Made]) -> None:
    site = make()
    with pytest.raises(NotFound):
        site.hub.remove_target(ONE.name)
    site.add()
    first = site.ours()
    site.remove()
    status = site.hub.target(ONE.name)
    assert (status.state, status.sync_point, status.message) == (TargetState.PROVISIONING, None, "")
    assert not (site.directory / "hub" / "targets" / ONE.name).exists()
    site.add()
    ready(site)
    assert set(site.ours()) & set(first) == {VM}


def test_a_committed_failover_keeps_its_vm(make: Callable[[], Made]) -> None:
    site = make()
    site.add()
    job = site.hub.start_failover(ONE.name, Mode.PLANNED).id
    until(lambda: site.hub.job(job).state in SETTLED)
    site.hub.commit(job, "tester")
    until(lambda: site.hub.job(job).state is JobState.COMMITTED)
    with pytest.raises(Refused) as refused:
        site.hub.remove_target(ONE.name)
    assert refused.value.code == "failed_over"
    assert VM in site.ours()


def test_a_platform_that_fails_leaves_words_and_goes_on(make: Callable[[], Made]) -> None:
    site = make()
    site.world.destination.faults.set(Fault("start", FaultKind.ERROR))
    site.add()
    status = site.hub.target(ONE.name)
    assert status.state is TargetState.ERROR
    assert f"VM {VM}" in status.message and "goes on" in status.message, status.message
    site.add()
    ready(site)


def test_what_was_made_by_hand_is_neither_made_nor_removed(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    world.protect(ONE)
    hub = Hub(Config(data_dir=tmp_path / "hub"), Estate.model_validate(estate(world.directory, [ONE], {})))
    hub.open()
    try:
        for verb in (hub.add_target, hub.remove_target):
            with pytest.raises(Refused) as refused:
                verb(ONE.name)
            assert refused.value.code == "made_by_hand"
    finally:
        hub.close()


def test_the_hub_may_be_closed_in_the_middle(make: Callable[[], Made]) -> None:
    site = make()
    site.hub.add_target(ONE.name)
    site.close()
    again = make()
    status = again.hub.target(ONE.name)
    assert not status.holder
    if status.state is not TargetState.READY:
        again.add()
    ready(again)


# ---------------------------------------------------------------- kills


def killed_at(directory: Path, point: str, verb: str) -> None:
    """Another process does it, and ends itself there by SIGKILL."""
    program = (
        "import sys; from pathlib import Path; from tests.unit.simulated.test_provision import Made\n"
        f"site = Made(Path(sys.argv[1])); site.{verb}(); sys.exit('it lived')"
    )
    environment = {**os.environ, "REFLOAT_KILL_AT": f"provision:{point}"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        env=environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]


@pytest.mark.parametrize("mark", MARKS)
def test_a_kill_while_adding(tmp_path: Path, make: Callable[[], Made], mark: str) -> None:
    killed_at(tmp_path, mark, "add")
    site = make()
    status = site.hub.target(ONE.name)
    assert not status.holder and "goes on" in status.message, status
    site.add()
    ready(site)


@pytest.mark.parametrize("mark", MARKS)
def test_a_kill_while_adding_then_removed(tmp_path: Path, make: Callable[[], Made], mark: str) -> None:
    killed_at(tmp_path, mark, "add")
    site = make()
    site.remove()
    assert site.ours() == []


@pytest.mark.parametrize("mark", REMOVALS)
def test_a_kill_while_removing(tmp_path: Path, make: Callable[[], Made], mark: str) -> None:
    site = make()
    site.add()
    site.close()
    killed_at(tmp_path, mark, "remove")
    again = make()
    with pytest.raises(Refused) as refused:
        again.hub.add_target(ONE.name)
    assert refused.value.code == "half_removed"
    again.remove()
    assert again.ours() == []
    again.add()
    ready(again)


def test_every_wish_has_names_of_its_own(tmp_path: Path) -> None:
    wishes = [
        wanted_controller(Estate.model_validate(form(World(tmp_path))), ONE.name, (), identifier)
        for identifier in ("0a1b2c3d", "ffffffff")
    ]
    assert len({wish.prefix for wish in wishes}) == len({wish.mac for wish in wishes}) == 2
    assert all(len(wish.serial(99)) <= 20 for wish in wishes)
