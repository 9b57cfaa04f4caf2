"""The live part of a job's page, rendered once for all who look at it with the same rights."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from fastapi import Request

from refloat.access import Principal
from refloat.api.common import hub_of
from refloat.api.door import principal_of
from refloat.web import views
from refloat.web.render import html

if TYPE_CHECKING:
    from refloat.hub import Hub

_MOST = 64  # panels that are kept


class Panels:
    def __init__(self) -> None:
        self._known: OrderedDict[object, str] = OrderedDict()
        self._rendering = threading.Lock()  # however many ask at the same moment, it is done once

    def of(self, hub: Hub, who: Principal, job: str, newest: int) -> str:
        """As of the job's event `newest`."""
        key = (job, newest, who.role, who.scopes)
        with self._rendering:
            if key not in self._known:
                self._known[key] = html("job_panel.html.j2", {"who": who, **views.job_panel(hub, job)})
                while len(self._known) > _MOST:
                    self._known.popitem(last=False)
            return self._known[key]


def panel_of(request: Request, job: str, newest: int) -> str:
    panels = request.app.state.panels
    assert isinstance(panels, Panels)
    return panels.of(hub_of(request), principal_of(request), job, newest)
