"""What a hub tells of its jobs and replicas, and how it is asked about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from refloat.api.app import create_app
from refloat.cli.common import Session
from refloat.cli.main import app as command
from refloat.model import Mode
from refloat.notify import courier
from refloat.notify.channels import Webhook
from refloat.secret import SecretRef
from refloat.simulated.world import Protected
from tests.unit.api.fake_hub import TOKEN
from tests.unit.notify.receivers import Receiver
from tests.unit.simulated.rig import Site, until

ONE = Protected(1)
V1 = "http://127.0.0.1:8410/api/v1"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(courier, "WATCH", 0.1)
    monkeypatch.setattr(courier, "FIRST", 0.1)
    (tmp_path / "secret").write_text("hush")

    class Telling(Site):
        notify = (Webhook("ops", receiver.url, SecretRef(str(tmp_path / "secret"))),)

    made = Telling(tmp_path, ONE, rpo=60)
    yield made
    made.close()


def kinds(receiver: Receiver) -> list[str]:
    return [json.loads(body)["type"] for _, _, body in receiver.got]


def test_a_failover_is_told(site: Site, receiver: Receiver) -> None:
    site.sync(ONE)
    job = site.fail_over(ONE, Mode.PLANNED)
    site.roll_back(job, discard=True)
    wanted = ["job.started", "job.verdict_succeeded", "job.rolled_back"]
    until(lambda: kinds(receiver) == wanted, "all is told")
    told = json.loads(receiver.got[1][2])["data"]
    assert (told["target"], told["job"], told["verdict"]) == (ONE.name, job, "succeeded")
    assert told["url"] == f"http://127.0.0.1:8410/jobs/{job}" and told["state"] == "awaiting_commit"


def test_a_replica_that_grows_old_is_told_once(
    site: Site, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.sync(ONE)
    point = site.hub.target(ONE.name).sync_point
    assert point and kinds(receiver) == []
    aged = {"taken": "2026-01-01T00:00:00.000+00:00"}
    site.hub.store.save_sync_point(ONE.name, type(point)(**{**vars(point), **aged}))
    until(lambda: kinds(receiver) == ["target.rpo_exceeded"], "it is told")
    site.hub.store.save_sync_point(ONE.name, point)
    until(lambda: kinds(receiver)[1:] == ["target.rpo_met"], "its end is told")


def test_asked_by_api_and_command_line(
    site: Site, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = create_app(site.hub, TOKEN)
    client = TestClient(api, base_url=V1, headers={"authorization": f"Bearer {TOKEN}"})
    done = client.post(f"{V1}/channels/ops/test").json()
    assert done["delivered"] and done["answer"].startswith("200 OK")
    assert client.post(f"{V1}/channels/none/test").json()["code"] == "unknown_channel"
    assert site.hub.audit.entries(0, 1)[0].what == "notify-test"

    receiver.faults = [503]
    monkeypatch.setenv("REFLOAT_TOKEN", TOKEN)
    session = Session(transport=client._transport)
    asked = ["notify", "test", "ops", "--url", "http://127.0.0.1:8410"]
    failed = CliRunner().invoke(command, asked, obj=session)
    assert failed.exit_code == 1 and "not delivered: the receiver answered 503" in failed.output
    assert CliRunner().invoke(command, asked, obj=session).exit_code == 0

    receiver.faults = [500] * 1000
    site.sync(ONE)
    site.roll_back(site.fail_over(ONE, Mode.TEST))
    until(lambda: bool(client.get(f"{V1}/channels").json()[0]["last_error"]), "it is known")
    (shown,) = client.get(f"{V1}/channels").json()
    assert (shown["waiting"], shown["delivered"], shown["given_up"]) == (3, 0, 0)
    assert "hook" not in shown["where"] and shown["where"] in receiver.url
    assert 'refloat_notices{channel="ops",state="waiting"} 3.0' in client.get(f"{V1}/metrics").text
    listed = CliRunner().invoke(command, ["notify", "list", "--url", "http://127.0.0.1:8410"], obj=session)
    assert listed.exit_code == 0 and "500 Internal" in listed.output.replace("\n", " ")
