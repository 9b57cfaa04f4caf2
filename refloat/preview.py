"""What a failover would do, kept on the target: the plan of the last look, and the changes in the guest.

The changes are worked out by an adaptation on copy-on-write views, which takes the controller a while: only
when what they follow from is another than last time. The plan for a mode is made from the same facts, with
no question to anybody.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from refloat import __version__
from refloat.adapt import request_of
from refloat.clock import now
from refloat.codec import DecodeError, decode, encode
from refloat.durable import write_durably
from refloat.errors import NotFound, RefloatError
from refloat.model import Action, AdaptRequest, Decision, Mode, Plan, PlannedNic, Preview, Secrets
from refloat.policy import MacPolicy, Policy, Probe
from refloat.prepare import planned_nics
from refloat.run import Networks, Run
from refloat.text import span

log = logging.getLogger(__name__)

_LARGEST = 4 << 20  # bytes of a kept preview
_JOB = "preview"  # names no job: the request of a look


def look(run: Run, point: str, plan: Plan, directory: Path, saying: Callable[[str], None]) -> None:
    """Keeps what a failover of `point` would do. A guest whose changes could not be worked out is no
    trouble for its replica: the reason is kept instead."""
    found = Preview(now(), point, replace(plan, callback=None))
    if plan.decision.action is Action.ADAPT:
        known = kept(directory)
        try:
            request = request_of(run, plan, _JOB, Secrets(secrets.token_hex(24), secrets.token_hex(16)))
            found = replace(found, basis=_basis(request, plan))
            if known and known.basis == found.basis and known.intended:
                found = replace(found, intended=known.intended, intended_at=known.intended_at)
            else:
                saying("working out what would be changed in the guest")
                intended = run.controller.intend(request, plan.facts)
                found = replace(found, intended=intended, intended_at=now())
        except RefloatError as error:
            log.warning("preview of %s: %s", run.target.name, error)
            found = replace(found, trouble=str(error))
    directory.mkdir(parents=True, exist_ok=True)
    write_durably(_file(directory), json.dumps(encode(found)).encode())


def kept(directory: Path) -> Preview | None:
    """The last preview; None where there is none, or none that this release can read."""
    file = _file(directory)
    with suppress(OSError, ValueError, DecodeError):
        if file.stat().st_size <= _LARGEST:
            return decode(Preview, json.loads(file.read_bytes()))
    return None


def drop(directory: Path) -> None:
    """The replica is another than that which was looked into."""
    _file(directory).unlink(missing_ok=True)


@dataclass(frozen=True)
class PlanAhead:
    """`known` for one mode: its decision, adapters (a MAC is empty where it is chosen at the start) and
    `needs`, what the verdict asks for before it says `succeeded`."""

    known: Preview
    mode: Mode
    decision: Decision
    nics: tuple[PlannedNic, ...]
    needs: tuple[str, ...]


def plan_ahead(name: str, known: Preview | None, mode: Mode, networks: Networks, policy: Policy) -> PlanAhead:
    """Pure. Raises NotFound where nothing was looked at, Refused where a network is mapped to none."""
    if known is None:
        raise NotFound(
            f"what a failover of {name} would do is not known",
            code="no_plan",
            hint="it is worked out after each sync: start one, or see why the last one's look failed",
        )
    keeps = policy.mac is MacPolicy.KEEP
    plan = known.plan
    nics = planned_nics(networks, mode, policy, plan.source, plan.facts, lambda mac: mac if keeps else "")
    return PlanAhead(known, mode, plan.decision, nics, needs(plan, mode, policy))


def needs(plan: Plan, mode: Mode, policy: Policy) -> tuple[str, ...]:
    """What the verdict asks for before it says `succeeded`, in words."""
    staged = plan.decision.action is Action.ADAPT
    by = f"reports from inside the guest, of this very boot, within {span(plan.report_deadline)} of its start"
    outside = "evidence from outside (guest agent, probes): nothing is staged in the guest"
    optional = "; gateway and name servers may be absent in a test" if mode is Mode.TEST else ""
    said = [
        "" if mode is Mode.TEST else "source: off, by its platform's word or an operator's",
        f"boot: running and stable, and {by if staged else outside}",
        f"disks: {len(plan.disks)}, attached in this order, their filesystems mounted",
        f"network: {len(plan.nics)} linked where planned, with the planned addresses{optional}",
        "drivers in use and first-boot files gone" if staged else "",
        *(f"probe: {_probe(one)}" for one in policy.probes),
    ]
    return tuple(filter(None, said))


def _probe(probe: Probe) -> str:
    where = probe.address or "each planned static address"
    what = probe.name or (f"{probe.kind} to {where}" + (f" port {probe.port}" if probe.port else ""))
    return what if probe.required else f"{what} (optional)"


def _basis(request: AdaptRequest, plan: Plan) -> str:
    """A hash of all that the changes follow from, but the secrets."""
    open_request = replace(request, secrets=Secrets("", ""), luks_keys={})
    data = [__version__, encode(open_request), encode(plan.facts)]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _file(directory: Path) -> Path:
    return directory / "preview.json"
