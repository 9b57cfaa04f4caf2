"""Every route of the page: nobody gets in without a login, and a viewer changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from refloat.access import Role
from refloat.api.app import create_app
from refloat.api.door import COOKIE, CSRF_HEADER
from refloat.api.guard import OPEN_PATHS
from refloat.web import access, actions, install, live, pages, session
from tests.unit.api.fake_hub import TOKEN, FakeHub

BASE = "http://127.0.0.1:8410"
PASSWORD = "a long enough sentence"
PARTS = (session.router, pages.router, live.router, actions.router, access.router)
ROUTES = sorted(
    (method, route.path)
    for part in PARTS
    for route in part.routes
    if isinstance(route, APIRoute) and route.path not in OPEN_PATHS
    for method in route.methods or ()
)
# A viewer may: end the own session, make an own token and revoke it.
OWN = {"/logout", "/access/tokens", "/access/tokens/{id}/revoke"}
BEYOND = {"/audit", "/targets/{name}/failover/{mode}"}  # looked at by operators alone


@pytest.fixture
def hub() -> FakeHub:
    made = FakeHub()
    made.people.add_user("vera", Role.VIEWER, PASSWORD)
    return made


@pytest.fixture
def client(hub: FakeHub) -> TestClient:
    app = create_app(hub.hub, TOKEN)
    install(app)
    return TestClient(app, base_url=BASE, follow_redirects=False, raise_server_exceptions=False)


def filled(path: str) -> str:
    values = {
        "name": "web",
        "mode": "test",
        "job_id": "web-1",
        "what": "commit",
        "file": "1-a.png",
        "id": "x",
    }
    return path.format(**values)


def test_nobody_gets_in(client: TestClient) -> None:
    assert len(ROUTES) >= 20
    for method, path in ROUTES:
        assert client.request(method, filled(path)).status_code == 401, (method, path)


def test_a_viewer_changes_nothing(client: TestClient, hub: FakeHub) -> None:
    shown = hub.people.log_in("vera", PASSWORD)
    assert shown is not None
    client.cookies.set(COOKIE, shown.cookie)
    form: dict[str, Any] = {"key": "12345678", "confirmed": "yes", "name": "x", "role": "admin"}
    for method, path in ROUTES:
        if (method == "GET" and path not in BEYOND) or path in OWN:
            continue
        headers = {CSRF_HEADER: shown.csrf, "origin": BASE}
        answer = client.request(method, filled(path), data=form, headers=headers)
        assert answer.status_code == 403, (method, path, answer.text)
        if method != "GET":
            assert client.request(method, filled(path), data=form).status_code == 403
    assert not hub.by_id and len(hub.people.users()) == 1


def test_no_form_works_without_the_pages_secret(client: TestClient, hub: FakeHub) -> None:
    hub.people.add_user("ada", Role.ADMIN, PASSWORD)
    shown = hub.people.log_in("ada", PASSWORD)
    assert shown is not None
    client.cookies.set(COOKIE, shown.cookie)
    for method, path in ROUTES:
        if method != "GET":
            answer = client.request(method, filled(path), headers={"hx-request": "true"})
            assert (answer.status_code, answer.json()["code"]) == (403, "csrf"), path
