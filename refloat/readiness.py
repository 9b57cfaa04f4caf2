"""Readiness: what a failover would meet, looked at after each sync, so that trouble is known beforehand."""

from __future__ import annotations

from dataclasses import replace

from refloat.clock import now
from refloat.errors import RefloatError, Unreachable
from refloat.model import Action, Plan, Readiness
from refloat.policy import MacPolicy
from refloat.prepare import OVERLAY_RESERVE, cpu_level, inspect, inventory, make_plan, require_room, wanted
from refloat.run import Run


def assess(run: Run) -> tuple[Readiness, Plan | None]:
    """What a planned failover of the target would meet now: preflight's own checks, on copy-on-write views
    of the replica; with the plan, where one could be made. `run` belongs to no job: nothing is saved.
    Raises Unreachable where a side is silent."""
    point = run.store.target(run.target.name).sync_point
    name = point.id if point else ""
    # A new MAC would be chosen for good; which one does not matter here.
    run = replace(run, policy=replace(run.policy, mac=MacPolicy.KEEP))
    try:
        run.destination.require_devices(run.policy.disk_bus, run.policy.nic_model)
        require_room(run, OVERLAY_RESERVE)
        source = inventory(run)
        plan = make_plan(run, source, inspect(run, source), cpu_level(run))
        found = run.destination.check(run.vm, *wanted(run, plan))
    except Unreachable:
        raise
    except RefloatError as error:
        return Readiness(now(), name, False, (str(error),)), None
    ready = plan.decision.action is not Action.REFUSE and not found.reasons
    reasons = (*plan.decision.reasons, *found.reasons)
    return Readiness(now(), name, ready, reasons, (*plan.warnings, *found.warnings)), plan
