"""The address for guests' reports: what it answers to whom, over real sockets and TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from refloat.api.certificate import own_certificate
from refloat.api.reports import PATH, Pace, ReportServer, callback_of, create_report_app
from refloat.config import Config, check_reports
from refloat.errors import Failed, Refused
from refloat.reports import REPORT_LIMIT, ReportRejected

REFUSALS = {
    "over": ("report_over", 410),
    "forged": ("report_forged", 403),
    "foreign": ("report_foreign", 403),
    "garbage": ("report_rejected", 400),
}


def take(job: str, body: bytes) -> int:
    if job in REFUSALS:
        raise ReportRejected(f"secret detail of {job}", code=REFUSALS[job][0])
    if job == "broken":
        raise Failed("the store is away")
    return len(body)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ReportServer, ssl.SSLContext]]:
    directory = tmp_path_factory.mktemp("hub")
    config = Config(directory, report_url="https://127.0.0.1:1", report_listen="127.0.0.1:0")
    callback = callback_of(config)
    assert callback is not None
    made = ReportServer(config)
    made.start(take)
    yield made, ssl.create_default_context(cadata=callback.certificate)
    made.stop()


@pytest.fixture
def guest(
    server: tuple[ReportServer, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    monkeypatch.setattr(Pace, "allows", lambda self, sender: True)
    listener, trusted = server
    with httpx.Client(base_url=f"https://127.0.0.1:{listener.port}", verify=trusted) as client:
        yield client


def test_a_kept_report_is_acknowledged(guest: httpx.Client) -> None:
    answer = guest.post(f"{PATH}web-1", content=b"123")
    assert (answer.status_code, answer.text) == (200, "ack 3\n")


@pytest.mark.parametrize("job", REFUSALS)
def test_a_refusal_says_only_its_kind(guest: httpx.Client, job: str) -> None:
    answer = guest.post(f"{PATH}{job}", content=b"{}")
    assert (answer.status_code, answer.text) == (REFUSALS[job][1], REFUSALS[job][0] + "\n")


def test_a_store_that_is_away_is_tried_again(guest: httpx.Client) -> None:
    assert guest.post(f"{PATH}broken", content=b"{}").status_code == 503


@pytest.mark.parametrize("size", [REPORT_LIMIT, REPORT_LIMIT + 1])
def test_64_kib_and_no_more(guest: httpx.Client, size: int) -> None:
    answer = guest.post(f"{PATH}web-1", content=b"x" * size)
    assert answer.status_code == (200 if size <= REPORT_LIMIT else 413)


def test_a_body_without_a_length_is_bounded_too(guest: httpx.Client) -> None:
    answer = guest.post(f"{PATH}web-1", content=(b"x" * 8192 for _ in range(20)))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{PATH}web-1"),
        ("POST", "/api/v1/health"),
        ("GET", "/api/v1/targets"),
        ("POST", f"{PATH}../jobs"),
        ("POST", f"{PATH}a/b"),
        ("POST", f"{PATH}%00"),
        ("POST", PATH + "x" * 200),
    ],
)
def test_nothing_else_is_there(guest: httpx.Client, method: str, path: str) -> None:
    assert guest.request(method, path).status_code == 404


def test_too_fast_is_429(server: tuple[ReportServer, ssl.SSLContext]) -> None:
    listener, trusted = server
    with httpx.Client(base_url=f"https://127.0.0.1:{listener.port}", verify=trusted) as client:
        codes = [client.post(f"{PATH}web-1", content=b"1").status_code for _ in range(40)]
    assert codes[0] == 200 and 429 in codes


def test_a_client_without_tls_gets_nothing(server: tuple[ReportServer, ssl.SSLContext]) -> None:
    with socket.create_connection(("127.0.0.1", server[0].port), timeout=5) as plain:
        plain.sendall(b"POST /api/v1/reports/web-1 HTTP/1.0\r\nContent-Length: 1\r\n\r\n1")
        try:
            said = plain.recv(100)
        except ConnectionError:
            said = b""
    assert b"ack" not in said


def test_connections_that_say_nothing_silence_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One guest keeps as many open as it can: another, here with the same address, is heard all the same."""
    monkeypatch.setattr("refloat.api.reports._CONNECTED_FOR", 1.0)
    config = Config(tmp_path, report_url="http://127.0.0.1:1", report_listen="127.0.0.1:0")
    server = ReportServer(config)
    server.start(take)
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(70)]
    try:
        for one in held:  # each is ended by the hub: those too many at once, the others after their time
            with suppress(ConnectionError):
                assert one.recv(1) == b""
        answer = httpx.post(f"http://127.0.0.1:{server.port}{PATH}web-1", content=b"123")
        assert answer.text == "ack 3\n"
    finally:
        for one in held:
            one.close()
        server.stop()


