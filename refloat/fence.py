"""Steps 2 and 3: the source is stopped; or, in an emergency, proven to be off, or taken to be so on the
operator's recorded word.

A power state counts only when the source's own platform gives it now. A source that answers "running" is
never overridden: the word of an operator stands for silence, not against what can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from refloat.clock import now
from refloat.errors import Failed, RefloatError, Unreachable
from refloat.model import Fence, Mode, OperatorDecision, PowerState
from refloat.policy import AfterDeadline
from refloat.run import Run


@dataclass(frozen=True)
class SourcePower:
    """How the source was before step 2, so that it can be put back."""

    power: PowerState
    autostart: bool


# ---------------------------------------------------------------- 2 power-off-source


def power_off_source(run: Run) -> None:
    source, vm = run.source, run.target.source_vm
    run.once("source_power", SourcePower, lambda: SourcePower(source.power_state(vm), source.autostart(vm)))
    source.set_autostart(vm, False)
    run.kill_point("power-off-source")
    if source.power_state(vm) is PowerState.OFF or source.shut_down(vm, run.policy.shutdown_deadline):
        return
    if run.policy.shutdown_then is AfterDeadline.ABORT:
        raise Failed(
            f"{vm} did not shut down within {run.policy.shutdown_deadline} s, and the policy says abort",
            code="shutdown_deadline",
            hint="shut it down by hand, or allow `shutdown_then: power-off`",
        )
    run.progress(message=f"{vm} did not shut down in time: hard power-off by policy")
    source.power_off(vm)


def power_on_source(run: Run) -> None:
    """Needs only the proof that the recovered VM does not run: also when the replica cannot be repaired."""
    before = run.load("source_power", SourcePower)
    if before is None:
        return
    _require_stopped(run)
    run.source.set_autostart(run.target.source_vm, before.autostart)
    if before.power is not PowerState.OFF:
        run.source.power_on(run.target.source_vm)


def _require_stopped(run: Run) -> None:
    if recovered_vm_runs(run):
        raise Failed(
            f"{run.vm} still runs as the recovered VM: the source is not powered on beside it",
            code="recovered_vm_runs",
            hint=f"stop {run.vm} on the destination, then resume the rollback",
        )


def recovered_vm_runs(run: Run) -> bool:
    """True when the destination VM runs from the replica. With the controller's own disk in front it is
    the controller, whatever its power state."""
    if run.destination.power_state(run.vm) is PowerState.OFF:
        return False
    replicas = {disk.serial for disk in run.target.disks}
    return run.destination.hardware(run.vm).disks[0].serial in replicas


# ---------------------------------------------------------------- 3 fence


def source_limitation(run: Run) -> str | None:
    """Why the source may be running, for all that can be known now; None where it does not."""
    vm = run.target.source_vm
    try:
        power = run.source.power_state(vm)
    except Unreachable as error:
        if run.mode is Mode.EMERGENCY and override(run):
            return None
        return f"whether the source {vm} runs cannot be known: {error.message}"
    return None if power is PowerState.OFF else f"the source {vm} is {power}"


def override(run: Run) -> OperatorDecision | None:
    """The operator's word that the source does not run, given when the job was started."""
    return run.load("override", OperatorDecision)


def fence(run: Run) -> None:
    """Raises Failed where the source runs or may run. A source that can be reached is kept from starting by
    itself."""
    reason = source_limitation(run)
    if reason is not None:
        raise not_fenced(reason, Failed)
    vm, source = run.target.source_vm, run.source
    try:
        power = source.power_state(vm)
        run.once("source_power", SourcePower, lambda: SourcePower(power, source.autostart(vm)))
        source.set_autostart(vm, False)
    except Unreachable as error:
        run.save("fence", Fence(now(), "", override(run)))
        run.progress(message=f"{error.message}: the operator's word stands for its proof")
        return
    run.save("fence", Fence(now(), f"the platform of {vm} says: {power}"))


def not_fenced(reason: str, kind: type[RefloatError]) -> RefloatError:
    return kind(
        f"{reason}: an emergency failover could run it twice",
        code="not_fenced",
        hint="use a planned failover; or, where nobody answers there and you know that it is off, start "
        "the emergency failover again with --source-is-off REASON",
    )


def unfence(run: Run) -> None:
    """The source starts by itself again if it did. It is not started now: it was off before."""
    before = run.load("source_power", SourcePower)
    if before is None:
        return
    _require_stopped(run)
    run.source.set_autostart(run.target.source_vm, before.autostart)


# ---------------------------------------------------------------- while the operator decides


def watch_source(run: Run) -> None:
    """A source that came back is said once; what follows is the operator's to decide, and commit refuses as
    long as it runs. Silence there is no news."""
    try:
        power = run.source.power_state(run.target.source_vm)
    except RefloatError:
        return
    back = power is not PowerState.OFF
    if back != (run.load("source_back", bool) or False):
        run.save("source_back", back)
        word = f"is {power}: the VM runs on both sides" if back else "is off again"
        run.store.emit(run.job, "source", {"message": f"the source {run.target.source_vm} {word}"})
