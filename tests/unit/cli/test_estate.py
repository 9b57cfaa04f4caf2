"""`refloat apply` and `refloat export` against the real API and the real estate, with a hub in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from refloat.access import Role
from refloat.cli import exits
from tests.unit.api.fake_hub import ESTATE, FakeHub
from tests.unit.cli.test_commands import Cli


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


@pytest.fixture
def cli(hub: FakeHub) -> Cli:
    return Cli(hub)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As the hub has it, with a comment."""
    file = tmp_path / "estate.yaml"
    file.write_text("# of our own\n" + yaml.safe_dump(ESTATE, sort_keys=False))
    return file


def with_rpo(file: Path, rpo: int) -> str:
    data: Any = yaml.safe_load(file.read_text())
    data["policies"]["gold"]["rpo"] = rpo
    file.write_text("# of our own\n" + yaml.safe_dump(data, sort_keys=False))
    return str(file)


def test_the_same_changes_nothing(cli: Cli, hub: FakeHub, file: Path) -> None:
    for options in ([], ["--dry-run"], ["--yes"]):
        done = cli("apply", str(file), *options)
        assert done.exit_code == 0 and "nothing changes" in done.stdout
    assert not hub.taken and cli("estate", "versions").stdout == "no version yet\n"


def test_differences_then_a_question_then_a_version(cli: Cli, hub: FakeHub, file: Path) -> None:
    wanted = with_rpo(file, 60)
    shown = cli("apply", wanted, "--dry-run")
    assert shown.exit_code == 0 and "changed policy gold\n    rpo: (nothing) -> 60\n" in shown.stdout
    assert cli("apply", wanted).exit_code == exits.REFUSED, "there is nobody to ask"
    assert cli("apply", wanted, answer="n\n").exit_code == exits.REFUSED and not hub.taken
    done = cli("apply", wanted, "--reason", "an aim", answer="y\n")
    assert done.exit_code == 0 and "version 1 of the estate is in use" in done.stdout
    assert hub.taken[-1].policy("gold").rpo == 60
    (entry,) = hub.audit.entries(subject="estate-1")
    assert entry.what == "estate-apply" and entry.who.startswith("local (") and entry.reason == "an aim"
    assert "nothing changes" in cli("apply", wanted, "--yes").stdout and len(hub.taken) == 1


def test_what_is_exported_is_what_was_written(cli: Cli, file: Path) -> None:
    cli("apply", with_rpo(file, 60), "--yes")
    exported = cli("export")
    assert exported.stdout == file.read_text() and "version 1" in exported.stderr
    again = cli("apply", "-", "--yes", answer=exported.stdout)
    assert again.exit_code == 0 and "nothing changes" in again.stdout


def test_an_earlier_one_is_applied_again(cli: Cli, hub: FakeHub, file: Path) -> None:
    for rpo in (60, 90):
        assert cli("apply", with_rpo(file, rpo), "--yes").exit_code == 0
    done = cli("apply", "--version", "1", "--yes")
    assert done.exit_code == 0 and "rpo: 90 -> 60" in done.stdout and hub.taken[-1].policy("gold").rpo == 60
    listed = cli("estate", "versions")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["VERSION", "3", "2", "1"]
    assert "version 1 again" in listed.stdout
    assert "rpo: 90" in cli("export", "--version", "2").stdout
    unknown = cli("export", "--version", "9")
    assert unknown.exit_code == exits.REFUSED and "[unknown_version]" in unknown.stderr


def test_everything_wrong_is_said_with_its_line(cli: Cli, file: Path) -> None:
    data: Any = yaml.safe_load(file.read_text())
    data["policies"]["gold"]["mcas"] = "keep"
    data["targets"]["web"]["site"] = "moon\x1b]0;owned\x07"
    text = yaml.safe_dump(data, sort_keys=False)
    file.write_text(text)
    refused = cli("apply", str(file), "--yes")
    assert refused.exit_code == exits.USAGE
    lines = refused.stderr.splitlines()
    assert lines[0] == "refloat: 3 things are in the way [bad_estate]"
    line_of = {word: number for number, line in enumerate(text.splitlines(), 1) for word in line.split()[:1]}
    assert lines[1].startswith(f"  {file}:{line_of['mcas:']}: policies.gold.mcas: ")
    assert all("targets.web.site" in line for line in lines[2:4]) and "\x1b" not in refused.stderr
    assert lines[-1].startswith("  what to do: ")


@pytest.mark.parametrize(
    ("content", "words"), [(b"\xff", "no UTF-8"), (b"a" * (1 << 20) + b"a", "more than")]
)
def test_a_file_that_is_no_estate(cli: Cli, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "e").write_bytes(content)
    refused = cli("apply", str(tmp_path / "e"), "--yes")
    assert refused.exit_code == exits.USAGE and words in refused.stderr
    assert cli("apply", str(tmp_path / "none")).exit_code == exits.USAGE
    assert cli("apply").exit_code == exits.USAGE


def test_facts_for_programs(cli: Cli, file: Path) -> None:
    wanted = with_rpo(file, 60)
    told = json.loads(cli("apply", wanted, "--dry-run", "--json").stdout)
    assert told["base"] == 0 and told["changes"][0]["fields"] == [{"field": "rpo", "old": "", "new": "60"}]
    done = json.loads(cli("apply", wanted, "--yes", "--json").stdout)
    assert done["number"] == 1 and done["changes"] == told["changes"]
    assert json.loads(cli("export", "--json").stdout)["number"] == 1
    assert [one["number"] for one in json.loads(cli("estate", "versions", "--json").stdout)] == [1]


def test_an_operator_may_list_versions_and_no_more(cli: Cli, hub: FakeHub, file: Path) -> None:
    hub.people.add_user("anna", Role.OPERATOR)
    _, token = hub.people.issue_token("anna", "for tests", days=1)
    assert cli("estate", "versions", token=token).exit_code == 0
    for command in (["apply", with_rpo(file, 60), "--yes"], ["export"]):
        refused = cli(*command, token=token)
        assert refused.exit_code == exits.REFUSED and "[forbidden]" in refused.stderr
    assert not hub.taken
