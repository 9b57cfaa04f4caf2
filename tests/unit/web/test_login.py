"""Logging in: what is said, what is kept, and how often may be tried."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from refloat.access import Role
from refloat.api.app import create_app
from refloat.api.door import COOKIE
from refloat.web import install
from tests.unit.api.fake_hub import TOKEN, FakeHub

BASE = "http://127.0.0.1:8410"
PASSWORD = "a long enough sentence"


@pytest.fixture
def hub() -> FakeHub:
    hub = FakeHub()
    hub.people.add_user("anna", Role.OPERATOR, PASSWORD)
    return hub


@pytest.fixture
def client(hub: FakeHub) -> TestClient:
    app = create_app(hub.hub, TOKEN)
    install(app)
    return TestClient(app, base_url=BASE, headers={"origin": BASE}, follow_redirects=False)


def try_with(client: TestClient, name: str, password: str) -> int:
    answer = client.post("/login", data={"name": name, "password": password})
    return int(answer.status_code)


def test_a_login_sets_one_cookie_that_scripts_cannot_read(client: TestClient, hub: FakeHub) -> None:
    client.cookies.set(COOKIE, "planted")
    answer = client.post("/login", data={"name": "Anna ", "password": PASSWORD})
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "planted" not in cookie
    assert hub.audit.entries()[0].what == "login"


def test_over_tls_the_cookie_never_leaves_it(hub: FakeHub) -> None:
    app = create_app(hub.hub, TOKEN)
    install(app)
    base = BASE.replace("http:", "https:")
    client = TestClient(app, base_url=base, headers={"origin": base}, follow_redirects=False)
    answer = client.post("/login", data={"name": "anna", "password": PASSWORD})
    assert "Secure" in answer.headers["set-cookie"] and "strict-transport-security" in answer.headers


@pytest.mark.parametrize(("name", "password"), [("anna", "wrong"), ("nobody", PASSWORD), ("", "")])
def test_what_was_wrong_is_not_told(client: TestClient, hub: FakeHub, name: str, password: str) -> None:
    answer = client.post("/login", data={"name": name, "password": password})
    assert answer.status_code == 401 and "The name or the password is wrong." in answer.text
    assert "set-cookie" not in answer.headers and hub.audit.entries()[0].what == "login-failed"
    assert PASSWORD not in str(hub.audit.entries())


def test_another_sites_form_logs_nobody_in(client: TestClient) -> None:
    data = {"name": "anna", "password": PASSWORD}
    answer = client.post("/login", data=data, headers={"origin": "http://evil.example"})
    assert answer.status_code == 401


def test_guessing_is_slowed_down(client: TestClient) -> None:
    assert [try_with(client, "anna", "wrong") for _ in range(5)] == [401] * 5
    answer = client.post("/login", data={"name": "anna", "password": PASSWORD})
    assert answer.status_code == 429 and "Too many tries" in answer.text


def test_who_has_to_wait_counts_for_no_name(client: TestClient, hub: FakeHub) -> None:
    """Else one address locks everybody out, or makes the limits of others, and its own, forgotten."""
    for name in ("x1", "x2", "x3", "x4", "x5"):
        assert try_with(client, name, "wrong") == 401
    assert {try_with(client, "anna", PASSWORD) for _ in range(8)} == {429}
    elsewhere = TestClient(
        client.app, base_url=BASE, headers={"origin": BASE}, follow_redirects=False, client=("192.0.2.7", 1)
    )
    assert try_with(elsewhere, "anna", PASSWORD) == 303


def test_the_addresses_of_one_network_are_one(client: TestClient) -> None:
    codes = []
    for number in range(7):
        one = TestClient(
            client.app, base_url=BASE, headers={"origin": BASE}, client=(f"2001:db8:0:1::{number}", 1)
        )
        codes.append(try_with(one, f"name{number}", "wrong"))
    assert codes == [401] * 5 + [429] * 2


def test_a_success_forgives_the_typing_errors(client: TestClient) -> None:
    for _ in range(3):
        assert [try_with(client, "anna", "wrong") for _ in range(3)] == [401] * 3
        assert try_with(client, "anna", PASSWORD) == 303


def test_a_name_is_shown_as_text(client: TestClient) -> None:
    answer = client.post("/login", data={"name": '"><script>alert(1)</script>', "password": "x"})
    assert "<script>alert" not in answer.text


def test_the_first_user_is_told_how(client: TestClient) -> None:
    app = create_app(FakeHub().hub, TOKEN)
    install(app)
    assert "refloat user add NAME" in TestClient(app, base_url=BASE).get("/login").text
    assert "refloat user add NAME" not in client.get("/login").text


def test_a_person_is_led_to_the_form_and_a_program_is_told(client: TestClient) -> None:
    page = client.get("/jobs", headers={"accept": "text/html"})
    assert page.status_code == 303 and page.headers["location"] == "/login"
    assert client.get("/api/v1/jobs").status_code == 401
    part = client.get("/jobs", headers={"accept": "text/html", "hx-request": "true"})
    assert part.status_code == 401 and part.headers["hx-redirect"] == "/login"
