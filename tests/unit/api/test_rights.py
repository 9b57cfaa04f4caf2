"""Every endpoint against every role and way in: who may, who may not, and that nothing was forgotten."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from refloat.access import Permission, Role
from refloat.api.app import ROUTERS, create_app
from refloat.api.door import COOKIE, CSRF_HEADER, Needs
from refloat.api.guard import OPEN_PATHS
from tests.unit.api.fake_hub import TOKEN, FakeHub

BASE = "http://127.0.0.1:8410"
PASSWORD = "a long enough sentence"

# What each endpoint asks for: (method, path) -> permission. A route that is not here fails the test below.
V1 = "/api/v1"
WANTED = {
    ("GET", f"{V1}/me"): Permission.LOOK,
    ("GET", f"{V1}/targets"): Permission.LOOK,
    ("GET", f"{V1}/targets/{{name}}"): Permission.LOOK,
    ("GET", f"{V1}/targets/{{name}}/plan"): Permission.LOOK,
    ("POST", f"{V1}/targets/{{name}}/sync"): Permission.REPLICATE,
    ("POST", f"{V1}/targets/{{name}}/provision"): Permission.ESTATE,
    ("POST", f"{V1}/targets/{{name}}/remove"): Permission.ESTATE,
    ("POST", f"{V1}/targets/{{name}}/pause"): Permission.REPLICATE,
    ("POST", f"{V1}/targets/{{name}}/resume"): Permission.REPLICATE,
    ("POST", f"{V1}/targets/{{name}}/failover"): Permission.FAILOVER,
    ("GET", f"{V1}/jobs"): Permission.LOOK,
    ("GET", f"{V1}/jobs/{{job_id}}"): Permission.LOOK,
    ("GET", f"{V1}/jobs/{{job_id}}/events"): Permission.LOOK,
    ("GET", f"{V1}/jobs/{{job_id}}/stream"): Permission.LOOK,
    ("GET", f"{V1}/jobs/{{job_id}}/evidence"): Permission.LOOK,
    ("GET", f"{V1}/jobs/{{job_id}}/evidence.html"): Permission.LOOK,
    ("POST", f"{V1}/jobs/{{job_id}}/abort"): Permission.FAILOVER,
    ("POST", f"{V1}/jobs/{{job_id}}/commit"): Permission.DECIDE,
    ("POST", f"{V1}/jobs/{{job_id}}/rollback"): Permission.DECIDE,
    ("POST", f"{V1}/jobs/{{job_id}}/resume"): Permission.DECIDE,
    ("GET", f"{V1}/users"): Permission.ACCESS,
    ("POST", f"{V1}/users"): Permission.ACCESS,
    ("PATCH", f"{V1}/users/{{name}}"): Permission.ACCESS,
    ("GET", f"{V1}/tokens"): Permission.LOOK,
    ("POST", f"{V1}/tokens"): Permission.LOOK,
    ("DELETE", f"{V1}/tokens/{{id}}"): Permission.LOOK,
    ("GET", f"{V1}/secrets"): Permission.ESTATE,
    ("PUT", f"{V1}/secrets/{{name}}"): Permission.ESTATE,
    ("DELETE", f"{V1}/secrets/{{name}}"): Permission.ESTATE,
    ("GET", f"{V1}/estate"): Permission.ESTATE,
    ("PUT", f"{V1}/estate"): Permission.ESTATE,
    ("POST", f"{V1}/estate/diff"): Permission.ESTATE,
    ("GET", f"{V1}/estate/versions"): Permission.LOOK,
    ("GET", f"{V1}/estate/versions/{{number}}"): Permission.ESTATE,
    ("GET", f"{V1}/channels"): Permission.AUDIT,
    ("POST", f"{V1}/channels/{{name}}/test"): Permission.ESTATE,
    ("GET", f"{V1}/metrics"): Permission.LOOK,
    ("GET", f"{V1}/audit"): Permission.AUDIT,
    ("GET", f"{V1}/audit/verify"): Permission.AUDIT,
}
OPEN = {("GET", path) for path in OPEN_PATHS}


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def app(hub: FakeHub) -> Any:
    return create_app(hub.hub, TOKEN)


def client_of(app: Any, token: str = "") -> TestClient:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return TestClient(app, base_url=BASE, headers=headers, raise_server_exceptions=False)


def test_every_endpoint_is_in_the_table(app: Any) -> None:
    known = {(method.upper(), path) for path, one in app.openapi()["paths"].items() for method in one}
    assert known - OPEN == set(WANTED)


def test_every_endpoint_asks_for_what_the_table_says() -> None:
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute) and route.methods
            needs = [one.call for one in route.dependant.dependencies]
            asked = {need.permission for need in needs if isinstance(need, Needs)}
            for method in route.methods:
                assert asked == {WANTED[(method, route.path)]}, route.path


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("method", "path"), sorted(WANTED))
def test_the_matrix(hub: FakeHub, app: Any, role: Role, method: str, path: str) -> None:
    """Whoever may not gets 403 and nothing changes; whoever may gets any other answer."""
    hub.people.add_user("anna", role)
    _, token = hub.people.issue_token("anna", "for tests", days=1)
    url = path.format(name="web", job_id="web-abc123", id="none", number=1)
    client = client_of(app, token)
    if path.endswith("/stream"):
        url = url.replace("web-abc123", "unknown")  # a stream of a job that is there does not end
    answer = client.request(method, url, json={} if method != "GET" else None)
    permission = WANTED[(method, path)]
    allowed = {
        Permission.LOOK: True,
        Permission.AUDIT: role is not Role.VIEWER,
        Permission.ACCESS: role is Role.ADMIN,
        Permission.ESTATE: role is Role.ADMIN,
    }.get(permission, role is not Role.VIEWER)
    assert (answer.status_code != 403) == allowed, answer.text
    assert answer.status_code < 500, answer.text
    if not allowed:
        assert answer.json()["code"] == "forbidden" and not hub.calls


def test_nobody_is_told_nothing(app: Any) -> None:
    for method, path in WANTED:
        answer = client_of(app).request(method, path.format(name="web", job_id="x", id="y", number=1))
        assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize(
    "path", ["/api/v1/%2e%2e/health", "/static/../api/v1/users", "/static/%2e%2e/%2e%2e/etc/passwd"]
)
def test_no_path_leads_past_the_door(app: Any, path: str) -> None:
    assert client_of(app).get(path).status_code in (401, 404)


def test_the_overrides_right_is_asked_for_besides(hub: FakeHub, app: Any) -> None:
    hub.people.add_user("anna", Role.OPERATOR)
    _, token = hub.people.issue_token("anna", "for tests", days=1, scopes=[Permission.FAILOVER])
    body = {"mode": "emergency", "source_is_off": "I pulled the plug"}
    answer = client_of(app, token).post(f"{V1}/targets/web/failover", json=body)
    assert answer.status_code == 403 and not hub.by_id


def test_a_token_makes_no_wider_one(hub: FakeHub, app: Any) -> None:
    hub.people.add_user("anna", Role.ADMIN)
    _, narrow = hub.people.issue_token("anna", "n", days=1, role=Role.OPERATOR, scopes=[Permission.LOOK])
    client = client_of(app, narrow)
    assert client.post(f"{V1}/tokens", json={"label": "x", "days": 1, "role": "admin"}).status_code == 403
    made = client.post(f"{V1}/tokens", json={"label": "x", "days": 1, "scopes": ["decide", "look"]}).json()
    assert (made["role"], made["scopes"]) == ("operator", ["look"])
    assert client.post(f"{V1}/tokens", json={"label": "x", "days": 1}).json()["scopes"] == ["look"]


# ---------------------------------------------------------------- sessions


def test_a_narrow_token_makes_none_of_everything(hub: FakeHub, app: Any) -> None:
    """It asked for what it has not: what was left of that, nothing, stood for all of the role."""
    hub.people.add_user("anna", Role.ADMIN)
    token = hub.people.issue_token("anna", "monitoring", 1, scopes=[Permission.LOOK])[1]
    with client_of(app, token) as client:
        answer = client.post(f"{V1}/tokens", json={"label": "x", "days": 1, "scopes": ["access"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert len(hub.people.tokens()) == 1


def test_a_token_makes_none_that_outlives_it(hub: FakeHub, app: Any) -> None:
    for name in ("anna", "ben"):
        hub.people.add_user(name, Role.ADMIN)
    info, token = hub.people.issue_token("anna", "for a day", 1)
    with client_of(app, token) as client:
        for owner in ("anna", "ben"):
            answer = client.post(f"{V1}/tokens", json={"label": "x", "days": 366, "owner": owner})
            assert (answer.status_code, answer.json()["expires"]) == (201, info.expires)


def test_a_narrow_token_revokes_no_wider_one(hub: FakeHub, app: Any) -> None:
    hub.people.add_user("anna", Role.ADMIN)
    wide = hub.people.issue_token("anna", "wide", 1)[0]
    for role, scopes in ((Role.ADMIN, [Permission.LOOK]), (Role.VIEWER, [])):
        narrow, token = hub.people.issue_token("anna", "narrow", 1, role, scopes)
        with client_of(app, token) as client:
            assert client.delete(f"{V1}/tokens/{wide.id}").status_code == 403
            assert client.delete(f"{V1}/tokens/{narrow.id}").status_code == 200


@pytest.fixture
def session(hub: FakeHub) -> tuple[str, str]:
    hub.people.add_user("anna", Role.OPERATOR, PASSWORD)
    session = hub.people.log_in("anna", PASSWORD)
    assert session is not None
    return session.cookie, session.csrf


def test_a_session_looks_and_its_own_page_acts(hub: FakeHub, app: Any, session: tuple[str, str]) -> None:
    client = client_of(app)
    client.cookies.set(COOKIE, session[0])
    assert client.get(f"{V1}/me").json()["name"] == "anna"
    good = {CSRF_HEADER: session[1], "origin": BASE}
    assert client.post(f"{V1}/targets/web/pause", headers=good).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {CSRF_HEADER: "guessed"},
        {"origin": BASE},
        {CSRF_HEADER: "{csrf}", "origin": "http://evil.example"},
        {CSRF_HEADER: "{csrf}", "origin": "null"},
    ],
)
def test_another_page_cannot_act(
    hub: FakeHub, app: Any, session: tuple[str, str], headers: dict[str, str]
) -> None:
    client = client_of(app)
    client.cookies.set(COOKIE, session[0])
    given = {name: value.format(csrf=session[1]) for name, value in headers.items()}
    answer = client.post(f"{V1}/targets/web/pause", headers=given)
    assert answer.status_code == 403 and answer.json()["code"] == "csrf"
    assert not hub.known["web"].paused


def test_a_cookie_that_was_planted_is_nobody(app: Any) -> None:
    client = client_of(app)
    client.cookies.set(COOKIE, "planted")
    assert client.get(f"{V1}/me").status_code == 401


def test_every_answer_is_hardened(app: Any) -> None:
    for path in (f"{V1}/health", f"{V1}/targets", "/nothing"):
        headers = client_of(app, TOKEN).get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
        assert "unsafe" not in headers["content-security-policy"]


# ---------------------------------------------------------------- slow and false bodies


def test_a_body_that_does_not_come_is_not_waited_for(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refloat.api.guard.BODY_WITHIN", 0.05)
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        return {}

    async def send(message: Any) -> None:
        said.append(message)

    headers = {"host": "127.0.0.1", "authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": f"{V1}/users",
        "raw_path": b"",
        "query_string": b"",
        "scheme": "http",
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
        "http_version": "1.1",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def ask() -> None:
        with anyio.fail_after(20):
            await app(scope, receive, send)

    anyio.run(ask)
    assert said[0]["status"] == 408


@pytest.mark.parametrize("length", ["\u00b2", "-1", "1e3", "9" * 5000])
def test_a_length_that_is_no_number_is_refused(app: Any, length: str) -> None:
    headers = {"content-length": length.encode("latin-1"), "content-type": "application/json"}
    with client_of(app, TOKEN) as client:
        assert client.post(f"{V1}/users", headers=headers, content=b"{}").status_code == 413
