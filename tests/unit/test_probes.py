"""The operator's own probes, against real sockets and real commands."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from refloat import probes
from refloat.codec import decode, encode
from refloat.errors import RefloatError, Refused
from refloat.estate import load_estate
from refloat.http_probe import parse
from refloat.lab.estate import render_estate
from refloat.lab.layout import Lab
from refloat.model import ProbeKind, ProbeResult
from refloat.policy import HttpCheck, Policy, Probe, Redirects, Tls
from refloat.probes import ask, ask_once, echo_request, is_reply

HERE = "127.0.0.1"


def routed(address: str, port: int) -> tuple[str, int]:
    return address, port


def forwarded(address: str, port: int) -> tuple[str, int]:
    """As a user-mode segment: another port of this machine leads there."""
    return HERE, port


def no_way(address: str, port: int) -> tuple[str, int]:
    raise Refused("a segment of another host", code="no_way_from_here")


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that handles one connection after the other until the test ends."""
    with socket.create_server((HERE, 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def says(content: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(content)


def http_says(content: bytes, keep_open: bool = False) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(content)
        if keep_open:
            connection.recv(1)

    return answer


def silent(connection: socket.socket) -> None:
    connection.recv(1)


# ---------------------------------------------------------------- TCP


@pytest.mark.parametrize(("said", "holds"), [(b"SSH-2.0-x", True), (b"HTTP/1.1 ", False), (b"SSH", False)])
def test_a_port_must_say_what_is_expected(said: bytes, holds: bool) -> None:
    with serving(says(said)) as port:
        assert ask_once(Probe(port, "SSH-2.0-"), HERE, routed).holds is holds


def test_a_direct_connection_without_expectation_is_enough() -> None:
    with serving(silent) as port:
        assert ask_once(Probe(port), HERE, routed).holds


def test_a_forward_that_accepts_proves_nothing() -> None:
    """Closed at once: nobody is behind it. Silence: nobody knows."""
    with serving(silent) as port:
        answer = ask_once(Probe(port, timeout=0.2), "10.20.30.40", forwarded)
    assert not answer.holds and not answer.asked and "expect" in answer.text
    with serving(lambda connection: None) as port:
        answer = ask_once(Probe(port, timeout=5), "10.20.30.40", forwarded)
    assert not answer.holds and answer.asked and "nobody is behind" in answer.text
    with serving(says(b"220 hello")) as port:
        assert ask_once(Probe(port, timeout=5), "10.20.30.40", forwarded).holds


def test_a_port_that_is_silent_or_closed_does_not_hold() -> None:
    with serving(silent) as port:
        answer = ask_once(Probe(port, "SSH", timeout=0.2), HERE, routed)
        assert not answer.holds and answer.asked
    assert not ask_once(Probe(port), HERE, routed).holds


def test_a_dribbling_server_does_not_hold_a_probe() -> None:
    def dribble(connection: socket.socket) -> None:
        for _ in range(200):
            connection.sendall(b"S")
            time.sleep(0.02)  # the server's own pace, not a wait of the test

    with serving(dribble) as port:
        began = time.monotonic()
        assert not ask_once(Probe(port, "S" * 4000, timeout=0.3), HERE, routed).holds
    assert time.monotonic() - began < 3


# ---------------------------------------------------------------- repetition


def test_it_is_repeated_until_it_holds_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True, False, True, True])
    monkeypatch.setitem(
        probes.ASKERS, ProbeKind.TCP, lambda *_: probes.Answer(next(answers), "said something")
    )
    result = ask(Probe(1, every=0.01, times=2, within=60), HERE, routed, lambda: False)
    assert result.answered and result.tries == 5
    assert "2 of 2" in result.text


def test_it_ends_with_its_time_and_with_an_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probes.ASKERS, ProbeKind.TCP, lambda *_: probes.Answer(False, "no"))
    assert ask(Probe(1, within=0.05, every=0.01), HERE, routed, lambda: False).tries > 1
    assert ask(Probe(1, within=60, every=0.01), HERE, routed, lambda: True).tries == 1


def test_what_cannot_be_asked_is_asked_once() -> None:
    result = ask(Probe(22, "SSH", within=60), "10.20.30.40", no_way, lambda: False)
    assert not result.asked and not result.answered and result.tries == 1
    assert ask(Probe(22, within=60), "", routed, lambda: False).asked is False


# ---------------------------------------------------------------- ICMP


