"""A hub whose estate becomes another one while it works: at once, whole, and not under a job's feet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from refloat.config import Config
from refloat.errors import Busy, NotFound, RefloatError, Refused
from refloat.hub import Hub, open_hub
from refloat.model import JobState, Mode, TargetState
from refloat.simulated.world import MIB, Protected, World, estate
from tests.unit.simulated.rig import SETTLED, until

ONE, TWO = Protected(1, disks=(MIB,)), Protected(2, disks=(MIB,))


class Place:
    """`form` is the estate as data; it is what the file says at first."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory / "world")
        for one in (ONE, TWO):
            self.world.protect(one)
        self.config = Config(data_dir=directory / "hub", estate=directory / "estate.yaml")
        self.form = cast(Any, estate(self.world.directory, [ONE, TWO], {"report_deadline": 10}))
        del self.form["protected"][TWO.name], self.form["targets"][TWO.name]
        self.config.estate.write_text(self.text())

    def text(self) -> str:
        return yaml.safe_dump(self.form, sort_keys=False)

    def add_two(self) -> None:
        whole: Any = estate(self.world.directory, [ONE, TWO], {})
        for section in ("protected", "targets"):
            self.form[section][TWO.name] = whole[section][TWO.name]

    def hub(self) -> Hub:
        hub = open_hub(self.config)
        hub.platforms._worlds[str(self.world.directory)] = self.world
        return hub


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def hub(place: Place) -> Iterator[Hub]:
    hub = place.hub()
    yield hub
    hub.close()


def apply(hub: Hub, place: Place, base: int, reason: str = "") -> int:
    done = hub.estates.apply(place.text(), base, "anna", reason, "estate.yaml")
    return done.base + bool(done.changes)


def sync(hub: Hub, name: str) -> None:
    hub.start_sync(name)
    until(lambda: not hub.target(name).holder, "the end of the sync")
    assert hub.target(name).state is TargetState.READY


