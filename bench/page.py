"""The hub's lists and pages at scale: 1,000 targets and 10,000 jobs in the store, and 50 viewers of one job.

`python -m bench.page`: time of each page and list (median of 30), and the share of a core that 50 live
viewers take while a job has one event a second. Aims: under 100 ms, under 10 %.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import yaml
from sqlalchemy import insert

from refloat.clock import now
from refloat.codec import encode
from refloat.model import ControllerHealth, HealthState, Verdict, Word
from refloat.store.store import Store
from refloat.store.tables import AttemptRow, EventRow, JobRow, RecordRow, TargetRow

TARGETS, JOBS, VIEWERS, SECONDS = 1000, 10_000, 50, 20
PATHS = (
    "/api/v1/targets?limit=100",
    "/api/v1/targets?limit=100&search=vm99",
    "/api/v1/jobs?limit=50",
    "/api/v1/jobs?limit=50&state=rolled_back",
    "/api/v1/jobs/{job}",
    "/",
    "/?search=vm99",
    "/?health=silent",
    "/jobs",
    "/jobs/{job}",
    "/targets/vm500",
)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="refloat-bench-") as folder:
        directory = Path(folder) / "estate"
        refloat = [sys.executable, "-m", "refloat"]
        subprocess.run([*refloat, "simulate", str(directory), "--vms", str(TARGETS)], check=True)
        store = Store.open(directory / "hub" / "refloat.sqlite")
        job = fill(store)
        settings = directory / "refloat.yaml"
        listen = "127.0.0.1:8467"
        settings.write_text(yaml.safe_dump({**yaml.safe_load(settings.read_text()), "listen": listen}))
        environment = {**os.environ, "REFLOAT_CONFIG": str(settings)}
        with subprocess.Popen([*refloat, "serve"], env=environment, stdout=subprocess.DEVNULL) as hub:
            try:
                url = f"http://{listen}"
                client = connected(url, directory)
                figures = {path: timed(client, path.format(job=job)) for path in PATHS}
                share = asyncio.run(watched(url, client.headers["authorization"], job, store, hub.pid))
            finally:
                hub.terminate()
    print(json.dumps({"milliseconds": figures, "viewers_core": round(share, 3)}, indent=2))


def fill(store: Store) -> str:
    """Finished jobs, each with steps, events and a verdict. The last one's id."""
    verdict = {"value": encode(Verdict(Word.SUCCEEDED, ("every facet was verified",), ()))}
    names = [f"vm{number}" for number in range(1, TARGETS + 1)]
    ids = [f"vm{number % TARGETS + 1}-{number:06x}" for number in range(JOBS)]
    with store.engine.begin() as rows:
        rows.execute(insert(TargetRow), [{"name": name, "state": "ready", **health(name)} for name in names])
        ended = {"mode": "test", "state": "rolled_back", "finished": now()}
        made = [{"id": id, "target": id.partition("-")[0], "created": now(), **ended} for id in ids]
        rows.execute(insert(JobRow), made)
        rows.execute(insert(RecordRow), [{"job": id, "name": "verdict", "data": verdict} for id in ids])
        for step in ("preflight", "stop-exports", "snapshot-disks", "adapt-guest", "start-vm", "validate"):
            common = {"step": step, "phase": "do", "number": 1, "started": now(), "finished": now()}
            rows.execute(insert(AttemptRow), [{"job": id, **common} for id in ids])
            event = {"at": now(), "kind": "step_done", "data": {"step": step, "phase": "do", "error": None}}
            rows.execute(insert(EventRow), [{"job": id, **event} for id in ids])
    return ids[-1]


def health(name: str) -> dict[str, object]:
    """One controller in five is silent."""
    state = HealthState.SILENT if name.endswith(("1", "6")) else HealthState.OK
    return {"health": encode(ControllerHealth(now(), state, "as it was heard")), "health_state": state}


def connected(url: str, directory: Path) -> httpx.Client:
    token = directory / "hub" / "api-token"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/api/v1/health").raise_for_status()
            return httpx.Client(
                base_url=url, headers={"authorization": f"Bearer {token.read_text().strip()}"}, timeout=60
            )
        except (httpx.HTTPError, OSError):
            time.sleep(0.2)
    raise SystemExit("the hub does not come up")


def timed(client: httpx.Client, path: str) -> float:
    """Median of 30, in milliseconds, with the way there and back on loopback."""
    took = []
    for _ in range(30):
        begun = time.perf_counter()
        client.get(path).raise_for_status()
        took.append((time.perf_counter() - begun) * 1000)
    return round(statistics.median(took), 1)


async def watched(url: str, authorization: str, job: str, store: Store, pid: int) -> float:
    """The share of a core that the hub takes beyond what it takes without viewers."""
    async with httpx.AsyncClient(
        base_url=url,
        headers={"authorization": authorization},
        timeout=None,
        limits=httpx.Limits(max_connections=VIEWERS + 5),
    ) as client:
        alone = await _share(pid, store, job)
        viewers = [asyncio.create_task(_view(client, job)) for _ in range(VIEWERS)]
        await asyncio.sleep(3)
        together = await _share(pid, store, job)
        for viewer in viewers:
            viewer.cancel()
        await asyncio.gather(*viewers, return_exceptions=True)
    return together - alone


async def _view(client: httpx.AsyncClient, job: str) -> None:
    """As the page does."""
    async with client.stream("GET", f"/jobs/{job}/live") as stream:
        async for _ in stream.aiter_lines():
            pass


async def _share(pid: int, store: Store, job: str) -> float:
    before, begun = _cpu(pid), time.monotonic()
    for number in range(SECONDS):
        await asyncio.to_thread(store.emit, job, "progress", {"message": f"{number} of {SECONDS}"})
        await asyncio.sleep(1)
    return (_cpu(pid) - before) / (time.monotonic() - begun)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    main()