def may_send(family: int, protocol: int) -> bool:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol):
            return True
    return False


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_echo_of_this_machine(address: str) -> None:
    four = ipaddress.ip_address(address).version == 4
    family = socket.AF_INET if four else socket.AF_INET6
    if not may_send(family, socket.IPPROTO_ICMP if four else socket.IPPROTO_ICMPV6):
        pytest.skip("this account may send no ICMP")
    answer = ask_once(Probe(kind=ProbeKind.ICMP, timeout=5), address, routed)
    if not four and "annot assign" in answer.text:
        pytest.skip("no IPv6 on the loopback device")
    assert answer.holds, answer.text


def test_an_answer_to_another_request_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    if not may_send(socket.AF_INET, socket.IPPROTO_ICMP):
        pytest.skip("this account may send no ICMP")
    monkeypatch.setattr(probes, "is_reply", lambda *_: False)
    answer = ask_once(Probe(kind=ProbeKind.ICMP, timeout=0.3), HERE, routed)
    assert answer == probes.Answer(False, "no answer to the echo within 0.3 s")


@pytest.mark.parametrize("reach", [forwarded, no_way])
def test_where_only_tcp_is_forwarded_an_echo_is_not_asked(reach: Any) -> None:
    answer = ask_once(Probe(kind=ProbeKind.ICMP), "10.20.30.40", reach)
    assert not answer.asked and answer.text.startswith("it cannot be asked here")


def test_without_any_right_to_icmp_it_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError("no")

    monkeypatch.setattr(socket, "socket", refuse)
    answer = ask_once(Probe(kind=ProbeKind.ICMP), HERE, routed)
    assert not answer.asked and "ping_group_range" in answer.text


def test_only_the_echo_of_our_own_request_counts() -> None:
    nonce = bytes(range(16))
    request = echo_request(4, nonce)
    reply = b"\0" + request[1:]
    assert is_reply(4, reply, nonce)
    assert is_reply(4, b"\x45" + bytes(19) + reply, nonce)
    assert not is_reply(4, request, nonce)
    assert not is_reply(4, reply, nonce[::-1])
    assert not is_reply(6, reply, nonce)
    assert is_reply(6, b"\x81" + request[1:], nonce)


@given(st.binary(max_size=80), st.sampled_from([4, 6]))
def test_any_packet_is_no_reply(packet: bytes, version: int) -> None:
    assert not is_reply(version, packet, b"a nonce that none")


# ---------------------------------------------------------------- HTTP

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready"


def http(port: int, timeout: float = 5, **check: Any) -> Probe:
    return Probe(port, kind=ProbeKind.HTTP, timeout=timeout, http=HttpCheck(**check))


@pytest.mark.parametrize(
    ("content", "check", "holds", "words"),
    [
        (OK, {}, True, "status 200"),
        (OK, {"contains": "ready"}, True, "'ready' found"),
        (OK, {"contains": "steady"}, False, "did not contain 'steady'"),
        (OK, {"statuses": (204, 503)}, False, "wanted 204, 503"),
        (b"HTTP/1.1 503 No\r\n\r\n", {"statuses": (503,)}, True, "status 503"),
        (OK, {"contains": "ready", "largest": 3}, False, "the first 3 bytes"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n",
            {"contains": "ready"},
            True,
            "found",
        ),
        (b"SSH-2.0-OpenSSH\r\n", {}, False, "no proper HTTP answer"),
        (b"", {}, False, "no proper HTTP answer"),
        (
            b"HTTP/1.1 302 Go\r\nLocation: http://169.254.169.254/\r\n\r\n",
            {"redirects": Redirects.SAME},
            False,
            "to elsewhere",
        ),
        (b"HTTP/1.1 302 Go\r\nLocation: /login\r\n\r\n", {}, False, "status 302"),
        (b"HTTP/1.1 302 Go\r\nLocation: /again\r\n\r\n", {"redirects": Redirects.SAME}, False, "redirects"),
    ],
)
def test_http(content: bytes, check: dict[str, Any], holds: bool, words: str) -> None:
    with serving(http_says(content)) as port:
        answer = ask_once(http(port, **check), HERE, routed)
    assert answer.holds is holds, answer.text
    assert words in answer.text


def test_a_server_that_keeps_the_connection_is_not_waited_for() -> None:
    with serving(http_says(OK, keep_open=True)) as port:
        assert ask_once(http(port, timeout=30), HERE, routed).holds


