"""What jobs cost the hub: `python -m bench.jobs [COUNT]`, 200 by default, on the simulated platform.

Planned failovers of that many targets are started at once and run until all wait for their commit; then the
hub is left alone for a minute. At most 16 are active at a time, the others wait in the queue. CPU is the
whole process's, the simulated platform's own work (copies of small files) in it; memory is what the process
grew by. The same with one job shows what is fixed cost. The store is SQLite.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from refloat.config import Config
from refloat.estate import Estate
from refloat.hub import Hub
from refloat.model import JobState, Mode, TargetState
from refloat.simulated.world import Protected, World, estate

IDLE = 60  # seconds
WITHIN = 1800


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(json.dumps({str(number): measured(number) for number in (1, count)}, indent=2))


def measured(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="refloat-bench-") as folder:
        directory = Path(folder)
        world = World(directory / "world")
        protected = [Protected(number) for number in range(1, count + 1)]
        for one in protected:
            world.protect(one)
        form = estate(world.directory, protected, {"report_deadline": 600})
        hub = Hub(Config(data_dir=directory / "hub"), Estate.model_validate(form))
        hub.platforms._worlds[str(world.directory)] = world
        hub.open()
        try:
            return _figures(hub, [one.name for one in protected])
        finally:
            hub.close()


def _figures(hub: Hub, names: list[str]) -> dict[str, float]:
    for name in names:
        hub.start_sync(name)
    _until(lambda: all(one.state is TargetState.READY for one in hub.targets()))
    _until(lambda: all(one.readiness and not one.holder for one in hub.targets()))
    before = _memory()
    run_cpu, run_wall = _cost(lambda: _all_wait(hub, names))
    grown = _memory() - before
    idle_cpu, idle_wall = _cost(lambda: time.sleep(IDLE))
    return {
        "cpu_per_job": round(run_cpu / len(names), 3),
        "wall_per_job": round(run_wall / len(names), 3),
        "wall": round(run_wall, 1),
        "memory_per_job_kib": round(grown / len(names) / 1024, 1),
        "waiting_core": round(idle_cpu / idle_wall, 4),
    }


def _all_wait(hub: Hub, names: list[str]) -> None:
    jobs = [hub.start_failover(name, Mode.PLANNED).id for name in names]
    _until(lambda: hub.summaries.jobs_by_state().get(JobState.AWAITING_COMMIT, 0) == len(jobs))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)


def _cost(act: Callable[[], None]) -> tuple[float, float]:
    before, begun = _cpu(), time.monotonic()
    act()
    return _cpu() - before, time.monotonic() - begun


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