def test_a_guest_does_not_say_where_it_comes_from(tmp_path: Path) -> None:
    config = Config(tmp_path, report_url="http://127.0.0.1:1", report_listen="127.0.0.1:0")
    server = ReportServer(config)
    server.start(take)
    try:
        url = f"http://127.0.0.1:{server.port}/"
        codes = [
            httpx.post(url, headers={"x-forwarded-for": f"192.0.2.{number}"}).status_code
            for number in range(40)
        ]
    finally:
        server.stop()
    assert codes[0] == 404 and 429 in codes


def test_the_pace_of_each_sender() -> None:
    at = 0.0
    pace = Pace(1, 3, clock=lambda: at)
    assert [pace.allows("a") for _ in range(4)] == [True, True, True, False]
    assert pace.allows("b")
    at = 1.0
    assert [pace.allows("a") for _ in range(2)] == [True, False]
    for number in range(5000):
        pace.allows(str(number))
    assert len(pace._known) <= 1024


def _asked_at_once(asked: list[tuple[str, str]]) -> list[int]:
    """The statuses of reports as (address, job), all of them at one moment."""
    app = create_report_app(take, clock=lambda: 0.0)

    async def ask() -> list[int]:
        found = []
        for address, job in asked:
            transport = httpx.ASGITransport(app, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="https://hub") as client:
                found.append((await client.post(f"{PATH}{job}", content=b"1")).status_code)
        return found

    return asyncio.run(ask())


def test_many_addresses_are_not_faster_for_one_job() -> None:
    flood = [(f"10.0.0.{number}", "web-1") for number in range(60)]
    statuses = _asked_at_once([*flood, ("10.0.1.1", "web-2")])
    assert statuses == [200] * 40 + [429] * 20 + [200]


def test_one_address_alone_does_not_silence_a_jobs_guest() -> None:
    statuses = _asked_at_once([("10.0.0.1", "web-1")] * 30 + [("10.0.0.2", "web-1")])
    assert statuses == [200] * 20 + [429] * 10 + [200]


def test_a_flood_for_one_job_leaves_the_pace_of_all_to_the_others() -> None:
    flood = [(f"10.0.{number // 200}.{number % 200}", "web-1") for number in range(150)]
    assert _asked_at_once([*flood, ("10.1.0.1", "web-2")])[-1] == 200


# ---------------------------------------------------------------- certificate and settings


def test_the_hubs_own_certificate_stays_until_the_address_changes(tmp_path: Path) -> None:
    first = own_certificate(tmp_path, "10.0.0.2")
    content = first[0].read_bytes()
    assert own_certificate(tmp_path, "10.0.0.2")[0].read_bytes() == content
    assert first[1].stat().st_mode & 0o077 == 0
    assert own_certificate(tmp_path, "hub.example")[0].read_bytes() != content


def test_the_operators_certificate(tmp_path: Path) -> None:
    certificate, key = own_certificate(tmp_path, "hub.example")
    config = Config(
        tmp_path,
        report_url="https://hub.example:8411",
        report_listen="0.0.0.0:8411",
        report_cert=certificate,
        report_key=key,
    )
    check_reports(config)
    told = callback_of(config)
    assert told is not None and told.certificate == certificate.read_text() and not told.own
    with pytest.raises(Refused):
        callback_of(replace(config, report_key=tmp_path / "none"))


@pytest.mark.parametrize(
    "settings",
    [
        {"report_url": "https://10.0.0.2:8411"},
        {"report_listen": "0.0.0.0:8411"},
        {"report_url": "http://10.0.0.2:8411", "report_listen": "0.0.0.0:8411"},
        {"report_url": "http://10.0.0.2:8411", "report_listen": "10.0.0.2:8411"},
        {"report_url": "ftp://10.0.0.2:8411", "report_listen": "10.0.0.2:8411"},
        {"report_url": "https://10.0.0.2:8411/path", "report_listen": "10.0.0.2:8411"},
        {"report_url": "https://user@10.0.0.2:8411", "report_listen": "10.0.0.2:8411"},
        {"report_url": "https://10.0.0.2:8411", "report_listen": "10.0.0.2:8411", "report_cert": Path("/c")},
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, str]) -> None:
    with pytest.raises(Refused):
        check_reports(Config(**settings))  # type: ignore[arg-type]


def test_plain_http_is_for_loopback() -> None:
    check_reports(Config(report_url="http://10.20.30.2:8411", report_listen="127.0.0.1:8411"))
