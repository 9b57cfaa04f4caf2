"""A sync attempt in the controller: open, complete, close. DESIGN.md, Sync points.

The replica moves from one complete sync point to the next and is never in between, except before the
first one exists (direct mode). Every function here can be killed anywhere and called again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from refloat.command import run
from refloat.controller.devices import find_disk, flush_device, holders, read_cached, read_direct
from refloat.controller.exports import running_exports, start_export, stop_exports
from refloat.controller.locks import is_held
from refloat.controller.paths import Paths
from refloat.controller.state import State, delta_file, load_state, save_state
from refloat.durable import remove_durably, sync_directory, write_durably
from refloat.errors import Busy, Failed, Refused

Progress = Callable[[dict[str, Any]], None]

DIRECT, DELTA = "direct", "delta"
_SAMPLE = 4096
_SAMPLES = 16
_RESERVE = 256 * 1024
_SETTLE = 10.0  # seconds: udev opens a device for a moment after each writer


def status(paths: Paths) -> dict[str, Any]:
    state = load_state(paths)
    return {
        "merged_point": state["merged"],
        "attempt": state["attempt"]["point"] if state["attempt"] else "",
        "exports": sorted(running_exports(paths)),
        "free": paths.free(),
    }


def open_attempt(
    paths: Paths, point: str, mode: str, sizes: dict[str, int], progress: Progress
) -> list[dict[str, Any]]:
    """Opens one export per serial, after closing what an earlier attempt left.

    Raises Refused if a disk has another size, or if direct mode would write over a complete point;
    Busy while an adaptation runs.
    """
    if is_held(paths.adapt_lock):
        raise Busy("an adaptation runs in this controller", hint="a sync is possible when it has ended")
    close_attempt(paths, progress)
    state = load_state(paths)
    if mode == DIRECT and state["merged"] is not None:
        raise Refused(
            f"the replica holds sync point {state['merged']}: a direct sync would overwrite it",
            code="replica_complete",
            hint="sync into a delta",
        )
    disks = [_checked(paths, serial, size) for serial, size in sizes.items()]
    for index, disk in enumerate(disks):
        disk["port"] = paths.port + index
    _reserve(paths)
    state["attempt"] = {"point": point, "mode": mode, "complete": False, "disks": disks}
    state["serials"] = list(sizes)
    save_state(paths, state)
    for disk in disks:
        _open_disk(paths, mode, disk)
    return [{"serial": disk["serial"], "port": disk["port"], "size": disk["size"]} for disk in disks]


def complete_attempt(paths: Paths, point: str, progress: Progress) -> None:
    """The hub has sent and flushed everything: the replica becomes this point. Safe to repeat."""
    state = load_state(paths)
    if state["merged"] == point and state["attempt"] is None:
        return
    if state["attempt"] is None or state["attempt"]["point"] != point:
        raise Refused(
            f"no attempt for sync point {point} is open",
            code="no_attempt",
            hint="the controller may have been restarted: sync again",
        )
    stop_exports(paths)
    remove_durably(_reserve_file(paths))
    if not state["attempt"]["complete"]:
        for disk in state["attempt"]["disks"]:
            _make_durable(paths, state, disk)
        state["attempt"]["complete"] = True
        save_state(paths, state)
    _merge(paths, state, progress)


def close_attempt(paths: Paths, progress: Progress) -> None:
    """Ends all exports; finishes an attempt that is marked complete, discards any other."""
    stop_exports(paths)
    state = load_state(paths)
    attempt = state["attempt"]
    if attempt and attempt["complete"]:
        _merge(paths, state, progress)
    # First the deltas: they may have filled the disk, and the state needs room to be written.
    _delete_deltas(paths)
    if attempt and not attempt["complete"]:
        state["attempt"] = None
        save_state(paths, state)


def prove_closed(paths: Paths, serials: list[str]) -> None:
    """Raises Failed unless nothing in this controller can write to the replica disks any more.

    Without `serials`: those of the last sync.
    """
    if running_exports(paths) or load_state(paths)["attempt"]:
        raise Failed("an export or a delta is left", code="exports_left", hint="close the sync again")
    for serial in serials or load_state(paths)["serials"]:
        device, _ = find_disk(paths, serial)
        flush_device(device)
        _wait_until_unused(serial, device)


def _wait_until_unused(serial: str, device: str) -> None:
    deadline = time.monotonic() + _SETTLE
    while in_use := holders(device):
        if time.monotonic() > deadline:
            raise Failed(
                f"replica disk {serial} ({device}) is in use: {', '.join(in_use)}",
                code="replica_in_use",
                hint="end it, or restart the controller",
            )
        time.sleep(0.2)


# ---------------------------------------------------------------- opening


def _checked(paths: Paths, serial: str, size: int) -> dict[str, Any]:
    device, actual = find_disk(paths, serial)
    if actual < size:
        raise Refused(
            f"replica disk {serial} has {actual} bytes, the source disk {size}",
            code="disk_size",
            hint="give the replica volume the source's size, or set up the target anew",
        )
    return {"serial": serial, "device": device, "size": actual}


def _open_disk(paths: Paths, mode: str, disk: dict[str, Any]) -> None:
    if mode == DIRECT:
        start_export(paths, disk["serial"], disk["port"], disk["device"], "raw")
        return
    delta = delta_file(paths, disk["serial"])
    run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            disk["device"],
            delta,
            str(disk["size"]),
        ],
        timeout=120,
    )
    start_export(paths, disk["serial"], disk["port"], delta, "qcow2")


# ---------------------------------------------------------------- merging


def _make_durable(paths: Paths, state: State, disk: dict[str, Any]) -> None:
    """Before the marker: from the marker on, the delta is the only source of this sync point."""
    delta = state["attempt"]["mode"] == DELTA
    flush_device(delta_file(paths, disk["serial"]) if delta else disk["device"])
    if delta:
        sync_directory(paths.sync)


def _merge(paths: Paths, state: State, progress: Progress) -> None:
    attempt = state["attempt"]
    for index, disk in enumerate(attempt["disks"]):
        progress({"phase": "merging", "disk": disk["serial"], "disks_done": index})
        # The device's name may have changed with a restart; the serial has not.
        device, _ = find_disk(paths, disk["serial"])
        samples = [0]
        if attempt["mode"] == DELTA:
            delta = delta_file(paths, disk["serial"])
            samples += _changed_offsets(delta)
            _commit(paths, delta, device)
        _prove_on_disk(device, samples)
    state["merged"], state["attempt"] = attempt["point"], None
    save_state(paths, state)
    _delete_deltas(paths)


def _commit(paths: Paths, delta: str, device: str) -> None:
    """Through flock(1): if this command is killed, its qemu-img goes on holding the lock until it has
    ended, and the next attempt to merge waits for it instead of writing beside it."""
    lock = ["flock", paths.merge_lock]
    # -d: the delta keeps its content, so that the merge can be repeated.
    run(
        [*lock, "qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", device, delta],
        timeout=600,
    )
    run([*lock, "qemu-img", "commit", "-q", "-d", "-f", "qcow2", delta], timeout=24 * 3600)


def _changed_offsets(delta: str) -> list[int]:
    """A few places that the delta holds, spread over the disk."""
    import json

    extents = json.loads(run(["qemu-img", "map", "--output=json", "-f", "qcow2", delta], timeout=600).stdout)
    mine = [extent["start"] for extent in extents if extent["depth"] == 0]
    step = max(1, len(mine) // _SAMPLES)
    return [start for start in mine[::step] if start % _SAMPLE == 0]


def _prove_on_disk(device: str, offsets: list[int]) -> None:
    """Flushes, and compares what was written (in the cache) with what the disk itself has now."""
    written = [(offset, read_cached(device, offset, _SAMPLE)) for offset in offsets]
    flush_device(device)
    for offset, block in written:
        if read_direct(device, offset, _SAMPLE)[: len(block)] != block:
            raise Failed(
                f"{device} has other data at byte {offset} than was written",
                code="flush_failed",
                hint="the storage below the replica is not trustworthy: check the destination's pool",
            )


def _reserve(paths: Paths) -> None:
    """Room that the deltas cannot take: a merge must be able to record what it did on a full disk."""
    write_durably(_reserve_file(paths), bytes(_RESERVE))


def _reserve_file(paths: Paths) -> str:
    return os.path.join(paths.sync, "reserve")


def _delete_deltas(paths: Paths) -> None:
    for name in os.listdir(paths.sync):
        if name.startswith("delta-") or name == "reserve":
            remove_durably(os.path.join(paths.sync, name))
