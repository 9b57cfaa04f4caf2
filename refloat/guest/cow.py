"""Copy-on-write views of block devices: whatever is done to a view, the device below stays as it is.

By qemu-nbd on the kernel's network block devices, so only where there is an nbd module (the controller
has it). The writes go to an anonymous file in a scratch directory and vanish with the view.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from refloat.command import run
from refloat.errors import Failed
from refloat.guest import leftovers
from refloat.guest.leftovers import birth
from refloat.guest.mounts import clear_devices

_SYS = Path("/sys/block")
_DEADLINE = 60.0
# Tells by which process a view was made, in the environment of its qemu-nbd.
_OWNER = "REFLOAT_VIEW_OWNER"


@contextmanager
def cow_views(
    devices: Mapping[str, str], scratch: Path, image_format: str = "raw"
) -> Iterator[dict[str, str]]:
    """Key -> a device node that shows the device of that key (or a qcow2 delta) and takes writes without
    passing them on.

    Partition nodes exist when this returns. `scratch` must hold what is written through the views.
    Raises Failed if a view could not be made in time.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    if not (_SYS / "nbd0").exists():
        run(["modprobe", "nbd", "max_part=16"], timeout=60)
    drop_leftovers()
    with ExitStack() as stack:
        views = {}
        for key, device in devices.items():
            views[key] = _connect(device, scratch, image_format)
            stack.callback(_disconnect, views[key])
        _wait_for_partitions(views.values())
        yield views


def drop_leftovers() -> None:
    """Disconnects the views that killed runs left behind: ours, made by a process that is gone."""
    leftovers.drop()  # arrays and volumes on such views
    for block in sorted(_SYS.glob("nbd*")):
        owner = _environment(_server(block)).get(_OWNER, "")
        if owner and owner != birth(int(owner.partition(":")[0])):
            clear_devices(partial(_is_part, block.name))
            _disconnect(f"/dev/{block.name}")


def _is_part(whole: str, name: str) -> bool:
    return name == whole or name.startswith(f"{whole}p")


def _connect(device: str, scratch: Path, image_format: str) -> str:
    free = [block.name for block in sorted(_SYS.glob("nbd*")) if not (block / "pid").exists()]
    env = {"TMPDIR": str(scratch), _OWNER: birth(os.getpid())}
    tried = ""
    for name in free:
        node = f"/dev/{name}"
        argv = ["qemu-nbd", "--snapshot", "--discard=unmap", f"--connect={node}", "-f", image_format, device]
        done = run(argv, timeout=60, env=env, check=False)
        if done.returncode == 0:
            _wait_until(partial(_has_size, name), f"{node} to show {device}")
            return node
        tried = done.stderr.decode(errors="replace").strip()
    raise Failed(
        f"cannot make a copy-on-write view of {device}: {tried or 'every nbd device is taken'}",
        code="cow_view",
        hint="see `ls /sys/block/nbd*/pid` for who holds them",
    )


def _wait_for_partitions(nodes: Iterable[str]) -> None:
    """The kernel reads the partition table by itself, a moment after the device has its size."""
    run(["blockdev", "--rereadpt", *nodes], timeout=60, check=False)
    run(["udevadm", "settle", "--timeout=20"], timeout=30, check=False)


def _disconnect(node: str) -> None:
    name = os.path.basename(node)
    run(["qemu-nbd", "--disconnect", node], timeout=60)
    _wait_until(lambda: not (_SYS / name / "pid").exists(), f"{node} to be disconnected")


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {_DEADLINE:.0f} s in vain for {what}", code="cow_view")
        time.sleep(0.05)


def _has_size(name: str) -> bool:
    return int((_SYS / name / "size").read_text()) > 0


def _server(block: Path) -> int:
    try:
        return int((block / "pid").read_text())
    except (OSError, ValueError):
        return 0


def _environment(pid: int) -> dict[str, str]:
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in content.split(b"\0"))
    return {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}
