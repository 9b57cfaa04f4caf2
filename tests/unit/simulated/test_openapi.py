"""Whatever is asked of the API: no failure of the hub's own, and every answer as its document says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.responses import JSONResponse
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import positive_data_acceptance

from refloat.access import Role
from refloat.api.app import create_app
from refloat.model import Mode
from refloat.simulated.world import Protected
from tests.unit.api.fake_hub import TOKEN, FakeHub
from tests.unit.simulated.rig import Site

ONE, TWO = Protected(1), Protected(2)
HEADERS = {"authorization": f"Bearer {TOKEN}"}
# It never ends by itself: tests/unit/api/test_stream.py reads it.
ENDLESS = "/stream"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real hub with a target that is ready, a job that is over, a user and a token."""
    site = Site(tmp_path_factory.mktemp("openapi"), ONE, TWO)
    site.sync(ONE)
    site.roll_back(site.fail_over(ONE, Mode.TEST))
    site.hub.people.add_user("anna", Role.OPERATOR)
    site.hub.people.issue_token("anna", "for tests", days=1)
    yield create_app(site.hub, TOKEN, hosts=("testserver",))
    site.close()


DOCUMENT = create_app(FakeHub().hub, TOKEN).openapi()
OPERATIONS = [
    (path, method)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if not path.endswith(ENDLESS)
]


def operation(app: Any, path: str, method: str, document: dict[str, Any] = DOCUMENT) -> Any:
    schema = schemathesis.openapi.from_dict(document)
    schema.app = app
    return schema[path][method.upper()]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_it_answers_as_it_says(app: Any, path: str, method: str) -> None:
    @settings(max_examples=15, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(case=operation(app, path, method).as_strategy())
    def ask(case: Any) -> None:
        answer = case.call(headers=HEADERS)
        case.validate_response(answer, headers=HEADERS, excluded_checks=[positive_data_acceptance])

    ask()


def test_the_check_can_fail(app: Any) -> None:
    """A route with a defect is found out: the test above is worth something."""

    app.add_api_route("/api/v1/defect", lambda: JSONResponse({}, status_code=500), methods=["GET"])

    document = {
        "openapi": "3.1.0",
        "info": {"title": "t", "version": "1"},
        "paths": {"/api/v1/defect": {"get": {"responses": {"200": {"description": "ok"}}}}},
    }
    case = operation(app, "/api/v1/defect", "get", document).Case()
    with pytest.raises(FailureGroup) as caught:
        case.call_and_validate(headers=HEADERS, checks=[not_a_server_error])
    assert "Server error" in str(caught.value.exceptions)