def test_the_file_is_the_first_version_and_then_the_store_holds(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    hub = place.hub()
    version, text = hub.estates.current()
    assert (version.number, version.who, text) == (1, "the hub", place.text())
    place.form["policies"]["default"]["rpo"] = 60
    assert apply(hub, place, 1, "an aim") == 2
    hub.close()
    caplog.clear()
    hub = place.hub()
    try:
        assert hub.estates.current()[0].number == 2 and hub.estate.policy("default").rpo == 60
        assert "differs from version 2" in caplog.text and "refloat apply" in caplog.text
        entries = hub.audit.entries(subject="estate-2")
        assert [(one.who, one.what, one.reason) for one in entries] == [("anna", "estate-apply", "an aim")]
        assert [one.number for one in hub.estates.versions.versions()] == [2, 1]
    finally:
        hub.close()
    place.config.estate.unlink()
    place.hub().close()  # it does without the file


def test_a_new_target_is_there_at_once(place: Place, hub: Hub) -> None:
    with pytest.raises(NotFound):
        hub.target(TWO.name)
    place.add_two()
    assert apply(hub, place, 1) == 2
    sync(hub, TWO.name)
    assert apply(hub, place, 1) == 2, "the same again changes nothing, whatever it was compared with"
    del place.form["targets"][TWO.name]
    assert apply(hub, place, 2) == 3
    with pytest.raises(NotFound):
        hub.start_sync(TWO.name)
    assert [one.name for one in hub.targets()] == [ONE.name]


def test_who_comes_second_is_told(place: Place, hub: Hub) -> None:
    place.form["policies"]["default"]["rpo"] = 60
    apply(hub, place, 1)
    place.form["policies"]["default"]["rpo"] = 90
    with pytest.raises(Busy) as caught:
        apply(hub, place, 1)
    assert caught.value.code == "estate_changed" and hub.estate.policy("default").rpo == 60


def test_of_two_at_once_one_is_taken(place: Place, hub: Hub) -> None:
    texts, said, start = [], [], threading.Barrier(2)
    for rpo in (60, 90):
        place.form["policies"]["default"]["rpo"] = rpo
        texts.append(place.text())

    def one(text: str) -> None:
        start.wait(10)
        try:
            said.append(str(hub.estates.apply(text, 1, "anna", "", "e").base))
        except RefloatError as error:
            said.append(error.code)

    threads = [threading.Thread(target=one, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(said) == ["1", "estate_changed"]


def test_a_job_keeps_what_it_relies_on(place: Place, hub: Hub) -> None:
    sync(hub, ONE.name)
    job = hub.start_failover(ONE.name, Mode.TEST).id
    until(lambda: hub.job(job).state in SETTLED, "the test")
    assert hub.job(job).state is JobState.TEST_ACTIVE
    whole = place.text()
    for section, name in (("targets", ONE.name), ("mappings", 0)):
        place.form = yaml.safe_load(whole)
        del place.form[section][name]
        with pytest.raises(Busy, match=job) as caught:
            apply(hub, place, 1)
        assert caught.value.code == "estate_in_use"
        assert hub.estates.compare(place.text(), "e").blocked, "it is said before, too"
    place.form = yaml.safe_load(whole)
    place.add_two()  # what is new, and the policy, disturb no job
    place.form["policies"]["default"]["rpo"] = 60
    assert apply(hub, place, 1) == 2
    hub.rollback(job, "anna", discard_writes=False)
    until(lambda: hub.job(job).state is JobState.ROLLED_BACK, "the rollback")
    del place.form["targets"][ONE.name]
    assert apply(hub, place, 2) == 3
    assert hub.evidence(job)["seal"] and hub.steps(job), "what was proven stays"


def test_a_site_that_moved_is_used_at_its_new_place(place: Place, hub: Hub, tmp_path: Path) -> None:
    sync(hub, ONE.name)
    other = World(tmp_path / "other")
    other.protect(ONE)
    place.form["sites"]["here"]["uri"] = str(other.directory)
    apply(hub, place, 1)
    hub.platforms._worlds[str(other.directory)] = other
    assert hub.platforms.destination("here") is other.destination
    sync(hub, ONE.name)
    replica = other.destination.volumes.directory / f"{ONE.name}-sda.raw"
    assert any(replica.read_bytes()), "the replica there has got its content"


def test_a_controller_that_the_hub_made_is_not_orphaned(place: Place, hub: Hub) -> None:
    place.form["targets"][ONE.name] = {
        "protected": ONE.name,
        "site": "here",
        "provision": {"image": "/none.raw", "network": "production", "storage": "pool"},
    }
    apply(hub, place, 1)
    hub.add_target(ONE.name)
    until(lambda: not hub.target(ONE.name).holder, "the making")
    made = place.text()
    del place.form["targets"][ONE.name]
    with pytest.raises(Busy, match=f"refloat target remove {ONE.name}"):
        apply(hub, place, 2)
    place.form = yaml.safe_load(made)
    place.form["targets"][ONE.name]["provision"]["cpus"] = 4  # the next one's
    assert apply(hub, place, 2) == 3


def test_what_is_exported_changes_nothing(place: Place, hub: Hub) -> None:
    _, text = hub.estates.current()
    compared = hub.estates.compare(text, "exported")
    assert compared.changes == () and compared.base == 1
    assert hub.estates.apply(text, 1, "anna", "", "e").changes == ()
    assert len(hub.estates.versions.versions()) == 1


def test_a_hub_within_a_program_exports_its_estate_too(place: Place, tmp_path: Path) -> None:
    from refloat.estate import Estate

    hub = Hub(Config(data_dir=tmp_path / "own"), Estate.model_validate(place.form))
    hub.open()
    try:
        version, text = hub.estates.current()
        assert version.number == 0 and hub.estates.compare(text, "e").changes == ()
        place.form["policies"]["default"]["rpo"] = 60
        assert apply(hub, place, 0) == 1
    finally:
        hub.close()


def test_a_stored_estate_that_does_not_fit_is_no_reason_for_another(place: Place) -> None:
    hub = place.hub()
    hub.estates.versions.add(2, "version: 1\nsites: {}\n", "an older release", "")
    hub.close()
    with pytest.raises(Refused, match=r"estate version 2:1: protected: is missing") as caught:
        place.hub()
    assert caught.value.code == "bad_estate" and caught.value.hint
    hub = open_hub(place.config, take_estate=True)  # it had let go of the store
    try:
        assert hub.estates.current()[0].number == 3 and hub.target(ONE.name)
        (entry,) = hub.audit.entries(subject="estate-3")
        assert "taken from" in entry.reason
    finally:
        hub.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from refloat.config import Config
from refloat.hub import open_hub

here = Path(sys.argv[1])
hub = open_hub(Config(data_dir=here / "hub", estate=here / "estate.yaml"))
hub.estates.apply((here / "new.yaml").read_text(), 1, "anna", "before the end", "new.yaml")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_hub_that_is_killed_has_kept_what_was_applied(place: Place, tmp_path: Path) -> None:
    place.add_two()
    (tmp_path / "new.yaml").write_text(place.text())
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=dict(os.environ), timeout=60)
    assert done.returncode == -signal.SIGKILL
    hub = place.hub()
    try:
        version, text = hub.estates.current()
        assert (version.number, version.reason, text) == (2, "before the end", place.text())
        sync(hub, TWO.name)
    finally:
        hub.close()
