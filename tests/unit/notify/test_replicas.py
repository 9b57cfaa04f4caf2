"""Alarms about replicas, as time goes by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refloat.caretaker import Replication
from refloat.model import ControllerHealth, HealthState, TargetState
from refloat.notices import ALL, Alarm, Kind
from refloat.notify.replicas import ReplicaWatch
from refloat.store.store import Store, TargetStatus


class Replicas:
    """Ages and states as the tests set them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.known = {"web": (TargetState.READY, 10.0), "db": (TargetState.READY, 10.0)}

    def made_targets(self) -> list[TargetStatus]:
        return [TargetStatus(name, state, "", "", None, None) for name, (state, _) in self.known.items()]

    def replication_of(self, target: TargetStatus) -> Replication:
        return Replication(self.known[target.name][1], 60, None)


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Replicas]:
    store = Store.open(tmp_path / "refloat.sqlite")
    store.outbox.wanted = {"ops": ALL}
    for name in ("web", "db"):
        store.ensure_target(name)
    yield Replicas(store)
    store.engine.dispose()


def told(replicas: Replicas) -> list[tuple[Kind, str]]:
    return [(one.notice.kind, one.notice.target) for one in replicas.store.outbox.due("ops", "2999")]


def test_told_once_when_it_begins_and_when_it_is_over(replicas: Replicas) -> None:
    watch = ReplicaWatch(replicas)
    for age in (10.0, 61.0, 300.0, 20.0, 30.0):
        replicas.known["web"] = (TargetState.READY, age)
        watch.look()
    assert told(replicas) == [(Kind.RPO_EXCEEDED, "web"), (Kind.RPO_MET, "web")]


def test_a_failover_changes_nothing_and_its_end_is_no_recovery(replicas: Replicas) -> None:
    watch = ReplicaWatch(replicas)
    for state in (TargetState.READY, TargetState.FAILOVER, TargetState.FAILED_OVER):
        replicas.known["web"] = (state, 300.0)
        watch.look()
    assert told(replicas) == [(Kind.RPO_EXCEEDED, "web")]
    assert replicas.store.outbox.alarms(Alarm.RPO) == set()


def test_what_is_gone_is_forgotten(replicas: Replicas) -> None:
    """A target of the same name begins anew."""
    ill = ControllerHealth("2026-03-01T10:00:00.000+00:00", HealthState.SILENT, "x", "")
    replicas.store.save_health("web", ill)
    replicas.known["web"] = (TargetState.READY, 300.0)
    ReplicaWatch(replicas).look()
    del replicas.known["web"]
    ReplicaWatch(replicas).look()
    assert all(replicas.store.outbox.alarms(alarm) == set() for alarm in Alarm)
    assert told(replicas) == [(Kind.CONTROLLER_ILL, "web"), (Kind.RPO_EXCEEDED, "web")]


def test_nobody_wants_to_know(replicas: Replicas) -> None:
    replicas.store.outbox.wanted = {"ops": frozenset({Kind.STARTED})}
    replicas.known["web"] = (TargetState.READY, 300.0)
    ReplicaWatch(replicas).look()
    assert told(replicas) == [] and replicas.store.outbox.alarms(Alarm.RPO) == set()
