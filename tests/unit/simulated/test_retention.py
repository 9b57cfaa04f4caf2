"""Jobs that ended long ago are forgotten, if the settings say so: their rows, pictures and journal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from refloat.config import Config, load_config
from refloat.errors import NotFound, Refused
from refloat.model import Mode
from refloat.simulated.world import Protected
from refloat.store.retention import old_jobs
from tests.unit.simulated.rig import Site, until

ONE = Protected(1)
LONG_AGO = "2020-01-01T00:00:00.000+00:00"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, ONE)
    made.sync(ONE)
    yield made
    made.close()


def aged(site: Site, job: str) -> None:
    update = text("UPDATE jobs SET finished = :at WHERE id = :job")
    with site.hub.store.engine.begin() as connection:
        connection.execute(update, {"at": LONG_AGO, "job": job})


def rows_of(site: Site, job: str) -> int:
    tables = ("job_records", "job_attempts", "events")
    counts = (text(f"SELECT count(*) FROM {table} WHERE job = :job") for table in tables)
    with site.hub.store.engine.connect() as connection:
        return sum(connection.execute(count, {"job": job}).scalar_one() for count in counts)


def test_an_old_job_goes_and_the_last_one_of_a_target_stays(site: Site, tmp_path: Path) -> None:
    first = site.fail_over(ONE, Mode.TEST)
    site.roll_back(first)
    second = site.fail_over(ONE, Mode.TEST)
    aged(site, first)
    aged(site, second)  # it waits for its operator: such a job is never old
    assert site.hub.jobs_to_forget() == [], "nothing is said of keeping: all are kept"
    site.hub._keep_jobs = 86_400.0
    assert site.hub.jobs_to_forget() == [first]
    assert site.hub.jobs_to_forget() == [], "not each time that the caretaker looks"
    (tmp_path / "hub/jobs" / first).mkdir(parents=True, exist_ok=True)
    assert rows_of(site, first) and rows_of(site, second)
    kept = rows_of(site, second)
    site.hub.forget_job(first)
    with pytest.raises(NotFound):
        site.hub.job(first)
    assert rows_of(site, first) == 0 and rows_of(site, second) == kept
    assert not (tmp_path / "hub/jobs" / first).exists()
    site.hub.audit.verify()
    assert {entry.what for entry in site.hub.audit.entries(subject=first)} >= {"rollback", "job-forgotten"}
    site.roll_back(second)
    aged(site, second)
    assert old_jobs(site.hub.store.engine, "2021-01-01") == [], "the last one of its target"
    site.hub.close()
    site.hub = site.opened()
    assert [job.id for job in site.hub.jobs()] == [second]


def test_the_caretaker_does_it_by_itself(site: Site) -> None:
    first = site.fail_over(ONE, Mode.TEST)
    site.roll_back(first)
    site.roll_back(site.fail_over(ONE, Mode.TEST))
    aged(site, first)
    site.hub._keep_jobs = 86_400.0
    until(lambda: first not in {job.id for job in site.hub.jobs()}, "the old job is forgotten")


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "many", "99999999", "٣"])
def test_what_is_no_number_of_days(tmp_path: Path, days: str) -> None:
    file = tmp_path / "refloat.yaml"
    file.write_text(json.dumps({"keep_jobs_days": days}))
    with pytest.raises(Refused, match="keep_jobs_days"):
        load_config(file, {})
    assert Config().keep_jobs is None and Config(keep_jobs_days="2").keep_jobs == 172_800.0
