"""The API client against a server that answers what it is told: errors sorted, keys never shown, nothing
followed."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

from refloat.destinations.cloudstack_api import Api, JobState
from refloat.destinations.cloudstack_errors import Then, Trouble
from refloat.destinations.cloudstack_settings import CloudStackSettings
from refloat.errors import Failed, Refused, Unreachable
from refloat.secret import SecretRef

KEY, SECRET = "the-api-key-itself", "the-secret-itself"
OK = (200, {"listthingsresponse": {"thing": [{"id": "1"}]}})


def error(number: int, text: str = "no") -> tuple[int, dict[str, Any]]:
    return number, {"errorresponse": {"errorcode": number, "errortext": text}}


class Said(BaseHTTPRequestHandler):
    answers: ClassVar[list[Any]] = []
    asked: ClassVar[list[dict[str, str]]] = []
    paths: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.asked.append({k: v[0] for k, v in parse_qs(self.rfile.read(length).decode()).items()})
        self.paths.append(self.path)
        answer = self.answers.pop(0)
        if answer is None:
            self.connection.close()
            return
        status, content = answer
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(content, bytes) else "application/json")
        if 300 <= status < 400:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Said.answers, Said.asked, Said.paths = [], [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Said) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}/client/api"
        made.shutdown()
        thread.join()


@pytest.fixture
def api(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("CLOUD_SECRET", SECRET)
    return Api(
        CloudStackSettings(
            server,
            SecretRef(file=str(tmp_path / "key")),
            SecretRef(env="CLOUD_SECRET"),
            {},
            patience=2,
            poll=0.01,
            settle=0.05,
            timeout=2,
        )
    )


def test_a_request_is_signed_and_no_key_is_in_an_address(api: Api) -> None:
    Said.answers = [OK]
    assert api.items("listThings", "thing") == [{"id": "1"}]
    asked = Said.asked[0]
    assert asked["apiKey"] == KEY and asked["signature"] and asked["signatureVersion"] == "3"
    assert SECRET not in str(asked) and "expires" in asked
    assert KEY not in Said.paths[0] and "?" not in Said.paths[0]


@pytest.mark.parametrize(
    "passing", [error(429), error(503), error(9999), error(533), (502, b"<html>"), (503, b"<html>"), None]
)
def test_a_question_is_repeated_while_the_trouble_may_pass(api: Api, passing: Any) -> None:
    Said.answers = [passing, passing, OK]
    assert api.ask("listThings")["thing"]
    assert len(Said.asked) == 3


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (401, "cloudstack_auth"),
        (431, "cloudstack_rule"),
        (432, "cloudstack_forbidden"),
        (535, "cloudstack_limit"),
    ],
)
def test_a_refusal_is_no_matter_of_patience(api: Api, number: int, code: str) -> None:
    Said.answers = [error(number, "because")]
    with pytest.raises(Refused) as caught:
        api.ask("listThings")
    assert caught.value.code == code and "because" in caught.value.message and caught.value.hint
    assert len(Said.asked) == 1


def test_an_order_is_never_sent_twice_by_the_client(api: Api) -> None:
    for answer, then in ((error(503), Then.RETRY), ((502, b"<html>"), Then.LOST), (None, Then.LOST)):
        Said.answers, before = [answer, OK], len(Said.asked)
        with pytest.raises(Trouble) as caught:
            api.order("attachVolume", id="v")
        assert caught.value.row.then is then
        assert len(Said.asked) == before + 1


def test_a_server_that_never_answers_is_unreachable(api: Api) -> None:
    Said.answers = [None] * 500
    with pytest.raises(Unreachable):
        api.ask("listThings")
    Said.answers = [error(530)]
    with pytest.raises(Failed) as caught:
        api.ask("listThings")
    assert caught.value.code == "cloudstack_internal"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirection_is_not_followed(api: Api, status: int) -> None:
    Said.answers = [(status, {})] * 500
    with pytest.raises(Trouble):
        api.order("attachVolume")
    assert len(Said.asked) == 1, "the keys went elsewhere"


def test_neither_key_nor_secret_is_in_errors_and_logs(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [repr(api.settings)]
    for answer in (error(401), error(530), (500, b"x"), None, (200, b"no json"), (200, [1])):
        Said.answers = [answer]
        with pytest.raises(Trouble) as caught:
            api.order("stopVirtualMachine", id="v")
        shown += [str(caught.value), str(caught.value.error("VM x")), repr(caught.value)]
    text = "\n".join([*shown, caplog.text])
    assert KEY not in text and SECRET not in text


def test_a_missing_key_is_said_by_its_place(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUD_SECRET")
    with pytest.raises(Refused) as caught:
        api.ask("listThings")
    assert "CLOUD_SECRET" in caught.value.message and not Said.asked


def test_a_key_that_was_replaced_is_read_anew(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    Said.answers = [error(401), OK]
    with pytest.raises(Refused):
        api.ask("listThings")
    monkeypatch.setenv("CLOUD_SECRET", "the next one")
    api.ask("listThings")
    assert Said.asked[0]["signature"] != Said.asked[1]["signature"]


def test_what_became_of_a_job(api: Api) -> None:
    def answer(**job: Any) -> tuple[int, dict[str, Any]]:
        return 200, {"queryasyncjobresultresponse": job}

    failed = {"errorcode": 533, "errortext": "full"}
    Said.answers = [
        answer(jobstatus=0),
        answer(jobstatus=1, jobresult={}),
        answer(jobstatus=2, jobresult=failed, cmd="org.apache.cloudstack.AttachVolumeCmd"),
        error(431, "no such job"),
    ]
    assert [found.state for _ in range(2) if (found := api.job("j"))] == [JobState.PENDING, JobState.DONE]
    found = api.job("j")
    assert found and found.trouble and found.trouble.row.then is Then.RETRY and found.trouble.text == "full"
    assert api.job("j") is None
