"""Replicas that grow older than their policy's aim: nothing but time passes, so somebody has to look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from refloat.model import TargetState
from refloat.notices import ALARMS, Alarm, rpo_alarm, rpo_detail
from refloat.store.outbox import Outbox
from refloat.store.store import Store, TargetStatus


class Age(Protocol):
    @property
    def age(self) -> float | None: ...
    @property
    def rpo(self) -> int | None: ...
    @property
    def late(self) -> bool: ...


class Replicas(Protocol):
    """What is asked of the hub."""

    store: Store

    def made_targets(self) -> Sequence[TargetStatus]: ...
    def replication_of(self, target: TargetStatus) -> Age: ...


class ReplicaWatch:
    def __init__(self, hub: Replicas) -> None:
        self._hub = hub

    def look(self) -> None:
        """Raises alarms and ends them; nothing is read where nobody wants to be told."""
        outbox = self._hub.store.outbox
        if not any(outbox.asked_for(kinds) for kinds in ALARMS.values()):
            return
        raised = {alarm: outbox.alarms(alarm) for alarm in Alarm}
        known = self._hub.made_targets()
        for target in known:
            self._judge(outbox, target, target.name in raised[Alarm.RPO])
        protected = {target.name for target in known if target.state is not TargetState.FAILED_OVER}
        for alarm, targets in raised.items():
            for gone in targets - protected:
                outbox.forget(gone, alarm)

    def _judge(self, outbox: Outbox, target: TargetStatus, raised: bool) -> None:
        found = self._hub.replication_of(target)
        up = rpo_alarm(target.state, found.late, found.age)
        if up is not None and up != raised:
            outbox.alarm(target.name, Alarm.RPO, up, rpo_detail(found.age, found.rpo))
