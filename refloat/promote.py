"""Steps 7 to 12: the controller VM becomes the recovered VM. Each step imposes its part of the plan on a
VM that is off, and reads it back."""

from __future__ import annotations

from refloat.clock import now
from refloat.errors import Failed
from refloat.model import Adaptation, AttachedDisk, Hardware
from refloat.prepare import hardware_before, host_name, wanted_nics
from refloat.run import Run

# ---------------------------------------------------------------- 7 stop-controller


def stop_controller(run: Run) -> None:
    """Everything on the replica is flushed and read back by now, and the controller keeps its own state
    durable at each step, so that it is not given the time of an orderly shutdown."""
    hardware_before(run)
    run.controller.disconnect()
    run.destination.stop(run.vm, graceful=0)


# ---------------------------------------------------------------- 8 apply-compute


def apply_compute(run: Run) -> None:
    plan = run.plan
    run.destination.set_compute(run.vm, plan.cpus, plan.memory)
    now_has = run.destination.hardware(run.vm)
    if now_has.cpus < plan.cpus or now_has.memory < plan.memory:
        run.progress(
            message=f"the destination gives {now_has.cpus} CPUs and {now_has.memory >> 20} MiB "
            f"instead of {plan.cpus} and {plan.memory >> 20} MiB"
        )


def restore_compute(run: Run) -> None:
    before = run.load("hardware", Hardware)
    if before is not None:
        run.destination.set_compute(run.vm, before.cpus, before.memory)


# ---------------------------------------------------------------- 9 reorder-disks


def reorder_disks(run: Run) -> None:
    """The replica's disks in the source's order; the controller's own disk is parked."""
    plan = run.plan
    volumes = {disk.serial: disk.volume for disk in hardware_before(run).disks}
    wanted = tuple(AttachedDisk(disk.serial, volumes[disk.serial], plan.disk_bus) for disk in plan.disks)
    run.destination.set_disks(run.vm, wanted)
    run.kill_point("reorder-disks")
    _verify(run, "disks", wanted, run.destination.hardware(run.vm).disks)


def restore_disk_order(run: Run) -> None:
    before = run.load("hardware", Hardware)
    if before is not None:
        run.destination.set_disks(run.vm, before.disks)


# ---------------------------------------------------------------- 10 apply-networks


def apply_networks(run: Run) -> None:
    """And the host name that the platform's own services would give the guest."""
    wanted = wanted_nics(run.plan)
    run.destination.set_nics(run.vm, wanted)
    run.destination.set_name(run.vm, host_name(run.plan))
    _verify(run, "adapters", wanted, run.destination.hardware(run.vm).nics)


def restore_networks(run: Run) -> None:
    before = run.load("hardware", Hardware)
    if before is not None:
        run.destination.set_nics(run.vm, before.nics)
        run.destination.set_name(run.vm, "")


# ---------------------------------------------------------------- 11 apply-firmware


def apply_firmware(run: Run) -> None:
    """And what its clock shows: the adapted guest says whether it takes that for UTC."""
    plan, utc = run.plan, run.need("adaptation", Adaptation).caps.clock_utc
    run.destination.set_firmware(run.vm, plan.firmware)
    run.destination.set_clock(run.vm, utc)
    found = run.destination.hardware(run.vm)
    _verify(run, "firmware", plan.firmware, found.firmware)
    _verify(run, "clock", utc, found.clock_utc)


def restore_firmware(run: Run) -> None:
    before = run.load("hardware", Hardware)
    if before is not None:
        run.destination.set_firmware(run.vm, before.firmware)
        run.destination.set_clock(run.vm, before.clock_utc)


# ---------------------------------------------------------------- 12 start-vm


def start_vm(run: Run) -> None:
    run.save("promoted", run.destination.hardware(run.vm))
    run.destination.start(run.vm)
    run.once("started", str, now)


def stop_vm(run: Run) -> None:
    run.destination.stop(run.vm, graceful=0)


def _verify(run: Run, what: str, wanted: object, found: object) -> None:
    if wanted != found:
        raise Failed(
            f"{run.vm} has other {what} than planned: {found} instead of {wanted}",
            code="not_as_planned",
            hint="somebody or something else changes this VM on the destination",
        )
