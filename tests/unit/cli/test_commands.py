"""The commands against the real API and a hub in memory: what they print, and how they exit."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from refloat.api.app import create_app
from refloat.cli.common import Session
from refloat.cli.main import app
from refloat.model import Mode, TargetState
from refloat.store.store import Attempt, StepRecord
from tests.unit.api.fake_hub import TOKEN, FakeHub

URL = "http://127.0.0.1:8410"
ESCAPE = "\x1b]0;owned\x07[red]bold[/red]\u202e"


class InProcess(httpx.BaseTransport):
    """Hands requests to the ASGI app; `down` times it first behaves like a hub that is away."""

    def __init__(self, hub: FakeHub) -> None:
        self.client = TestClient(create_app(hub.hub, TOKEN), base_url=URL, raise_server_exceptions=False)
        self.down = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            self.down -= 1
            raise httpx.ConnectError("connection refused", request=request)
        answer = self.client.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers)
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


class Cli:
    """`answer` is what the operator types at the terminal; None: there is no terminal."""

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        self.transport = InProcess(hub)

    def __call__(self, *args: str, answer: str | None = None, token: str = TOKEN) -> Result:
        session = Session(self.transport, interactive=lambda: answer is not None, pause=0, patience=2)
        return CliRunner().invoke(
            app, args, obj=session, input=answer, env={"REFLOAT_URL": URL, "REFLOAT_TOKEN": token}
        )


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def cli(hub: FakeHub) -> Cli:
    return Cli(hub)


def facts(result: Result) -> Any:
    """The JSON on stdout: all of it has to be JSON."""
    return json.loads(result.stdout)


# ---------------------------------------------------------------- facts


def test_targets(cli: Cli) -> None:
    listed = cli("target", "list")
    assert (
        listed.exit_code == 0 and "web" in listed.stdout and "1 min 01 s (aim: 5 min 00 s)" in listed.stdout
    )
    assert facts(cli("target", "list", "--json"))[0]["name"] == "web"
    assert facts(cli("target", "show", "web", "--json"))["state"] == "ready"
    shown = cli("target", "show", "web").stdout
    assert "sync point:" in shown and "4 KiB transferred" in shown and "not looked at" in shown
    assert "paused" in cli("target", "pause", "web").stdout
    assert facts(cli("target", "show", "web", "--json"))["paused"]
    assert "goes on" in cli("target", "resume", "web").stdout


def test_jobs(cli: Cli, hub: FakeHub) -> None:
    assert cli("job", "list").stdout == "no jobs yet\n"
    job_id = hub.run_job("partial")
    assert job_id in cli("job", "list").stdout
    shown = cli("job", "show", job_id)
    for text in (
        "needs virtio",
        "preflight",
        "2.0 s",
        "verdict: partial",
        "guest: root is /dev/vda1",
        "next: ",
        "remediation in the guest: awaiting reboot since 2026-03-01 10:04:02 UTC (report 3)",
        '  2026-03-01 10:04:01 screen: login: "web login:"',
    ):
        assert text in shown.stdout
    assert facts(cli("job", "show", job_id, "--json"))["verdict"]["word"] == "partial"


def test_a_job_shows_every_attempt_at_a_step(cli: Cli, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    at = "2026-03-01T10:00:0{}.000+00:00"
    history = (
        Attempt(1, at.format(0), at.format(2), {"code": "sabotage", "message": f"the pool is away{ESCAPE}"}),
        Attempt(2, at.format(3), "", None),
        Attempt(3, at.format(5), at.format(6), None),
    )
    step = StepRecord("snapshot-disks", "undo", at.format(0), at.format(6), 3, None, history)
    monkeypatch.setattr(hub, "steps", lambda job_id: [step])
    job_id = hub.run_job()
    lines = [" ".join(line.split()) for line in cli("job", "show", job_id).stdout.splitlines()]
    start = lines.index("snapshot-disks undo 10:00:00 6.0 s done, 3 attempts")
    assert lines[start + 1].startswith("attempt 1 undo 10:00:00 2.0 s failed: the pool is away")
    assert lines[start + 2] == "attempt 2 undo 10:00:03 interrupted"
    assert "\x1b" not in "".join(lines)
    shown = facts(cli("job", "show", job_id, "--json"))["steps"][0]["history"]
    assert [one["number"] for one in shown] == [1, 2, 3] and shown[0]["error"]["code"] == "sabotage"


def test_version(cli: Cli) -> None:
    assert cli("version").stdout.startswith("refloat ")
    assert set(facts(cli("version", "--json"))) == {"version"}


def test_secrets(cli: Cli, hub: FakeHub) -> None:
    assert cli("secret", "set", "cloud-key", answer="hush\nhush\n").exit_code == 0
    assert hub.vault.read("cloud-key") == "hush"
    hub.used["cloud-key"] = ["recovery"]
    shown = cli("secret", "list")
    assert "cloud-key" in shown.stdout and "recovery" in shown.stdout and "hush" not in shown.output
    refused = cli("secret", "remove", "cloud-key")
    assert refused.exit_code == 3 and "used by recovery" in refused.stderr
    hub.used.clear()
    assert cli("secret", "remove", "cloud-key").exit_code == 0
    assert json.loads(cli("secret", "list", "--json").stdout) == []
    recorded = [(one.what, one.subject) for one in hub.audit.entries()]
    assert recorded[:2] == [("secret-remove", "cloud-key"), ("secret-set", "cloud-key")]
    assert "hush" not in str(hub.audit.entries())


def test_a_secret_from_standard_input(cli: Cli, hub: FakeHub) -> None:
    transport = Session(cli.transport, interactive=lambda: False)
    environment = {"REFLOAT_URL": URL, "REFLOAT_TOKEN": TOKEN}
    for given, kept in (("one line\n", "one line"), ("two\nlines\n", "two\nlines")):
        done = CliRunner().invoke(app, ["secret", "set", "key"], obj=transport, input=given, env=environment)
        assert done.exit_code == 0 and hub.vault.read("key") == kept
    done = CliRunner().invoke(app, ["secret", "set", "key"], obj=transport, input="", env=environment)
    assert done.exit_code == 2 and hub.vault.read("key") == "two\nlines"


def test_a_new_key(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "refloat.yaml"
    settings.write_text(f"data_dir: {tmp_path}\n")
    monkeypatch.setenv("REFLOAT_CONFIG", str(settings))
    for lines in (1, 2):
        assert cli("secret", "new-key").exit_code == 0
        assert len((tmp_path / "seal.key").read_text().splitlines()) == lines


def test_sync(cli: Cli, hub: FakeHub) -> None:
    done = cli("target", "sync", "web")
    assert done.exit_code == 0 and "web is ready" in done.stdout
    hub.at_sync = "the source died"
    failed = cli("target", "sync", "web", "--json")
    assert failed.exit_code == 1 and "the source died" in failed.stderr
    assert facts(failed)["message"] == "the source died"
    assert "started" in cli("target", "sync", "web", "--no-watch").stdout


def test_add_and_remove(cli: Cli, hub: FakeHub) -> None:
    done = cli("target", "add", "web")
    assert done.exit_code == 0 and "web is ready" in done.stdout
    for answer in ("n\n", None):
        kept = cli("target", "remove", "web", answer=answer)
        assert kept.exit_code == 3 and hub.known["web"].sync_point is not None
    gone = cli("target", "remove", "web", "--yes")
    assert gone.exit_code == 0 and "web are gone" in gone.stdout
    hub.at_sync = "the pool is full; these stay: volume x"
    for command in (["add"], ["remove", "--yes"]):
        failed = cli("target", command[0], "web", *command[1:], "--json")
        assert failed.exit_code == 1 and "the pool is full" in failed.stderr
        assert facts(failed)["message"] == hub.at_sync


def test_sync_shows_bytes(cli: Cli, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = replace(
        hub.known["web"],
        state=TargetState.SYNCING,
        progress={"phase": "copying", "disk": "sda", "bytes_done": 2**20, "bytes_total": 2**22},
    )
    seen = iter([hub.known["web"], hub.known["web"], busy, hub.known["web"]])
    monkeypatch.setattr(hub, "target", lambda name: next(seen))
    monkeypatch.setattr(hub, "start_sync", lambda name, full, by: None)
    assert "copying, sda, 1 MiB of 4 MiB (25%)" in cli("target", "sync", "web").stderr


# ---------------------------------------------------------------- watching and exit codes


@pytest.mark.parametrize(
    ("word", "state", "code"),
    [
        ("succeeded", "awaiting_commit", 0),
        ("partial", "awaiting_commit", 4),
        ("failed", "awaiting_commit", 5),
        ("succeeded", "committed", 0),
        ("succeeded", "rolled_back", 5),
        (None, "rolled_back", 5),
        (None, "blocked", 5),
        (None, "refused", 3),
    ],
)
def test_watch_exits_by_what_was_found(
    cli: Cli, hub: FakeHub, word: str | None, state: str, code: int
) -> None:
    result = cli("job", "watch", hub.run_job(word, state))
    assert result.exit_code == code
    assert f"job web-abc123 is {state}" in result.stdout
    assert "preflight done (2.0 s)" in result.stdout
    assert "512 B of 1 KiB (50%)" in result.stdout


def test_watch_with_json_keeps_stdout_clean(cli: Cli, hub: FakeHub) -> None:
    result = cli("job", "watch", hub.run_job(), "--json")
    assert facts(result)["state"] == "awaiting_commit" and "preflight" in result.stderr


def test_watch_survives_a_restart_of_the_hub(cli: Cli, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refloat.cli.watch._RETRY", 0)
    job_id = hub.run_job()
    real = hub.events

    def events(job: str, after: int = 0) -> Any:
        cli.transport.down = 2 if after == 3 else 0  # the next two calls do not get through
        return real(job, after)

    monkeypatch.setattr(hub, "events", events)
    result = cli("job", "watch", job_id)
    assert result.exit_code == 0 and result.stdout.count("trying again") == 1


def test_ctrl_c_ends_the_watching_only(cli: Cli, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("refloat.cli.watch.follow", interrupt)
    result = cli("job", "watch", hub.run_job())
    assert result.exit_code == 130 and "the job goes on" in result.stderr and not hub.calls


def test_failover(cli: Cli, hub: FakeHub) -> None:
    result = cli("failover", "start", "web", "--mode", "planned")
    assert result.exit_code == 0 and "refloat job watch web-abc123" in result.stdout
    assert facts(cli("failover", "start", "web", "--mode", "planned", "--json"))["id"] == "web-abc123"


@pytest.mark.parametrize(("word", "code"), [("succeeded", 0), ("failed", 5), (None, 5)])
def test_failover_with_evidence_ends_with_its_line(
    cli: Cli, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str | None, code: int
) -> None:
    state = "awaiting_commit" if word else "rolled_back"
    start = hub.start_failover

    def finished(target: str, mode: Mode, override: Any, by: str, key: str) -> Any:
        monkeypatch.setattr(hub, "start_failover", start)
        return hub.job(hub.run_job(word, state))

    monkeypatch.setattr(hub, "start_failover", finished)
    folder = tmp_path / "deep" / "evidence"
    result = cli("failover", "start", "web", "--mode", "planned", "--evidence", str(folder))
    assert result.exit_code == code
    assert result.stdout.splitlines()[-1] == f"verdict: {word or 'none'}  evidence: {folder}"
    assert json.loads((folder / "evidence.json").read_text())["format"] == "refloat-evidence/1"
    assert (folder / "evidence.html").read_text().lstrip().startswith("<!doctype html>")


def test_evidence(cli: Cli, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job_id = hub.run_job()
    assert cli("job", "evidence", job_id).stdout.strip() == str(tmp_path / f"evidence-{job_id}")
    assert set(facts(cli("job", "evidence", job_id, "-o", "other", "--json"))) == {"json", "html"}
    (tmp_path / "file").write_text("")
    refused = cli("job", "evidence", job_id, "-o", "file/below")
    assert refused.exit_code == 1 and "cannot write" in refused.stderr


# ---------------------------------------------------------------- decisions


def test_commit_asks(cli: Cli, hub: FakeHub) -> None:
    job_id = hub.run_job()
    alone = cli("job", "commit", job_id)
    assert alone.exit_code == 3 and "--yes" in alone.stderr and not hub.calls
    assert cli("job", "commit", job_id, answer="n\n").exit_code == 3 and not hub.calls
    assert cli("job", "commit", job_id, "--reason", "fine", answer="y\n").exit_code == 0
    assert hub.calls[0][0] == "commit" and hub.calls[0][1] != "unknown" and hub.calls[0][2] == "fine"
    assert facts(cli("job", "commit", job_id, "--yes", "--json"))["id"] == job_id


def test_rollback_needs_the_acknowledgement(cli: Cli, hub: FakeHub) -> None:
    job_id = hub.run_job()
    alone = cli("job", "rollback", job_id)
    assert alone.exit_code == 3 and "--discard-writes" in alone.stderr and not hub.calls
    assert cli("job", "rollback", job_id, answer="y\n").exit_code == 0
    assert cli("job", "rollback", job_id, "--discard-writes").exit_code == 0
    assert [call[0] for call in hub.calls] == ["rollback", "rollback"]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("commit", "--yes"), 0),
        (("rollback", "--discard-writes"), 0),
        (("abort",), 0),
        (("resume",), 5),  # this hub's job ends blocked again
    ],
)
def test_watching_a_decision(cli: Cli, hub: FakeHub, args: tuple[str, ...], code: int) -> None:
    """The state before the decision is a resting one: it must not end the watching."""
    hub.run_job()
    result = cli("job", args[0], "web-abc123", *args[1:], "--watch")
    assert result.exit_code == code
    assert "awaiting_commit" not in result.stdout  # nothing old is shown


# ---------------------------------------------------------------- errors


def test_errors_have_their_codes(cli: Cli, hub: FakeHub) -> None:
    unknown = cli("target", "show", "nope")
    assert unknown.exit_code == 3 and unknown.stdout == ""
    assert unknown.stderr == "refloat: unknown target: nope [unknown_target]\n  what to do: list them\n"
    assert cli("failover", "start", "web", "--mode", "test", "--source-is-off", "so").exit_code == 3
    assert cli("failover", "start", "web", "--mode", "sideways").exit_code == 2
    assert cli("failover", "start", "web").exit_code == 2
    assert cli("job", "show", "../targets").exit_code in (2, 3)
    assert cli("target", "list", token="wrong").exit_code == 3
    hub.crash = True
    logging.disable(logging.CRITICAL)
    crashed = cli("target", "list")
    logging.disable(logging.NOTSET)
    assert crashed.exit_code == 1 and "internal error" in crashed.stderr


def test_unreachable_hub(cli: Cli) -> None:
    cli.transport.down = 1
    result = cli("target", "list")
    assert result.exit_code == 6 and "refloat serve" in result.stderr


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"\xff"])
def test_something_else_answers(cli: Cli, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    reply = httpx.Response(502, content=answer)
    monkeypatch.setattr(cli.transport, "handle_request", lambda request: reply)
    result = cli("target", "list")
    assert result.exit_code == 1 and "is no Refloat hub" in result.stderr


def test_missing_token_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLOAT_DATA_DIR", str(tmp_path))
    result = cli("target", "list", token="")
    assert result.exit_code == 3 and str(tmp_path / "api-token") in result.stderr


# ---------------------------------------------------------------- hostile text


def test_hostile_text_cannot_reach_the_terminal(cli: Cli, hub: FakeHub) -> None:
    job_id = hub.run_job("failed")
    assert hub.verdict
    hub.verdict["reasons"] = [ESCAPE]
    hub.verdict["facets"][0]["proofs"] = [{"observer": "guest", "holds": False, "text": ESCAPE}]
    hub.happen("progress", message=ESCAPE)
    hub.known["web"] = replace(hub.known["web"], message=ESCAPE)
    for args in (("job", "show", job_id), ("job", "watch", job_id), ("target", "show", "web")):
        result = cli(*args)
        assert "[red]bold[/red]" in result.output
        assert not set("\x1b\x07\u202e") & set(result.output)
    raw = cli("job", "show", job_id, "--json").stdout
    assert "\x1b" not in raw and json.loads(raw)["verdict"]["reasons"] == [ESCAPE]


def test_backup_and_restore_say_what_is_wrong(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "refloat.yaml"
    settings.write_text(f"data_dir: {tmp_path / 'hub'}\n")
    monkeypatch.setenv("REFLOAT_CONFIG", str(settings))
    done = cli("backup", str(tmp_path / "file"))
    assert done.exit_code == 3 and "no store of a hub" in done.stderr
    for args, said in (
        (("restore", str(tmp_path / "none")), "cannot be restored"),
        (("restore", str(tmp_path / "none"), "--ended", "web-1=vanished"), "rolled_back"),
    ):
        done = cli(*args)
        assert done.exit_code in (2, 3) and said in done.stderr, done.stderr
    assert not (tmp_path / "hub").exists() and not (tmp_path / "file").exists()
