"""Backup and restore of a hub: everything comes back, and nothing is done again that was done since."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from refloat import backup
from refloat.backup import MANIFEST, back_up, restore, verified
from refloat.config import Config
from refloat.errors import Busy, Refused
from refloat.hub import RESTORING
from refloat.model import JobState, Mode, TargetState
from refloat.simulated.world import Protected
from tests.unit.simulated.rig import Site

ONE = Protected(1)
BY = "local (tester)"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, ONE)
    made.sync(ONE)
    yield made
    made.close()


@pytest.fixture
def config(site: Site) -> Config:
    return Config(data_dir=site.directory / "hub")


def lost(site: Site) -> None:
    """The hub's machine is gone; its key was kept elsewhere."""
    site.hub.close()
    key = (site.directory / "hub/seal.key").read_bytes()
    shutil.rmtree(site.directory / "hub")
    (site.directory / "hub").mkdir()
    (site.directory / "hub/seal.key").write_bytes(key)
    (site.directory / "hub/seal.key").chmod(0o600)


def test_everything_comes_back(site: Site, config: Config, tmp_path: Path) -> None:
    job = site.fail_over(ONE, Mode.TEST)
    site.roll_back(job)
    site.hub.vault.put("cloud-key", "hush", "anna")
    site.hub.audit.record("anna", "secret-set", "cloud-key")
    head = site.hub.audit.verify().head
    events = site.hub.events(job)
    files = {path for path in (config.data_dir / "targets").rglob("*") if path.is_file()}
    made = back_up(config, tmp_path / "backup")
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    assert "seal.key" not in made.members and not made.unfinished
    assert verified(tmp_path / "backup") == made
    lost(site)
    restore(config, tmp_path / "backup", {}, BY)
    site.hub = site.opened()
    assert site.hub.job(job).state is JobState.ROLLED_BACK and site.hub.events(job) == events
    assert site.hub.vault.read("cloud-key") == "hush"
    site.hub.audit.verify(head)
    (entry, *_) = site.hub.audit.entries()
    assert (entry.who, entry.what, entry.subject) == (BY, "restore", made.at)
    assert files and all(path.is_file() for path in files)
    site.sync(ONE)
    assert site.hub.job(site.fail_over(ONE, Mode.TEST)).state is JobState.TEST_ACTIVE


def test_beside_jobs_that_run(site: Site, config: Config, tmp_path: Path) -> None:
    """A backup while a failover acts is whole: every one that is taken can be restored."""
    job = site.hub.start_failover(ONE.name, Mode.TEST).id
    for number in range(5):
        made = back_up(config, tmp_path / f"backup-{number}")
        assert set(made.unfinished) == {job}
        verified(tmp_path / f"backup-{number}")
    site.rest(job)


def test_what_became_of_a_job_has_to_be_said(site: Site, config: Config, tmp_path: Path) -> None:
    """It was rolled back after the backup: the restored hub takes the operator's word, and does nothing of
    it again."""
    job = site.fail_over(ONE, Mode.TEST)
    back_up(config, tmp_path / "backup")
    site.roll_back(job)
    before = site.replicas(ONE)
    lost(site)
    for said in ({}, {job: "rolled_back", "other-123456": "resume"}):
        with pytest.raises(Refused) as caught:
            restore(config, tmp_path / "backup", said, BY)
        assert caught.value.code in ("unfinished_jobs", "bad_input")
        assert {path.name for path in config.data_dir.iterdir()} == {"seal.key"}
    restore(config, tmp_path / "backup", {job: "rolled_back"}, BY)
    site.hub = site.opened()
    assert site.hub.job(job).state is JobState.ROLLED_BACK
    assert site.hub.target(ONE.name).state is TargetState.READY
    assert site.replicas(ONE) == before
    again = site.fail_over(ONE, Mode.TEST)
    assert site.hub.job(again).state is JobState.TEST_ACTIVE
    assert site.hub.job(job).state is JobState.ROLLED_BACK


def test_a_job_that_goes_on(site: Site, config: Config, tmp_path: Path) -> None:
    """Nothing has happened since: it waits for the operator as it did."""
    before = site.replicas(ONE)
    job = site.fail_over(ONE, Mode.TEST)
    back_up(config, tmp_path / "backup")
    lost(site)
    restore(config, tmp_path / "backup", {job: "resume"}, BY)
    site.hub = site.opened()
    assert site.hub.job(job).state is JobState.TEST_ACTIVE
    site.roll_back(job)
    assert site.replicas(ONE) == before