def test_what_is_sent_and_a_redirect_on_the_same_server(tmp_path: Path) -> None:
    seen: list[bytes] = []
    key = tmp_path / "token"
    key.write_text("Bearer hunter2\n")

    def answer(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        first = seen[-1].startswith(b"GET / ")
        connection.sendall(b"HTTP/1.1 302 Go\r\nLocation: /health?x=1\r\n\r\n" if first else OK)

    with serving(answer) as port:
        check: dict[str, Any] = {"host": "www.example.org", "headers": {"Authorization": str(key)}}
        probe = http(port, redirects=Redirects.SAME, **check)
        result = ask(probe, "10.20.30.40", forwarded, lambda: False)
    assert result.answered
    assert seen[1].startswith(b"GET /health?x=1 HTTP/1.1\r\n")
    assert f"\r\nHost: www.example.org:{port}\r\n".encode() in seen[0]
    assert b"\r\nAuthorization: Bearer hunter2\r\n" in seen[0]
    assert "hunter2" not in json.dumps(encode((result, probe)))


def test_a_secret_that_the_server_says_back_is_quoted_nowhere(tmp_path: Path) -> None:
    key = tmp_path / "token"
    key.write_text("hunter2")

    def answer(connection: socket.socket) -> None:
        request = connection.recv(65536)
        connection.sendall(b"HTTP/1.1 500 hunter2\r\nX-Echo: hunter2\r\n\r\n" + request)

    with serving(answer) as port:
        assert "hunter2" not in ask_once(http(port, headers={"X-Key": str(key)}), HERE, routed).text


def test_a_header_whose_file_is_bad_sends_nothing(tmp_path: Path) -> None:
    def never(connection: socket.socket) -> None:
        assert connection.recv(1) == b""

    key = tmp_path / "key"
    with serving(never) as port:
        assert "cannot be read" in ask_once(http(port, headers={"X": str(key)}), HERE, routed).text
        key.write_text("a\r\nX-Other: b")
        answer = ask_once(http(port, headers={"X": str(key)}), HERE, routed)
    assert "one line" in answer.text and "X-Other" not in answer.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=web"),
            *("-addext", "subjectAltName=DNS:web.example.org"),
            *("-keyout", str(file), "-out", f"{file}.c"),
        ],
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + Path(f"{file}.c").read_text())
    return file


