"""Anything, at any time, in any order: starts, decisions, syncs and kills over one target.

Hypothesis picks the order. After each step, with the hub dead or gone, the promises of the design hold; in
the end everything can be brought back to replication or has been committed.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from refloat.model import JobState, PowerState, TargetState
from refloat.store.store import Store, TargetStatus
from tests.crash.hub_process import ONE
from tests.crash.test_hub_crash import Crashing

ASKED = ("sync", "planned", "test", "emergency", "commit", "rollback", "abort", "resume")
# Seconds until the hub is killed; 0: it lives until every job is at rest.
KILLED = (0.0, 0.0, 0.0, 0.8, 1.5, 2.2, 3.0)


class Target(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="refloat-model-"))
        self.site = Crashing(self.directory)

    @initialize()
    def synced(self) -> None:
        self.site.until_done("try sync")

    @rule(what=st.sampled_from(ASKED), killed=st.sampled_from(KILLED))
    def asked(self, what: str, killed: float) -> None:
        if killed:
            self.site.killed_after(f"try {what}", killed)
        else:
            self.site.until_done(f"try {what}")

    @rule(key=st.sampled_from(ONE.disk_keys()), byte=st.integers(1, 255))
    def source_writes(self, key: str, byte: int) -> None:
        if self.site.source() is PowerState.RUNNING:
            self.site.world.source.guest_writes(ONE.name, key, 1 << 19, bytes([byte]) * 4096)

    @invariant()
    def nothing_runs_twice(self) -> None:
        self.site.check()

    def teardown(self) -> None:
        try:
            self._brought_to_an_end()
        finally:
            self.site.world.controller(ONE.controller).stopped()
            shutil.rmtree(self.directory)

    def _brought_to_an_end(self) -> None:
        for what in ("try rollback", "try resume"):
            self.site.until_done(what)
        job, target = self.site.job(), self._target()
        if job and job.state is JobState.COMMITTED:
            assert target.state is TargetState.FAILED_OVER
            assert self.site.source() is PowerState.OFF
            return
        assert not target.holder and target.state is TargetState.READY, (target, job)
        assert self.site.source() is PowerState.RUNNING
        self.site.until_done("try sync")
        assert self.site.replicas() == self.site.sources()

    def _target(self) -> TargetStatus:
        store = Store.open(self.directory / "hub/refloat.sqlite")
        try:
            return store.target(ONE.name)
        finally:
            store.engine.dispose()


Target.TestCase.settings = settings(
    max_examples=4,
    stateful_step_count=8,
    deadline=None,
    derandomize=True,  # the same orders each time
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(900)
class TestTarget(Target.TestCase):  # type: ignore[misc, valid-type]
    pass
