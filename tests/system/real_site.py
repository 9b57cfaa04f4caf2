"""The lab's hub inside the test, so that a test can reach between its steps and into its drivers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from refloat.command import run
from refloat.config import load_config
from refloat.controller.client import ControllerClient, Progress
from refloat.controller.records import Export
from refloat.controller.ssh import SshLink
from refloat.destinations.base import Destination
from refloat.destinations.libvirt import LibvirtDestination
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.lab.estate import SYSTEM_SERIAL, TARGET
from refloat.lab.layout import CONTROLLER_ADDRESS, Lab
from refloat.model import (
    Adaptation,
    AdaptRequest,
    AttachedDisk,
    GuestFacts,
    JobState,
    Mode,
    PowerState,
    Target,
)
from refloat.platforms import Platforms
from tests.system.rig import sha256
from tests.truth.real_sabotages import Place, Sabotage

WITHIN = 600.0  # seconds

Hook = Callable[[], None]

# Runs in the controller: a script in the guest's root, on the disk that the recovered VM will have.
_IN_REPLICA = """set -eu
mkdir -p /run/sabotage
mount /dev/disk/by-id/virtio-{serial}-part1 /run/sabotage
cd /run/sabotage
{script}
cd /
umount /run/sabotage
sync
"""


WHEN = ("in_sync", "in_adapt", "before_stop", "in_reorder", "before_start", "in_start", "after_start")


@dataclass
class Hooks:
    """What happens, once each: when a sync has its readers, in the middle of the adaptation, before the
    controller is stopped, before its disks change places, before the recovered VM runs, while it is being
    started (in a thread beside), and once it runs."""

    in_sync: Hook | None = None
    in_adapt: Hook | None = None
    before_stop: Hook | None = None
    in_reorder: Hook | None = None
    before_start: Hook | None = None
    in_start: Hook | None = None
    after_start: Hook | None = None
    done: list[str] = field(default_factory=list)

    def fire(self, name: str) -> None:
        hook: Hook | None = getattr(self, name)
        if hook is not None and name not in self.done:
            self.done.append(name)
            hook()

    @contextlib.contextmanager
    def beside(self, name: str) -> Iterator[None]:
        """The hook in a thread, which ends before this does."""
        thread = threading.Thread(target=self.fire, args=(name,))
        thread.start()
        try:
            yield
        finally:
            thread.join()


class Meddled(LibvirtDestination):
    hooks: Hooks

    def stop(self, vm: str, graceful: float) -> None:
        if self.power_state(vm) is PowerState.RUNNING and not self._is_recovered(vm):
            self.hooks.fire("before_stop")
        super().stop(vm, graceful)

    def set_disks(self, vm: str, disks: Sequence[AttachedDisk]) -> None:
        if disks[0].serial == SYSTEM_SERIAL:
            self.hooks.fire("in_reorder")
        super().set_disks(vm, disks)

    def start(self, vm: str) -> None:
        if not self._is_recovered(vm):
            super().start(vm)
            return
        if self.power_state(vm) is PowerState.OFF:
            self.hooks.fire("before_start")
        with self.hooks.beside("in_start"):
            super().start(vm)
        self.hooks.fire("after_start")

    def _is_recovered(self, vm: str) -> bool:
        return self.hardware(vm).disks[0].serial == SYSTEM_SERIAL


class MeddledController(ControllerClient):
    hooks: Hooks

    def sync_open(self, point: str, direct: bool, sizes: Mapping[str, int]) -> tuple[Export, ...]:
        self.hooks.fire("in_sync")
        return super().sync_open(point, direct, sizes)

    def adapt(self, request: AdaptRequest, facts: GuestFacts, progress: Progress | None = None) -> Adaptation:
        def passed(data: dict[str, Any]) -> None:
            self.hooks.fire("in_adapt")
            if progress:
                progress(data)

        return super().adapt(request, facts, passed)


class MeddledPlatforms(Platforms):
    def __init__(self, estate: Estate, data_dir: Path) -> None:
        super().__init__(estate, data_dir)
        self.hooks = Hooks()

    @property
    def real(self) -> Meddled:
        found = self.destination("lab-recovery")
        assert isinstance(found, Meddled)
        return found

    def destination(self, site: str) -> Destination:
        known = super().destination(site)
        assert isinstance(known, LibvirtDestination)
        if not isinstance(known, Meddled):
            known.__class__ = Meddled
        assert isinstance(known, Meddled)
        known.hooks = self.hooks
        return known

    def controller(self, target: Target) -> MeddledController:
        known = super().controller(target)
        if not isinstance(known, MeddledController):
            known.__class__ = MeddledController
        assert isinstance(known, MeddledController)
        known.hooks = self.hooks
        return known


class RealSite:
    """The lab's own hub must be stopped: one hub at a time has its data."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        config = load_config(lab.config, {})
        self.platforms = MeddledPlatforms(self._estate({}), config.data_dir)
        self.hub = Hub(config, self._estate({}), self.platforms)
        self.hub.open()

    def close(self) -> None:
        self.hub.close()

    def policy(self, **fields: Any) -> None:
        """For the jobs that are started from now on."""
        self.hub.estate = self._estate(fields)

    def _estate(self, fields: dict[str, Any]) -> Estate:
        data = yaml.safe_load(self.lab.estate.read_text())
        data["policies"]["lab"] |= fields
        return Estate.model_validate(data)

    @property
    def place(self) -> Place:
        return Place(self.lab, self.platforms.real)

    def hook(self, hooks: Hooks) -> list[str]:
        """For the next failover; what will have happened then."""
        self.platforms.hooks = hooks
        return [name for name in WHEN if getattr(hooks, name)]

    def sabotage(self, row: Sabotage) -> list[str]:
        return self.hook(
            Hooks(
                before_stop=partial(self.in_replica, row.guest) if row.guest else None,
                before_start=partial(row.at_start, self.place) if row.at_start else None,
                after_start=partial(row.running, self.place) if row.running else None,
            )
        )

    def replica(self) -> dict[str, str]:
        """The replica's disks by their hashes."""
        return {file.name: sha256(file) for file in sorted(self.lab.images.glob("replica-sd?.raw"))}

    # ------------------------------------------------------------ jobs

    def sync(self) -> None:
        self.hub.start_sync(TARGET)
        self.until(lambda: not self.hub.target(TARGET).holder, "the end of the sync")

    def start(self, mode: Mode) -> str:
        return self.hub.start_failover(TARGET, mode).id

    def fail_over(self, mode: Mode) -> str:
        """The job, at rest with its verdict."""
        job = self.start(mode)
        self.rest(job, JobState.AWAITING_COMMIT, JobState.TEST_ACTIVE)
        return job

    def roll_back(self, job: str) -> None:
        self.hub.rollback(job, "tester", discard_writes=True)
        self.rest(job, JobState.ROLLED_BACK)

    def rest(self, job: str, *states: JobState) -> None:
        ended = (JobState.REFUSED, JobState.ROLLED_BACK, JobState.BLOCKED)

        def there() -> bool:
            found = self.hub.job(job)
            assert found.state in states or found.state not in ended, f"{found.state}: {found.error}"
            return found.state in states

        self.until(there, f"{job} comes to {' or '.join(states)}")

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN
        while not holds():
            assert time.monotonic() < deadline, f"{what} did not happen in time"
            time.sleep(0.2)

    # ------------------------------------------------------------ the controller

    @property
    def controller(self) -> MeddledController:
        return self.platforms.controller(self.hub.estate.target(TARGET))

    def drop_ssh(self) -> None:
        """Kills every ssh process of the hub's to the controller."""
        link = self.controller._link
        assert isinstance(link, SshLink)
        socket = str(link._socket()).encode()
        for one in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = one.read_bytes()
                if words.startswith(b"ssh") and socket in words:
                    os.kill(int(one.parent.name), signal.SIGKILL)

    def in_controller(self, script: str) -> str:
        host, port = self.platforms.real.reach(self.lab.controller_vm, CONTROLLER_ADDRESS, 22)
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
        argv = ["ssh", "-F", "none", "-i", str(self.lab.keys / "controller"), "-p", str(port)]
        argv += [part for option in (*options, "LogLevel=ERROR") for part in ("-o", option)]
        return run([*argv, f"root@{host}", "sh", "-x"], input=script.encode(), timeout=120).text

    def in_replica(self, script: str) -> None:
        """A shell script in the root directory of the adapted guest, before it ever ran."""
        self.in_controller(_IN_REPLICA.format(serial=SYSTEM_SERIAL, script=script))