def test_what_refuses_a_restore_changes_nothing(site: Site, config: Config, tmp_path: Path) -> None:
    back_up(config, tmp_path / "backup")
    there = {path: path.read_bytes() for path in config.data_dir.glob("*.key")}
    cases: list[tuple[str, Config]] = [
        ("not_empty", config),
        ("seal_key", replace(config, data_dir=tmp_path / "no-key")),
        ("postgresql", replace(config, store="postgresql://x/y")),
    ]
    for code, where in cases:
        with pytest.raises(Refused) as caught:
            restore(where, tmp_path / "backup", {}, BY)
        assert caught.value.code == code and caught.value.hint
    assert {path: path.read_bytes() for path in config.data_dir.glob("*.key")} == there
    assert not (tmp_path / "no-key").exists()
    for code, where, file in (
        ("file_exists", config, tmp_path / "backup"),
        ("nothing_to_back_up", replace(config, data_dir=tmp_path / "none"), tmp_path / "other"),
        ("postgresql", replace(config, store="postgresql://x/y"), tmp_path / "other"),
    ):
        with pytest.raises(Refused) as caught:
            back_up(where, file)
        assert caught.value.code == code and not (tmp_path / "other").exists()


def test_an_interrupted_restore_is_no_hub_and_is_done_again(
    site: Site, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(config, tmp_path / "backup")
    lost(site)

    def killed(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(backup, "_settle", killed)
    with pytest.raises(SystemExit):
        restore(config, tmp_path / "backup", {}, BY)
    monkeypatch.undo()
    assert (config.data_dir / RESTORING).exists()
    with pytest.raises(Refused) as caught:
        site.opened()
    assert caught.value.code == "half_restored"
    (config.data_dir / "left-over").write_text("of the first attempt")
    restore(config, tmp_path / "backup", {}, BY)
    assert not (config.data_dir / "left-over").exists() and not (config.data_dir / RESTORING).exists()
    site.hub = site.opened()
    assert site.hub.target(ONE.name).state is TargetState.READY


def test_not_beside_a_hub(site: Site, config: Config, tmp_path: Path) -> None:
    back_up(config, tmp_path / "backup")
    (
        config.data_dir / RESTORING
    ).touch()  # as if a restore had been killed, and a hub were there all the same
    with pytest.raises(Busy):
        restore(config, tmp_path / "backup", {}, BY)


# ---------------------------------------------------------------- hostile files


def repacked(file: Path, change: Callable[[dict[str, bytes]], object], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(file) as tar:
        members = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    manifest = members.pop(MANIFEST)
    change(members)
    other = file.with_name("other")
    with tarfile.open(other, "w:gz") as tar:
        for name, content in {**members, MANIFEST: members.pop(MANIFEST, manifest)}.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), kind if name.startswith("link") else tarfile.REGTYPE
            info.linkname = "/etc/passwd"
            tar.addfile(info, io.BytesIO(content))
    return other


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a path that leads out", lambda m: m.update({"../evil": b"x"})),
        ("an absolute path", lambda m: m.update({"/etc/evil": b"x"})),
        ("a key", lambda m: m.update({"seal.key": b"x"})),
        ("another file", lambda m: m.update({"targets/more": b"x"})),
        ("one changed byte", lambda m: m.update({"api-token" if "api-token" in m else next(iter(m)): b"x"})),
        ("a missing file", lambda m: m.pop(sorted(m)[0])),
        ("no store", lambda m: m.pop("refloat.sqlite")),
        ("a manifest that is none", lambda m: m.update({MANIFEST: b"[]"})),
        ("a manifest of something else", lambda m: m.update({MANIFEST: b'{"at": 1}'})),
        ("a link", lambda m: m.update({"link": b""})),
    ],
)
def test_a_backup_that_was_changed_is_refused(
    site: Site, config: Config, tmp_path: Path, name: str, change: Callable[[dict[str, bytes]], object]
) -> None:
    back_up(config, tmp_path / "backup")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) if name == "a link" else (tarfile.REGTYPE,):
        with pytest.raises(Refused) as caught:
            verified(repacked(tmp_path / "backup", change, kind))
        assert caught.value.code == "bad_backup", name


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\x1f\x8b\x08\x00 cut"])
def test_what_is_no_backup(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Refused) as caught:
        verified(tmp_path / "file")
    assert caught.value.code == "bad_backup"
    with pytest.raises(Refused):
        verified(tmp_path / "none")


def test_a_cut_backup_and_one_of_a_later_version(site: Site, config: Config, tmp_path: Path) -> None:
    back_up(config, tmp_path / "backup")
    size = (tmp_path / "backup").stat().st_size
    shutil.copy(tmp_path / "backup", tmp_path / "cut")
    os.truncate(tmp_path / "cut", size - 100)
    with pytest.raises(Refused) as caught:
        verified(tmp_path / "cut")
    assert caught.value.code == "bad_backup"

    def later(members: dict[str, bytes]) -> None:
        with tarfile.open(tmp_path / "backup") as tar:
            data = json.loads(tar.extractfile(MANIFEST).read())  # type: ignore[union-attr]
        members[MANIFEST] = json.dumps({**data, "revision": "9999"}).encode()

    with pytest.raises(Refused) as caught:
        verified(repacked(tmp_path / "backup", later))
    assert caught.value.code == "newer_backup"