@pytest.mark.parametrize(
    ("tls", "trusted", "host", "holds"),
    [
        (Tls.ANY, False, "", True),
        (Tls.VERIFY, True, "web.example.org", True),
        (Tls.VERIFY, False, "web.example.org", False),
        (Tls.VERIFY, True, "other.example.org", False),
        (Tls.VERIFY, True, "", False),
    ],
)
def test_https(certificate: Path, tls: Tls, trusted: bool, host: str, holds: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            http_says(OK)(secure)

    with serving(answer) as port:
        ca = str(certificate) if trusted else ""
        found = ask_once(http(port, tls=tls, ca=ca, host=host), HERE, routed)
    assert found.holds is holds, found.text


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_an_answer_or_a_plain_error(raw: bytes, largest: int) -> None:
    for content in (raw, b"HTTP/1.1 200 OK\r\n" + raw):
        with contextlib.suppress(RefloatError):
            answer, _ = parse(content, largest)
            assert len(answer.body) <= largest


# ---------------------------------------------------------------- command


def run(*argv: str, port: int = 0, timeout: float = 10) -> probes.Answer:
    probe = Probe(port, kind=ProbeKind.COMMAND, argv=argv, timeout=timeout)
    return ask_once(probe, "10.20.30.40", forwarded)


def test_a_command_holds_by_its_status() -> None:
    assert run("/bin/true").holds
    answer = run("/bin/sh", "-c", "echo all is lost; exit 3")
    assert not answer.holds and answer.text == "ended with status 3: all is lost"
    assert not run("/nonexistent/check").holds


def test_placeholders_and_no_shell() -> None:
    answer = run("/bin/echo", "{address}", "{host}:{port}", "$HOME;{address}", port=443)
    assert answer.text.endswith(f"10.20.30.40 {HERE}:443 $HOME;10.20.30.40")


def test_nothing_of_the_hubs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLOAT_API_TOKEN", "hunter2")
    answer = run("/usr/bin/env")
    assert answer.holds and "hunter2" not in answer.text and "PATH=" in answer.text


def test_it_ends_in_time_with_all_that_it_started(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    began = time.monotonic()
    answer = run("/bin/sh", "-c", f"sleep 600 & echo $! > {file}; wait", timeout=1)
    assert time.monotonic() - began < 10
    assert not answer.holds and "did not end within 1 s" in answer.text
    deadline = time.monotonic() + 10
    while _alive(int(file.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_endless_output_is_bounded() -> None:
    answer = run("/usr/bin/yes", "x" * 100)
    assert not answer.holds and len(answer.text) < 400


# ---------------------------------------------------------------- the estate


def estate_with(tmp_path: Path, *wanted: dict[str, Any]) -> Policy:
    file = tmp_path / "estate.yaml"
    data = yaml.safe_load(render_estate(Lab(directory=tmp_path), "ssh-ed25519 AAAA"))
    data["policies"]["lab"]["probes"] = list(wanted)
    file.write_text(yaml.safe_dump(data))
    return load_estate(file).policy("lab")


def test_every_kind_in_the_estate(tmp_path: Path) -> None:
    policy = estate_with(
        tmp_path,
        {"port": 22, "expect": "SSH-2.0-"},
        {"kind": "icmp", "required": False, "address": "fd00::1"},
        {"kind": "http", "path": "/a", "status": [200, 204], "headers": {"X-Key": "/k"}, "within": 90},
        {"kind": "https", "verify": False, "redirects": "same", "times": 3, "every": 2},
        {"kind": "https", "port": 8443, "ca": "/ca.pem", "host": "www.example.org", "name": "the shop"},
        {"kind": "command", "command": ["/opt/check", "{host}", "{port}"], "port": 5432, "timeout": 60},
    )
    tcp, icmp, plain, anyone, verified, own = policy.probes
    assert tcp == Probe(22, "SSH-2.0-")
    assert icmp == Probe(kind=ProbeKind.ICMP, required=False, address="fd00::1")
    assert plain.port == 80 and plain.within == 90
    assert plain.http == HttpCheck("/a", (200, 204), headers={"X-Key": "/k"})
    assert anyone.port == 443 and anyone.http == HttpCheck(tls=Tls.ANY, redirects=Redirects.SAME)
    assert (anyone.times, anyone.every) == (3, 2)
    assert verified.http == HttpCheck(tls=Tls.VERIFY, ca="/ca.pem", host="www.example.org")
    assert own.argv == ("/opt/check", "{host}", "{port}") and own.port == 5432
    assert decode(Policy, encode(policy)) == policy


def test_a_policy_of_an_older_job_is_still_read() -> None:
    old = {**encode(Policy()), "probes": [{"port": 22, "expect": "SSH", "address": ""}]}
    assert decode(Policy, old).probes == (Probe(22, "SSH"),)


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ({"kind": "udp", "port": 1}, "tcp, icmp, http, https or command"),
        ({"kind": "icmp", "port": 1}, "port"),
        ({"port": 0}, "port"),
        ({"expect": "SSH"}, "port"),
        ({"port": 22, "address": "web.example.org"}, "address"),
        ({"port": 22, "times": 0}, "times"),
        ({"port": 22, "within": 9999}, "within"),
        ({"kind": "http", "path": "health"}, "is no path"),
        ({"kind": "http", "path": "/a\r\nX: y"}, "is no path"),
        ({"kind": "http", "status": [20]}, "status"),
        ({"kind": "http", "ca": "/ca.pem"}, "for https"),
        ({"kind": "http", "headers": {"X Y": "/k"}}, "is no header"),
        ({"kind": "http", "headers": {"Host": "/k"}}, "is no header"),
        ({"kind": "http", "headers": {"X-Key": "the secret itself"}}, "no absolute path"),
        ({"kind": "command", "command": []}, "command"),
        ({"kind": "command", "command": "/bin/true"}, "command"),
        ({"kind": "command", "command": ["true"]}, "absolute path"),
        ({"kind": "command", "command": ["/bin/true", "{adress}"]}, "unknown placeholder {adress}"),
        ({"kind": "command", "command": ["/bin/true", "{port}"]}, "need the probe's port"),
    ],
)
def test_a_probe_that_makes_no_sense_is_refused(tmp_path: Path, probe: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as caught:
        estate_with(tmp_path, probe)
    assert "policies.lab.probes.0" in caught.value.message
    assert words in caught.value.message


def test_what_was_asked_in_words() -> None:
    result = ProbeResult("fd00::1", 443, True, "", "", ProbeKind.HTTP)
    assert result.what == "http [fd00::1]:443"
    assert ProbeResult("10.0.0.1", 22, True, "", "").what == "10.0.0.1:22"
    assert ProbeResult("10.0.0.1", 0, True, "", "", ProbeKind.ICMP).what == "icmp 10.0.0.1"
    assert os.linesep not in result.what
