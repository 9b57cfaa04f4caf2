"""Commit: one-way. The rollback points are merged, the controller's own disk goes."""

from __future__ import annotations

from refloat.model import Hardware
from refloat.run import Run


def merge_disks(run: Run) -> None:
    """The recovered VM's writes become part of its disks, whether it runs, is paused or off."""
    run.destination.merge(run.vm, run.tag)
    run.kill_point("merge-disks")


def delete_controller_disk(run: Run) -> None:
    """Only what is ours and attached to nothing: the driver refuses anything else."""
    replicas = {disk.serial for disk in run.target.disks}
    for disk in run.need("hardware", Hardware).disks:
        if disk.serial not in replicas:
            run.destination.delete_volume(run.vm, disk.volume)
