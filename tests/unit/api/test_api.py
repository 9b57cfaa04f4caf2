"""The API in front of a hub in memory: who gets in, what comes back, and how it says no."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from refloat.api.app import create_app
from refloat.api.guard import MAX_BODY, OPEN_PATHS, host_allowed
from refloat.model import JobState
from tests.unit.api.fake_hub import TOKEN, FakeHub


def client_of(hub: FakeHub, **headers: str) -> TestClient:
    app = create_app(hub.hub, TOKEN, hosts=("hub.example",))
    given = {"authorization": f"Bearer {TOKEN}", **headers}
    return TestClient(app, base_url="http://127.0.0.1:8410", headers=given, raise_server_exceptions=False)


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def client(hub: FakeHub) -> TestClient:
    return client_of(hub)


def problem_of(answer: Any, status: int) -> dict[str, str]:
    """The problem in an answer, after a check of its form."""
    assert answer.status_code == status, answer.text
    data: dict[str, str] = answer.json()
    assert set(data) == {"code", "message", "hint"}
    assert all(isinstance(value, str) for value in data.values())
    return data


# ---------------------------------------------------------------- who gets in


def test_ready_is_open_and_says_no_more(hub: FakeHub) -> None:
    client = client_of(hub, authorization="")
    assert client.get("/api/v1/ready").json() == {"ready": True}
    hub.crash = True
    answer = client.get("/api/v1/ready")
    assert answer.status_code == 503 and answer.json() == {"ready": False}


def test_metrics_are_what_prometheus_reads(hub: FakeHub, client: TestClient) -> None:
    answer = client.get("/api/v1/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["refloat_up"].samples[0].value == 1
    ages = {
        sample.labels["target"]: sample.value for sample in families["refloat_replica_age_seconds"].samples
    }
    assert ages == {"web": 61.0}
    states = {sample.labels["state"] for sample in families["refloat_jobs"].samples}
    assert states == set(JobState)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \u00e9".encode()]
)
@pytest.mark.parametrize("path", ["/api/v1/targets", "/api/v1/openapi.json", "/nothing/here", "/"])
def test_without_the_token_nothing_is_told(hub: FakeHub, path: str, header: str | bytes) -> None:
    client = client_of(hub)
    answer = client.get(path, headers={"authorization": header})
    assert problem_of(answer, 401)["code"] == "unauthorised"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_health_is_open(hub: FakeHub) -> None:
    answer = client_of(hub).get("/api/v1/health", headers={"authorization": ""})
    assert answer.status_code == 200 and answer.json()["status"] == "ok"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8410", True),
        ("127.8.9.1", True),
        ("localhost:1", True),
        ("LOCALHOST", True),
        ("[::1]:8410", True),
        ("hub.example:8410", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_hosts(client: TestClient, host: str, allowed: bool) -> None:
    answer = client.get("/api/v1/health", headers={"host": host})
    assert answer.status_code == (200 if allowed else 400)
    assert allowed or problem_of(answer, 400)["code"] == "bad_host"


def test_listening_everywhere_allows_literal_addresses_only() -> None:
    assert host_allowed("10.0.0.1:8410", {"0.0.0.0"})
    assert not host_allowed("evil.example", {"0.0.0.0"})


def test_an_empty_token_is_no_token(hub: FakeHub) -> None:
    with pytest.raises(ValueError, match="empty token"):
        TestClient(create_app(hub.hub, "")).get("/")


def test_large_bodies_are_refused(client: TestClient) -> None:
    path = "/api/v1/targets/web/failover"
    assert problem_of(client.post(path, content=b"x" * (MAX_BODY + 1)), 413)["code"] == "too_large"

    def chunks() -> Any:
        for _ in range(MAX_BODY // 1000 + 2):
            yield b" " * 1000

    assert problem_of(client.post(path, content=chunks()), 413)["code"] == "too_large"


# ---------------------------------------------------------------- how it says no


def test_unknown_names(client: TestClient) -> None:
    assert problem_of(client.get("/api/v1/targets/nope"), 404)["code"] == "unknown_target"
    assert problem_of(client.get("/api/v1/jobs/nope/evidence"), 404)["code"] == "unknown_job"
    assert problem_of(client.get("/api/v1/jobs/nope/events?wait=20"), 404)["code"] == "unknown_job"
    assert problem_of(client.get("/api/v1/nothing"), 404)["code"] == "unknown_path"
    assert problem_of(client.delete("/api/v1/targets"), 405)["code"] == "wrong_method"


@pytest.mark.parametrize("body", ["{", "[]", "{}", '{"mode": "sideways"}', '{"mode": "test", "more": 1}'])
def test_bad_input(client: TestClient, body: str) -> None:
    answer = client.post(
        "/api/v1/targets/web/failover", content=body, headers={"content-type": "application/json"}
    )
    found = problem_of(answer, 422)
    assert found["code"] == "bad_input" and "sideways" not in found["message"]


def test_bad_parameters(client: TestClient) -> None:
    problem_of(client.get("/api/v1/jobs/x/events?after=-1"), 422)
    problem_of(client.get("/api/v1/targets/-x"), 422)
    problem_of(client.post("/api/v1/jobs/x/commit", json={"reason": "x" * 501}), 422)


def test_busy_and_refused(client: TestClient, hub: FakeHub) -> None:
    refused = client.post("/api/v1/targets/web/failover", json={"mode": "test", "source_is_off": "I know"})
    assert problem_of(refused, 409)["code"] == "override_unused"
    hub.known["web"] = hub.known["web"].__class__(**{**vars(hub.known["web"]), "holder": "web-other"})
    assert problem_of(client.post("/api/v1/targets/web/sync"), 409)["code"] == "target_busy"
    busy = client.post("/api/v1/targets/web/failover", json={"mode": "planned"})
    assert "web-other" in problem_of(busy, 409)["message"]


def test_a_defect_is_logged_and_not_shown(
    client: TestClient, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.crash = True
    answer = client.get("/api/v1/targets")
    found = problem_of(answer, 500)
    assert found["code"] == "internal" and "secret detail" not in answer.text
    incident = found["message"].rpartition(" ")[2]
    assert any(incident in record.message and record.exc_info for record in caplog.records)


# ---------------------------------------------------------------- what comes back


def test_targets(client: TestClient) -> None:
    (target,) = client.get("/api/v1/targets").json()["targets"]
    assert target["state"] == "ready" and target["sync_point"]["id"] == "sp-1"
    assert client.post("/api/v1/targets/web/sync").status_code == 202


def test_a_job_from_start_to_commit(client: TestClient, hub: FakeHub) -> None:
    answer = client.post("/api/v1/targets/web/failover", json={"mode": "planned"})
    assert answer.status_code == 201
    location = answer.headers["location"]
    assert client.get(location).json()["verdict"] is None
    hub.run_job("partial")
    job = client.get(location).json()
    assert job["steps"][0]["step"] == "preflight"
    assert job["decision"] == {"action": "adapt", "reasons": ["needs virtio"]}
    assert job["verdict"]["facets"][0]["proofs"][0]["observer"] == "guest"
    done = client.post(f"{location}/commit", json={"reason": "fine"}, headers={"x-refloat-user": "ada\tb"})
    assert done.json()["state"] == "committed"
    assert hub.calls == [("commit", "local (ada b)", "fine")]


def test_rollback_needs_the_acknowledgement(client: TestClient, hub: FakeHub) -> None:
    path = f"/api/v1/jobs/{hub.run_job()}/rollback"
    assert problem_of(client.post(path, json={}), 409)["code"] == "writes_not_acknowledged"
    assert client.post(path, json={"discard_writes": True}).json()["state"] == "rolled_back"
    assert hub.calls[-1][1] == "local (unknown)"


def test_events_are_paged_and_waited_for(client: TestClient, hub: FakeHub) -> None:
    path = f"/api/v1/jobs/{hub.run_job()}/events"
    first = client.get(path).json()
    assert [event["id"] for event in first["events"]] == [1, 2, 3] and first["next"] == 3
    started = time.monotonic()
    rest = client.get(f"{path}?after=5&wait=0.5").json()
    assert rest == {"events": [], "next": 5}
    assert 0.4 < time.monotonic() - started < 5


def test_a_stopping_hub_ends_long_polls(client: TestClient, hub: FakeHub) -> None:
    path = f"/api/v1/jobs/{hub.run_job()}/events?after=5&wait=25"
    client.app.state.stopping = True  # type: ignore[attr-defined]
    started = time.monotonic()
    assert client.get(path).json()["events"] == []
    assert time.monotonic() - started < 5


def test_evidence(client: TestClient, hub: FakeHub) -> None:
    job_id = hub.run_job()
    assert client.get(f"/api/v1/jobs/{job_id}/evidence").json()["format"] == "refloat-evidence/1"
    page = client.get(f"/api/v1/jobs/{job_id}/evidence.html")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.text.lstrip().startswith("<!doctype html>")


def test_openapi_describes_every_route(client: TestClient) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert document["info"]["title"] == "Refloat hub"
    assert {"/api/v1/targets", "/api/v1/jobs/{job_id}/rollback"} <= set(document["paths"])
    for path, methods in document["paths"].items():
        for method in methods.values():
            assert method["summary"]
            assert path in OPEN_PATHS or (method["security"] and "409" in method["responses"])
