"""Each sabotage of the table, on the simulated platform: all failovers side by side, through one hub."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from refloat.model import JobState, Mode, TargetState, Verdict, Word
from refloat.simulated.world import OWN, Protected
from tests.truth.sabotages import OWN_ROWS, ROWS, Sabotage
from tests.unit.simulated.rig import SETTLED, Site

WITHIN = 300.0
CONTROL = Protected(1)
_NUMBERED = [
    *(
        (Protected(number), row)
        for number, row in enumerate((*ROWS, *(make(Protected(0)) for make in OWN_ROWS)), 2)
    )
]
TABLE: dict[str, tuple[Protected, Sabotage]] = {row.name: (one, row) for one, row in _NUMBERED}
for _make in OWN_ROWS:
    _one = TABLE[_make(CONTROL).name][0]
    TABLE[_make(CONTROL).name] = (_one, _make(_one))


class Sabotaged(Site):
    """All rows at once; what happens at the start and after it is done by the platform's own hooks."""

    def __init__(self, directory: Any) -> None:
        everybody = [CONTROL, *(one for one, _ in TABLE.values())]
        super().__init__(directory, *everybody, report_deadline=20)
        self.rows = {one.controller: (one, row) for one, row in TABLE.values()}
        self.world.destination.on_start = self._at_start
        self.world.destination.on_listen = self._listened
        for controller, (_, row) in self.rows.items():
            self.world.guests.behave(controller, row.guest)

    def _at_start(self, vm: str) -> None:
        one, row = self.rows.get(vm, (CONTROL, None))
        state = self.world.destination.state(vm)
        if row and row.at_start and state.hardware.disks[0].serial != OWN:
            row.at_start(self.world, one)

    def _listened(self, vm: str, channel: str) -> None:
        self.world.guests.speak(vm, channel)
        one, row = self.rows.get(vm, (CONTROL, None))
        if row and row.later:
            row.later(self.world, one)

    def run(self) -> dict[str, str]:
        """The jobs by VM, all at rest."""
        for one in self.protected:
            self.hub.start_sync(one.name)
        self._wait(lambda one: self.hub.target(one.name).state is TargetState.READY)
        jobs = {one.name: self.hub.start_failover(one.name, Mode.PLANNED).id for one in self.protected}
        self._wait(lambda one: self.hub.job(jobs[one.name]).state in SETTLED)
        return jobs

    def _wait(self, holds: Any) -> None:
        deadline = time.monotonic() + WITHIN
        for one in self.protected:
            while not holds(one):
                assert time.monotonic() < deadline, f"{one.name}: {self.hub.target(one.name)}"
                time.sleep(0.1)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sabotaged, dict[str, str]]]:
    site = Sabotaged(tmp_path_factory.mktemp("truth"))
    try:
        yield site, site.run()
    finally:
        site.close()


def outcome(ran: tuple[Sabotaged, dict[str, str]], one: Protected) -> tuple[JobState, Verdict | None, str]:
    site, jobs = ran
    job = site.hub.job(jobs[one.name])
    return job.state, site.hub.outcome(job.id)[1], str(job.error)


def test_the_table_is_as_long_as_it_ought_to_be() -> None:
    assert len(TABLE) >= 40
    assert len({row.name for _, row in TABLE.values()}) == len(TABLE)
    assert all(row.word is not Word.SUCCEEDED for _, row in TABLE.values())


@pytest.mark.timeout(600)
def test_without_a_sabotage_it_succeeds(ran: tuple[Sabotaged, dict[str, str]]) -> None:
    """The control: what fails below fails because of its sabotage."""
    state, verdict, error = outcome(ran, CONTROL)
    assert state is JobState.AWAITING_COMMIT, error
    assert verdict and verdict.word is Word.SUCCEEDED, verdict


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TABLE)
def test_no_sabotage_succeeds_and_each_names_its_cause(
    ran: tuple[Sabotaged, dict[str, str]], name: str
) -> None:
    one, row = TABLE[name]
    state, verdict, error = outcome(ran, one)
    assert state is JobState.AWAITING_COMMIT, error
    assert verdict and verdict.word is row.word, verdict
    assert any(row.cause in reason for reason in verdict.reasons), verdict.reasons
