"""What the doctor finds, and that one thing that is broken hides nothing else."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from refloat import doctor, health
from refloat.api.certificate import own_certificate
from refloat.config import Config
from refloat.doctor import State, examine
from refloat.errors import Unreachable
from refloat.estate import load_estate
from refloat.model import JobState, Mode, TargetState
from refloat.notify.channels import Webhook
from refloat.platforms import Platforms
from refloat.secret import SecretRef
from refloat.simulated.world import Protected, World, estate
from refloat.store.estates import EstateVersions
from refloat.store.place import STORE_FILE
from refloat.store.seal import Keys
from refloat.store.store import Store
from refloat.store.vault import Vault

ONE, TWO = Protected(1), Protected(2)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    world = World(tmp_path / "world")
    form = estate(world.directory, [ONE, TWO], {})
    for one in (ONE, TWO):
        world.protect(one)
    (tmp_path / "estate.yaml").write_text(yaml.safe_dump(form))
    config = Config(data_dir=tmp_path / "hub", estate=tmp_path / "estate.yaml")
    config.data_dir.mkdir()
    config.token_file.touch(0o600)
    return config


def findings(config: Config, platforms: type[Platforms] = Platforms) -> dict[str, State]:
    return {one.subject: one.state for one in examine(config, platforms)}


def test_a_sound_estate(config: Config) -> None:
    asked = {f"{one.name}: {what}" for one in (ONE, TWO) for what in ("source", "destination", "controller")}
    found = findings(config)
    assert {found[subject] for subject in (*asked, "token", "room", "estate")} == {State.OK}


def test_the_certificate(config: Config, tmp_path: Path) -> None:
    assert "certificate" not in findings(config)
    cert, key = own_certificate(tmp_path / "tls", "hub.example")
    served = replace(config, tls_cert=cert, tls_key=key, public_url="https://hub.example:8410")
    assert findings(served)["certificate"] is State.OK
    other = replace(served, public_url="https://other.example:8410")
    (said,) = [one for one in examine(other) if one.subject == "certificate"]
    assert said.state is State.TROUBLE and "not for other.example" in said.found
    key.chmod(0o644)
    assert findings(served)["certificate"] is State.TROUBLE
    key.chmod(0o600)
    foreign = replace(served, tls_key=own_certificate(tmp_path / "foreign", "hub.example")[1])
    assert findings(foreign)["certificate"] is State.TROUBLE


def test_a_key_that_does_not_open_what_is_sealed(config: Config) -> None:
    store = Store.open(config.data_dir / STORE_FILE, Keys(config.seal_key))
    Vault(store.engine, store.seal).put("cloud-key", "hush", "anna")
    store.engine.dispose()
    assert findings(config)["secrets"] is State.OK
    config.seal_key.unlink()
    (shut,) = [one for one in examine(config) if one.subject == "secrets"]
    assert shut.state is State.TROUBLE and "secret cloud-key" in shut.found and shut.hint
    Keys(config.seal_key).make()
    assert findings(config)["secrets"] is State.TROUBLE
    config.seal_key.chmod(0o644)
    assert findings(config)["secrets"] is State.TROUBLE


def test_every_trouble_has_a_hint(config: Config) -> None:
    config.estate.write_text("version: 1\n")
    troubles = [one for one in examine(config) if one.state is not State.OK]
    assert {one.subject for one in troubles} >= {"estate"} and all(one.hint for one in troubles)


def test_the_estate_is_the_one_that_the_hub_works_with(config: Config) -> None:
    """Its newest version; a file that says something else is told, and nothing of it is examined."""
    kept = yaml.safe_load(config.estate.read_text())
    del kept["targets"][TWO.name]
    store = Store.open(config.data_dir / "refloat.sqlite")
    assert findings(config)["estate"] is State.OK, "there is no version yet: the file holds"
    EstateVersions(store.engine).add(1, yaml.safe_dump(kept), "anna", "")
    store.engine.dispose()
    found = {one.subject: one for one in examine(config)}
    assert found["estate"].state is State.WARNING and "differs from version 1" in found["estate"].found
    assert f"{ONE.name}: source" in found and f"{TWO.name}: source" not in found
    config.estate.write_text(yaml.safe_dump(kept))
    assert findings(config)["estate"] is State.OK


def test_files_that_others_can_read(config: Config, tmp_path: Path) -> None:
    os.chmod(config.token_file, 0o640)
    assert findings(config)["token"] is State.TROUBLE
    key = tmp_path / "key"
    target = load_estate(config.estate).target(ONE.name)
    mine = replace(target, endpoint=replace(target.endpoint, identity=str(key)))
    assert doctor._key(mine).state is State.TROUBLE and doctor._key(mine).hint
    key.touch(0o644)
    assert "chmod 600" in doctor._key(mine).hint
    key.chmod(0o600)
    assert doctor._key(mine).state is State.OK


def test_a_silent_platform_hides_nothing_else(config: Config, tmp_path: Path) -> None:
    class Silent(Platforms):
        def source(self, site: str) -> object:  # type: ignore[override]
            raise Unreachable("nobody answers at the source", code="unreachable", hint="look at its network")

    found = findings(config, Silent)
    assert found["vm1: source"] is State.TROUBLE
    assert found["vm1: destination"] is found["vm1: controller"] is State.OK


def test_a_controller_that_is_off_is_not_asked(config: Config) -> None:
    World(config.estate.parent / "world").destination.stop(ONE.controller, graceful=0)
    found = findings(config)
    assert found["vm1: destination"] is State.WARNING and "vm1: controller" not in found
    assert found["vm2: controller"] is State.OK


def test_a_recovered_vm_is_not_asked_as_a_controller(config: Config) -> None:
    store = Store.open(config.data_dir / "refloat.sqlite")
    store.ensure_target("vm1")
    store.claim_target("vm1", "vm1-abc123", TargetState.FAILOVER)
    store.engine.dispose()
    found = {one.subject: one for one in examine(config)}
    assert "recovered VM" in found["vm1: controller"].found
    assert "answers" in found["vm2: controller"].found


def test_no_room(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOM", shutil.disk_usage("/").total * 2)
    assert findings(config)["room"] is State.TROUBLE


def test_a_clock_that_is_off(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CLOCKS_APART", -1.0)
    assert findings(config)["vm1: controller"] is State.WARNING


def test_drivers_that_are_not_there(config: Config, tmp_path: Path) -> None:
    with_drivers = Config(data_dir=config.data_dir, estate=config.estate, drivers=tmp_path / "virtio-win.iso")
    assert findings(with_drivers)["drivers"] is State.TROUBLE


def test_who_is_told(config: Config, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    hook = Webhook("ops", "https://alerts.example/T0/hush", SecretRef(str(tmp_path / "secret")))
    telling = replace(config, notify=(hook, replace(hook, name="none", secret=SecretRef("/nonexistent"))))
    found = findings(telling)
    assert (found["notify ops"], found["notify none"]) == (State.OK, State.TROUBLE)
    store = Store.open(config.data_dir / STORE_FILE)
    store.outbox.wanted = {"ops": hook.events}
    store.ensure_target("vm1")
    store.set_state(store.create_job("vm1", Mode.TEST).id, JobState.RUNNING)
    assert findings(telling)["notify ops"] is State.OK, "it is only on its way"
    (parcel,) = store.outbox.due("ops", "2999")
    store.outbox.failed(parcel.id, "no answer", "2999")
    assert findings(telling)["notify ops"] is State.TROUBLE
    store.outbox.failed(parcel.id, "no answer", "")
    (lost,) = [one for one in examine(telling) if one.subject == "notify ops"]
    assert lost.state is State.WARNING and "1 notices were given up" in lost.found and lost.hint
    store.engine.dispose()
