"""What steps 1 and 6 do for a Windows guest besides: choose its drivers, say why not, and send them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from refloat import drivers, windows
from refloat.errors import Refused
from refloat.model import DriverChoice, GuestFacts, Mode, Plan, PowerState, SourceVM
from refloat.policy import AdaptChoice
from refloat.run import Run


def choose_drivers(run: Run, facts: GuestFacts) -> DriverChoice | str:
    """The drivers for a Windows guest out of the operator's set, or why there are none."""
    if facts.windows is None or run.policy.adapt is AdaptChoice.NEVER:
        return "not needed"
    if run.drivers is None:
        return (
            "no driver set is configured: set `drivers` in the hub's settings to a virtio-win ISO or to a"
            " folder with its files, and restart the hub"
        )
    try:
        return drivers.choose(run.drivers, facts.windows.version, facts.windows.architecture)
    except Refused as error:
        return f"{error.message}: {error.hint}"


def about_windows(
    run: Run, source: SourceVM, facts: GuestFacts, chosen: DriverChoice | str
) -> tuple[list[str], list[str]]:
    """Why a Windows guest is not adapted, and what its operator should know."""
    if facts.windows is None:
        return [], []
    policy, one = run.policy, facts.windows
    windows.online_disks(source, policy.windows.online_shared)
    source_runs = run.mode is Mode.PLANNED and _source_runs(run)
    said = windows.warnings(one, policy.windows, source_runs)
    said += chosen.warnings if isinstance(chosen, DriverChoice) else ()
    args = (policy.disk_bus, policy.nic_model)
    return windows.refusals(one, policy.windows, *args, chosen, source_runs), said


def _source_runs(run: Run) -> bool:
    return run.source.power_state(run.target.source_vm) is not PowerState.OFF


def send_drivers(run: Run, plan: Plan) -> str:
    """The controller's folder with the plan's drivers, sent where it does not have them; "" without any.

    They are taken from the set anew, which must not have changed since the plan was made."""
    chosen, one = plan.drivers, plan.facts.windows
    if chosen is None or one is None:
        return ""
    version, origin = one.version, run.drivers

    def contents() -> Mapping[str, bytes]:
        if origin is None:
            raise Refused(
                "the driver set is no longer configured", code="drivers_source", hint="set `drivers`"
            )
        with tempfile.TemporaryDirectory(dir=run.directory) as scratch:
            drivers.extract(origin, chosen, version, Path(scratch))
            return {file.path: (Path(scratch) / file.path).read_bytes() for file in chosen.files}

    return run.controller.drivers(chosen.files, contents)
