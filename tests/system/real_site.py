"""The lab's hub inside the test, so that a test can reach between its steps and into its drivers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from refloat.command import run
from refloat.config import load_config
from refloat.destinations.base import Destination
from refloat.destinations.libvirt import LibvirtDestination
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.lab.estate import SYSTEM_SERIAL, TARGET
from refloat.lab.layout import CONTROLLER_ADDRESS, Lab
from refloat.model import JobState, Mode, PowerState
from refloat.platforms import Platforms
from tests.system.rig import sha256
from tests.truth.real_sabotages import Meddle, Place, Sabotage

WITHIN = 600.0  # seconds

Hook = Callable[[LibvirtDestination], None]

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


WHEN = ("before_stop", "before_start", "after_start")


@dataclass
class Hooks:
    """What happens to the VM that becomes the recovered one: before the controller is stopped, before the
    recovered VM runs, and once it does."""

    before_stop: Hook | None = None
    before_start: Hook | None = None
    after_start: Hook | None = None
    done: list[str] = field(default_factory=list)

    def fire(self, name: str, destination: LibvirtDestination) -> None:
        hook: Hook | None = getattr(self, name)
        if hook is not None and name not in self.done:
            self.done.append(name)
            hook(destination)


class Meddled(LibvirtDestination):
    hooks: Hooks

    def stop(self, vm: str, graceful: float) -> None:
        if self.power_state(vm) is PowerState.RUNNING and not self._is_recovered(vm):
            self.hooks.fire("before_stop", self)
        super().stop(vm, graceful)

    def start(self, vm: str) -> None:
        recovered = self._is_recovered(vm)
        if recovered and self.power_state(vm) is PowerState.OFF:
            self.hooks.fire("before_start", self)
        super().start(vm)
        if recovered:
            self.hooks.fire("after_start", self)

    def _is_recovered(self, vm: str) -> bool:
        return self.hardware(vm).disks[0].serial == SYSTEM_SERIAL


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


def _meddle(act: Meddle, place: Place, _: LibvirtDestination) -> None:
    act(place)


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

    def hook(self, row: Sabotage) -> list[str]:
        """For the next failover; what will have happened then."""
        place = Place(self.lab, self.platforms.real)
        self.platforms.hooks = hooks = Hooks()
        if row.guest:
            hooks.before_stop = lambda there: self.in_replica(there, row.guest)
        if row.at_start:
            hooks.before_start = partial(_meddle, row.at_start, place)
        if row.running:
            hooks.after_start = partial(_meddle, row.running, place)
        return [name for name in WHEN if getattr(hooks, name)]

    def replica(self) -> dict[str, str]:
        """The replica's disks by their hashes."""
        return {file.name: sha256(file) for file in sorted(self.lab.images.glob("replica-sd?.raw"))}

    # ------------------------------------------------------------ jobs

    def sync(self) -> None:
        self.hub.start_sync(TARGET)
        self.until(lambda: not self.hub.target(TARGET).holder, "the end of the sync")

    def fail_over(self, mode: Mode) -> str:
        """The job, at rest with its verdict."""
        job = self.hub.start_failover(TARGET, mode).id
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

    def in_controller(self, destination: LibvirtDestination, script: str) -> str:
        host, port = destination.reach(self.lab.controller_vm, CONTROLLER_ADDRESS, 22)
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
        argv = ["ssh", "-F", "none", "-i", str(self.lab.keys / "controller"), "-p", str(port)]
        argv += [part for option in (*options, "LogLevel=ERROR") for part in ("-o", option)]
        return run([*argv, f"root@{host}", "sh", "-x"], input=script.encode(), timeout=120).text

    def in_replica(self, destination: LibvirtDestination, script: str) -> None:
        """A shell script in the root directory of the adapted guest, before it ever ran."""
        self.in_controller(destination, _IN_REPLICA.format(serial=SYSTEM_SERIAL, script=script))
