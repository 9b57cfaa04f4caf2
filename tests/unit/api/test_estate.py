"""The estate over the API: bounded, compared before it is applied, and each version with its author."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from fastapi.testclient import TestClient

from refloat.access import Role
from refloat.api.app import create_app
from refloat.api.guard import LARGE_BODIES
from refloat.estate.text import LARGEST
from tests.unit.api.fake_hub import ESTATE, TOKEN, FakeHub

BASE = "http://127.0.0.1:8410"


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def client(hub: FakeHub) -> TestClient:
    hub.people.add_user("anna", Role.ADMIN)
    _, token = hub.people.issue_token("anna", "for tests", days=1)
    headers = {"authorization": f"Bearer {token}"}
    app = create_app(hub.hub, TOKEN)
    return TestClient(app, base_url=f"{BASE}/api/v1", headers=headers, raise_server_exceptions=False)


def with_rpo(rpo: int) -> str:
    data: Any = deepcopy(ESTATE)
    data["policies"]["gold"]["rpo"] = rpo
    return json.dumps(data)  # JSON is YAML


def test_compare_apply_read(client: TestClient, hub: FakeHub) -> None:
    found = client.post("/estate/diff", json={"text": with_rpo(60)}).json()
    assert (found["base"], found["blocked"], hub.taken) == (0, [], [])
    (change,) = found["changes"]
    assert (change["what"], change["kind"], change["name"]) == ("changed", "policy", "gold")
    body = {"text": with_rpo(60), "base": found["base"], "reason": "an aim"}
    done = client.put("/estate", json=body)
    assert done.status_code == 200 and done.json()["number"] == 1 and len(hub.taken) == 1
    again = client.put("/estate", json=body).json()
    assert again == {"number": 1, "changes": []} and len(hub.taken) == 1, "once more it changes nothing"
    read = client.get("/estate")
    assert read.headers["etag"] == '"1"' and read.json()["text"] == with_rpo(60)
    assert (read.json()["who"], read.json()["reason"]) == ("anna", "an aim")
    assert client.get("/estate/versions/1").json() == read.json()
    (entry,) = hub.audit.entries(subject="estate-1")
    assert (entry.who, entry.data["sha256"]) == ("anna", read.json()["sha256"])


def test_versions_come_a_page_at_a_time(client: TestClient) -> None:
    for number in range(3):
        client.put("/estate", json={"text": with_rpo(60 + number), "base": number})
    page = client.get("/estate/versions?limit=2").json()
    assert [one["number"] for one in page["versions"]] == [3, 2] and page["next"] == 2
    assert "text" not in page["versions"][0]
    rest = client.get("/estate/versions?limit=2&before=2").json()
    assert [one["number"] for one in rest["versions"]] == [1] and rest["next"] == 0


def test_who_comes_second_is_refused(client: TestClient, hub: FakeHub) -> None:
    assert client.put("/estate", json={"text": with_rpo(60), "base": 0}).status_code == 200
    late = client.put("/estate", json={"text": with_rpo(90), "base": 0})
    assert late.status_code == 409 and late.json()["code"] == "estate_changed" and late.json()["hint"]
    assert len(hub.taken) == 1 and client.get("/estate/versions/2").status_code == 404


def test_no_estate_is_422_with_its_lines(client: TestClient, hub: FakeHub) -> None:
    text = "version: 1\nsites: {}\nprotected: {}\ntargets: {}\nmore: 1\nversion: 2\n"
    for method, path, more in (("POST", "/estate/diff", {}), ("PUT", "/estate", {"base": 0})):
        refused = client.request(method, path, json={"text": text, "name": "a\nb.yaml", **more})
        assert refused.status_code == 422 and refused.json()["code"] == "bad_estate"
        first, second = refused.json()["message"].splitlines()
        assert first.startswith("a b.yaml:5: more: ") and second.startswith(
            "a b.yaml:6: version: stands twice"
        )
    assert not hub.taken and not hub.audit.entries(subject="estate-1")


def test_an_estate_may_be_large_and_nothing_else(client: TestClient, hub: FakeHub) -> None:
    large = with_rpo(60) + "\n# " + "x" * (LARGEST - len(with_rpo(60)) - 3)
    assert len(large) == LARGEST
    assert client.put("/estate", json={"text": large, "base": 0}).status_code == 200
    assert client.put("/estate", json={"text": large + "x", "base": 0}).status_code == 422
    two_bytes = large[:-10] + "\u00e9" * 10
    assert client.put("/estate", json={"text": two_bytes, "base": 1}).json()["code"] == "bad_estate"
    too_large = b" " * (LARGE_BODIES["/api/v1/estate"] + 1)
    assert client.put("/estate", content=too_large).status_code == 413
    assert client.post("/users", content=b" " * 70000).status_code == 413


def test_what_runs_on_the_hubs_machine_needs_the_hubs_own_token(client: TestClient, hub: FakeHub) -> None:
    data: Any = deepcopy(ESTATE)
    data["policies"]["gold"]["probes"] = [{"kind": "command", "command": ["/tmp/x"]}]
    body = {"text": json.dumps(data), "base": 0}
    assert client.post("/estate/diff", json={"text": body["text"]}).json()["reach"] == ["/tmp/x"]
    refused = client.put("/estate", json=body)
    assert refused.status_code == 403 and refused.json()["code"] == "hub_token_needed" and not hub.taken
    own = {"authorization": f"Bearer {TOKEN}"}
    assert client.put("/estate", json=body, headers=own).status_code == 200
    data["policies"]["gold"]["rpo"] = 60
    later = {"text": json.dumps(data), "base": 1}
    assert client.put("/estate", json=later).status_code == 200, "it is known now"
