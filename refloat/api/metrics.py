"""What a monitoring system asks: Prometheus's text format, with a token that may look."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from refloat import __version__
from refloat.api.common import PROBLEMS, hub_of
from refloat.api.door import Looks
from refloat.model import JobState, TargetState, Word

if TYPE_CHECKING:
    from refloat.hub import Hub

router = APIRouter(prefix="/api/v1", tags=["hub"], responses=PROBLEMS)
_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


@router.get(
    "/metrics",
    summary="Figures for monitoring, in Prometheus's text format",
    response_class=Response,
    responses={200: {"content": {_FORMAT: {}}, "description": "Gauges, as of now"}},
)
def metrics(request: Request, _: Looks) -> Response:
    registry = CollectorRegistry()
    registry.register(_Figures(hub_of(request)))
    return Response(generate_latest(registry), media_type=_FORMAT)


class _Figures(Collector):
    """Read from the store when they are asked for: they are right after a restart too."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def collect(self) -> Iterable[Metric]:
        hub, summaries = self._hub, self._hub.summaries
        yield _one("refloat_up", "1 while the hub can do its work", 0 if hub.troubles() else 1)
        yield _by("refloat_build", "The version", "version", {__version__: 1})
        targets = summaries.targets_by_state(tuple(hub.estate.targets))
        yield _by("refloat_targets", "Targets by state", "state", _all(TargetState, targets))
        yield _by("refloat_jobs", "Jobs by state", "state", _all(JobState, summaries.jobs_by_state()))
        yield _by("refloat_verdicts", "Jobs by verdict", "verdict", _all(Word, summaries.jobs_by_verdict()))
        yield _notices(hub)
        known = [(target, hub.replication_of(target)) for target in hub.targets()]
        ages = {target.name: found.age for target, found in known if found.age is not None}
        yield _by("refloat_replica_age_seconds", "Age of the last complete sync point", "target", ages)
        late = {target.name: float(found.late) for target, found in known}
        yield _by("refloat_replica_late", "1 where the age is above the policy's aim", "target", late)
        ready = {target.name: float(target.readiness.ready) for target, _ in known if target.readiness}
        yield _by("refloat_ready", "1 where a failover now would not be refused", "target", ready)


def _notices(hub: Hub) -> Metric:
    text = "Notices that still wait, and that were given up in the last 30 days"
    family = GaugeMetricFamily("refloat_notices", text, labels=["channel", "state"])
    for one in hub.courier.statuses():
        family.add_metric([one.name, "waiting"], one.tally.waiting)
        family.add_metric([one.name, "given_up"], one.tally.given_up)
    return family


def _all(states: Iterable[str], counts: dict[str, int]) -> dict[str, float]:
    """Zero for states without any: a series that is absent cannot raise an alarm."""
    return {str(state): counts.get(str(state), 0) for state in states}


def _one(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _by(name: str, text: str, label: str, values: dict[str, float] | dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
