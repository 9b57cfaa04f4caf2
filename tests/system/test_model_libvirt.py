"""Anything, at any time, in any order, over real libvirt: starts, decisions and syncs, while the hub or
libvirtd is killed. A seed picks the order.

The hub, its jobs, libvirtd, the domains, their disks and rollback points are real; the source, the guest and
what runs in the controller are simulated (tiny_site.py): nothing here boots an operating system. Real guests
under the same faults are in test_crash_real.py, longer walks over a simulated platform in
tests/crash/test_hub_model.py.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from refloat.controller.exports import running_exports
from refloat.model import JobState, Mode, PowerState, TargetState
from refloat.simulated.world import OWN
from refloat.store.store import Job, Store, TargetStatus
from tests.system.libvirtd import Libvirtd, processes
from tests.system.tiny_site import ONE, VM, TinySite

STEPS = 10
SEEDS = [int(seed) for seed in os.environ.get("REFLOAT_TEST_SEED", "22 24").split()]
STARTS = ("test", "planned", "planned", "emergency", "sync", "rollback")
ENDS = ("rollback", "rollback", "rollback", "abort", "resume", "sync", "test", "commit")
# Seconds until a kill. A hub takes about one and a half until it acts.
MOMENTS = (1.6, 6.0)
WITHIN = 90.0  # seconds for one hub

ENDED = (JobState.REFUSED, JobState.COMMITTED, JobState.ROLLED_BACK)

Fault = Callable[[subprocess.Popen[bytes]], object]


class Walk:
    def __init__(self, libvirtd: Libvirtd, seed: int) -> None:
        self.libvirtd, self.random = libvirtd, random.Random(seed)
        self.directory = Path(tempfile.mkdtemp(prefix="refloat-model-", dir="/var/tmp"))
        self.site = TinySite(self.directory, self.libvirtd.uri)
        self.told: list[str] = []

    def go(self) -> None:
        self.site.make()
        self.ask("sync")
        for _ in range(STEPS):
            if self.target().state is TargetState.FAILED_OVER:
                break
            self.random.choice((self.source_writes, self.recovered_vm_writes))(self.random.randrange(1, 256))
            what = self.random.choice(ENDS if self.at_work() else STARTS)
            if what == "emergency":
                self.site.world.source.power_off(ONE.name)
            fault = self.random.choice((None, None, self.hub_dies, self.libvirtd_dies, self.libvirtd_is_gone))
            self.ask(what, fault, self.random.uniform(*MOMENTS))
        self.bring_to_an_end()

    def ask(self, what: str, fault: Fault | None = None, after: float = 0.0) -> None:
        """A hub that is asked for this; the fault strikes after so many seconds, unless it ended before."""
        argv = [sys.executable, "-m", "tests.system.tiny_site", str(self.directory), self.site.uri, what]
        self.told.append(what)
        hub = subprocess.Popen(argv, stderr=subprocess.PIPE)
        try:
            _, said = hub.communicate(timeout=after if fault else WITHIN)
        except subprocess.TimeoutExpired:
            assert fault is not None, f"a hub did not end: {self.told}"
            self.told.append(f"{fault.__name__} after {after:.1f}")
            fault(hub)
            _, said = hub.communicate(timeout=WITHIN)
        finally:
            hub.kill()
            self.libvirtd.start()  # where it was to stay away
        assert hub.returncode in (0, -signal.SIGKILL), said.decode()[-3000:]
        self.told.append(f"{job.mode} {job.state}" if (job := self.job()) else "")
        self.check()

    def hub_dies(self, hub: subprocess.Popen[bytes]) -> None:
        hub.send_signal(signal.SIGKILL)

    def libvirtd_dies(self, _: subprocess.Popen[bytes]) -> None:
        self.libvirtd.restart()

    def libvirtd_is_gone(self, _: subprocess.Popen[bytes]) -> None:
        self.libvirtd.kill()

    def source_writes(self, byte: int) -> None:
        if self.source() is PowerState.RUNNING:
            self.site.world.source.guest_writes(ONE.name, "sdb", 1 << 19, bytes([byte]) * 4096)

    def recovered_vm_writes(self, byte: int) -> None:
        if self.recovered_runs():
            self.site.write(ONE.serial("sda"), f"write -P {byte} 1M 64k")

    # ------------------------------------------------------------ what must hold

    def check(self) -> None:
        """Whenever no hub works."""
        assert len(processes(VM)) <= 1, self.told
        job, target = self.job(), self.target()
        if self.recovered_runs():
            assert job and (job.mode is Mode.TEST or self.source() is PowerState.OFF), ("twice", self.told)
            paths = self.site.world.controller(VM)._paths
            assert not running_exports(paths), ("an export can write under a running VM", self.told)
        if target.state is TargetState.READY and not target.holder:
            assert self.site.replicas() == self.site.shadows(), ("not the last sync point", self.told)

    def bring_to_an_end(self) -> None:
        for what in ("rollback", "resume", "rollback"):
            self.ask(what)
        job, target = self.job(), self.target()
        if job and job.state is JobState.COMMITTED:
            assert target.state is TargetState.FAILED_OVER, self.told
            assert self.source() is PowerState.OFF, self.told
        else:
            assert not target.holder and target.state is TargetState.READY, (target, self.told)
            assert self.source() is PowerState.RUNNING or "emergency" in self.told, self.told
            self.ask("sync")
            assert self.site.replicas() == self.site.sources(), self.told
        assert not list(self.site.images.glob("*.refloat-*")), self.told

    # ------------------------------------------------------------ what there is

    def at_work(self) -> bool:
        job = self.job()
        return job is not None and job.state not in ENDED

    def recovered_runs(self) -> bool:
        domain = self.site.domains.lookup(VM)
        if self.site.domains.power(domain)[0] is PowerState.OFF:
            return False
        return self.site.domains.spec(domain).disks[0].serial != OWN

    def source(self) -> PowerState:
        return self.site.world.source.power_state(ONE.name)

    def job(self) -> Job | None:
        with self.store() as store:
            return next(iter(store.jobs()), None)

    def target(self) -> TargetStatus:
        with self.store() as store:
            return store.target(ONE.name)

    @contextmanager
    def store(self) -> Iterator[Store]:
        store = Store.open(self.directory / "hub/refloat.sqlite")
        try:
            yield store
        finally:
            store.engine.dispose()


@pytest.mark.timeout(900)
@pytest.mark.skipif(not os.environ.get("REFLOAT_TEST_ALL"), reason="takes minutes: script/test --all")
@pytest.mark.parametrize("seed", SEEDS)
def test_anything_in_any_order(libvirtd: Libvirtd, seed: int) -> None:
    walk = Walk(libvirtd, seed)
    try:
        walk.go()
    finally:
        libvirtd.start()
        walk.site.remove()
        shutil.rmtree(walk.directory)
