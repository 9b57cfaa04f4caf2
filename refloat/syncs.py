"""The syncs of all targets: started by an operator, a schedule or a failover; one at a time per target."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from refloat import preview
from refloat.clock import now
from refloat.controller.client import ControllerClient
from refloat.errors import Busy, RefloatError, Refused, Unreachable
from refloat.health import judged, silent
from refloat.logs import within
from refloat.model import Plan, SyncPoint, TargetState
from refloat.platforms import Platforms
from refloat.provision import Targets
from refloat.readiness import assess
from refloat.run import Run
from refloat.seen_network import with_last_seen
from refloat.store.store import Store, TargetStatus
from refloat.sync.engine import sync

log = logging.getLogger(__name__)

SYNC_HOLDER = "sync-"
CONTROLLER_WITHIN = 300.0  # seconds in which a controller that was just started must answer
SYNCABLE = frozenset({TargetState.PROVISIONING, TargetState.READY, TargetState.ERROR})


class Syncs:
    """`run_of` gives what preflight's checks need of a target, without a job."""

    def __init__(
        self,
        targets: Targets,
        platforms: Platforms,
        store: Store,
        data_dir: Path,
        run_of: Callable[[str], Run],
    ) -> None:
        self._targets, self._platforms, self._store = targets, platforms, store
        self._data_dir, self._run_of = data_dir, run_of
        self._threads: dict[str, threading.Thread] = {}
        self._closing = threading.Event()

    def take_up(self) -> None:
        """What a killed hub left claimed is free again: its sync died with it."""
        for left in self._store.held_targets(SYNC_HOLDER):
            state = TargetState.READY if left.sync_point else TargetState.PROVISIONING
            self._store.release_target(left.name, left.holder, state, "the last sync was interrupted")

    def close(self) -> None:
        """Ends running syncs; the last complete sync point stays."""
        self._closing.set()
        for thread in list(self._threads.values()):
            thread.join()

    def start(self, name: str, full: bool = False) -> None:
        """In the background; progress and outcome are in the target's status. `full`: nothing is believed of
        what the replica holds."""
        status = self._store.target(name)
        if status.state is TargetState.FAILED_OVER:
            raise Refused(
                f"target {name} has failed over: its replica is the live VM now",
                code="failed_over",
                hint="set up a new target to protect the recovered VM",
            )
        if status.paused:
            raise Refused(
                f"replication of {name} is paused",
                code="paused",
                hint=f"`refloat target resume {name}` first",
            )
        holder = f"{SYNC_HOLDER}{secrets.token_hex(3)}"
        self._store.claim_target(name, holder, TargetState.SYNCING, SYNCABLE)
        self._store.sync_begins(name)
        if full:
            shutil.rmtree(self._state_dir(name) / "points", ignore_errors=True)
        thread = threading.Thread(target=self._in_background, args=(name, holder), name=holder)
        self._threads[name] = thread
        thread.start()

    def pause(self, name: str) -> TargetStatus:
        """No sync starts until it is resumed. Idempotent. A sync under way is not ended: Busy."""
        status = self._store.target(name)
        if status.holder.startswith(SYNC_HOLDER):
            raise Busy(
                f"target {name} is being synced", code="target_busy", hint="pause it when that is finished"
            )
        self._store.set_paused(name, True)
        return self._store.target(name)

    def resume(self, name: str) -> TargetStatus:
        self._store.set_paused(name, False)
        return self._store.target(name)

    def synchronise(self, name: str, cancelled: Callable[[], bool]) -> SyncPoint:
        """One sync of a target that the caller holds; returns the new complete sync point."""
        target = self._targets.target(name)
        controller = self._platforms.controller(target)
        self._ask(name, controller)
        source = self._platforms.source(target.source_site)
        point = sync(
            source=source,
            controller=controller,
            target=target,
            state_dir=self._state_dir(name),
            last=self._store.target(name).sync_point,
            progress=lambda data: self._store.save_progress(name, data),
            cancelled=cancelled,
        )
        self._store.save_sync_point(name, point)
        known = self._store.target(name).inventory
        self._store.save_inventory(name, with_last_seen(source.inventory(target.source_vm), known))
        return point

    def first(self, name: str, cancelled: Callable[[], bool]) -> str:
        """The first sync of a target that the caller holds; returns what is to be said of its outcome."""
        self.synchronise(name, cancelled)
        return self._look(name)

    def _in_background(self, name: str, holder: str) -> None:
        with within(target=name):
            self._synced(name, holder)

    def _synced(self, name: str, holder: str) -> None:
        try:
            self.synchronise(name, self._closing.is_set)
            trouble = self._look(name)
        except Exception as error:
            message = str(error) if isinstance(error, RefloatError) else f"{type(error).__name__}: {error}"
            log.exception("sync of %s failed", name)
            has_point = self._store.target(name).sync_point is not None
            state = TargetState.READY if has_point else TargetState.ERROR
            self._store.release_target(name, holder, state, f"the last sync failed: {message}")
        else:
            self._store.release_target(name, holder, TargetState.READY, trouble)

    def _look(self, name: str) -> str:
        """Readiness, kept with the target. A look that fails does not undo the sync: it is said."""
        try:
            run = self._run_of(name)
            readiness, plan = assess(run)
            self._store.save_readiness(name, readiness)
            if plan is None:
                preview.drop(self._state_dir(name))
            else:
                self._preview(run, readiness.point, plan)
        except RefloatError as error:
            log.warning("readiness of %s: %s", name, error)
            self._store.save_readiness(name, None)
            return f"the replica was synced, but could not be looked into: {error.message}"
        return ""

    def _ask(self, name: str, controller: ControllerClient) -> None:
        """How the controller is, kept with the target: nobody has to ask it for that alone."""
        try:
            health = judged(controller.wait_ready(CONTROLLER_WITHIN), now(), time.time())
        except Unreachable as error:
            self._store.save_health(name, silent(error.message, now()))
            raise
        self._store.save_health(name, health)

    def _preview(self, run: Run, point: str, plan: Plan) -> None:
        name = run.target.name

        def saying(what: str) -> None:
            self._store.save_progress(name, {"message": what})

        preview.look(run, point, plan, self._state_dir(name), saying)

    def _state_dir(self, name: str) -> Path:
        return self._data_dir / "targets" / name
