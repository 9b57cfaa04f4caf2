"""`disks [--hash]`: the data disks by serial; with their sha256 on demand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refloat.controller.devices import data_disks, sha256_of
from refloat.controller.paths import Paths


def run(
    paths: Paths, arguments: list[str], progress: Callable[[dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """Arguments after --hash limit the hashing to these serials."""
    hashing = "--hash" in arguments
    wanted = [one for one in arguments if not one.startswith("--")]
    answer = []
    for serial, (device, size) in data_disks(paths).items():
        if wanted and serial not in wanted:
            continue
        disk = {"serial": serial, "device": device, "size": size}
        if hashing:
            disk["sha256"] = sha256_of(device, progress)
        answer.append(disk)
    return answer
